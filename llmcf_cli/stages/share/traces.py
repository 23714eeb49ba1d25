"""What the stages of a run made, in a few hundred bytes each: enough to say elsewhere where numbers part.

Rows are divided into 16 parts by their id, and each part has a digest, so that a comparison tells a rounding that
touches everything from a row that is missing. Legend: N rows, D numbers of a vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcf_cli.data.output import IngestOutput
from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.stages.engine.base import Node
from llmcf_cli.stages.share.lock import Trace
from llmcf_cli.stages.steps.embed import EmbedOutput, ExamplesOutput
from llmcf_cli.stages.steps.knowledge import KnowledgeOutput
from llmcf_cli.stages.steps.match import MatchOutput
from llmcf_cli.stages.steps.predict import PredictOutput
from llmcf_cli.stages.steps.train_rec import TrainRecOutput
from llmcf_cli.store.open import connect_read, read_lance, read_parquet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PARTS = 16
_SHOWN_ROWS = 8
_SHOWN_NUMBERS = 4
_ROWS = """
SELECT part, count(*), bit_xor((md5_number(row) & 18446744073709551615::UHUGEINT)::UBIGINT)
FROM (SELECT (hash_id % 16)::INT AS part, row FROM ({rows})) GROUP BY part
"""
_DATA = """
SELECT sample_id AS hash_id, concat_ws('|', sample_id, u.user_id, i.item_id, label, time, split,
       history::VARCHAR, u.text, i.text) AS row
FROM sample JOIN "user" u USING (user_row) JOIN item i USING (item_row)
"""
_TEXTS = "SELECT sample_id AS hash_id, concat_ws('|', sample_id, text) AS row FROM read_parquet($file)"
_KNOWLEDGE = "SELECT row AS hash_id, concat_ws('|', entity, row, as_of, text) AS row FROM read_parquet($file)"
_MATCHES = """
SELECT sample_id AS hash_id, concat_ws('|', sample_id, example_sample_id::VARCHAR) AS row FROM read_parquet($file)
"""


def trace_of(node: Node) -> Trace | None:
    """The trace of a stage that is made; None of a stage that has none.

    Raises:
        StoreError: The result is damaged.
    """
    make = _MAKERS.get(node.stage.name)
    if make is None:
        return None
    node.check()
    return make(node.folder)


def _data(folder: Path) -> Trace:
    with connect_read(IngestOutput(folder).database) as connection:
        return _of_rows("data", connection, _DATA)


def _cots(folder: Path) -> Trace:
    return _of_file("texts", CoTOutput(folder).cots, _TEXTS)


def _knowledge(folder: Path) -> Trace:
    return _of_file("texts", KnowledgeOutput(folder).texts, _KNOWLEDGE)


def _matches(folder: Path) -> Trace:
    return _of_file("matches", MatchOutput(folder).matches, _MATCHES)


def _of_file(aspect: Any, file: Path, query: str) -> Trace:
    import duckdb

    with duckdb.connect() as connection:
        return _of_rows(aspect, connection, query, {"file": str(file)})


def _of_rows(aspect: Any, connection: Any, query: str, values: dict[str, str] | None = None) -> Trace:
    found = connection.execute(_ROWS.format(rows=query), values or {}).fetchall()
    digests = {part: (count, bits) for part, count, bits in found}
    parts = "".join(f"{digests.get(part, (0, 0))[1]:016x}" for part in range(PARTS))
    return Trace(aspect=aspect, rows=sum(count for count, _ in digests.values()), parts=parts)


def _item_vectors(folder: Path) -> Trace:
    return _of_vectors(EmbedOutput(folder).lance, "item_text", "item_row", "vector")


def _example_vectors(folder: Path) -> Trace:
    return _of_vectors(ExamplesOutput(folder).lance, "cot_example", "sample_id", "cot_vector")


def _of_vectors(place: Path, table: str, key: str, column: str) -> Trace:
    import numpy as np

    data = read_lance(place, table, [key, column]).sort_by(key).combine_chunks()
    id_N = data[key].to_numpy().astype(np.int64)
    flat = data[column].combine_chunks()
    vector_ND = flat.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(id_N), -1)
    return Trace(
        aspect="vectors", rows=len(id_N), parts=_digests(id_N, vector_ND),
        numbers=tuple(map(float, _some(vector_ND)[:, :_SHOWN_NUMBERS].reshape(-1))),
    )  # fmt: skip


def _predictions(folder: Path) -> Trace:
    import numpy as np

    table = read_parquet(PredictOutput(folder).predictions).sort_by("sample_id")
    id_N = table["sample_id"].to_numpy()
    value_N = table[table.column_names[-1]].to_numpy().astype(np.float32)
    step = max(1, len(value_N) // (_SHOWN_ROWS * _SHOWN_NUMBERS))
    numbers = value_N[::step][: _SHOWN_ROWS * _SHOWN_NUMBERS]
    return Trace(
        aspect="predictions", rows=len(id_N), parts=_digests(id_N, value_N[:, None]),
        numbers=tuple(map(float, numbers)),
    )  # fmt: skip


def _weights(folder: Path) -> Trace:
    """Tensors in the order of their names take the place of rows; the numbers are their norms."""
    import numpy as np
    from safetensors.numpy import load_file

    tensors = load_file(TrainRecOutput(folder).bundle / "weights.safetensors")
    hashes = [hashlib.sha256() for _ in range(PARTS)]
    for place, name in enumerate(sorted(tensors)):
        hashes[place % PARTS].update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    norms = [float(np.linalg.norm(tensors[name].astype(np.float64))) for name in sorted(tensors)]
    return Trace(
        aspect="weights", rows=sum(tensor.size for tensor in tensors.values()),
        parts="".join(one.hexdigest()[:16] for one in hashes), numbers=tuple(norms[:32]),
    )  # fmt: skip


def _some(vector_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """A few rows, evenly spaced."""
    import numpy as np

    places = np.linspace(0, len(vector_ND) - 1, min(_SHOWN_ROWS, len(vector_ND))).astype(int)
    some: NDArray[np.float32] = vector_ND[places]
    return some


def _digests(id_N: NDArray[np.int64], value_ND: NDArray[np.float32]) -> str:
    def parts() -> Iterator[str]:
        for part in range(PARTS):
            of = id_N % PARTS == part
            yield hashlib.sha256(id_N[of].astype("<i8").tobytes() + value_ND[of].astype("<f4").tobytes()).hexdigest()

    return "".join(one[:16] for one in parts())


_MAKERS: dict[str, Callable[[Path], Trace]] = {
    "ingest": _data, "gen-cot": _cots, "knowledge": _knowledge, "embed": _item_vectors, "examples": _example_vectors,
    "match": _matches, "train-rec": _weights, "predict": _predictions,
}  # fmt: skip
"""Stage → what makes its trace."""
