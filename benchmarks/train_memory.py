"""Peak memory of loading and training on many samples, in an empty process.

    python benchmarks/train_memory.py [--quick]

10 million samples in DuckDB with histories of 20, 100,000 users, 50,000 items, 20,000 examples and K = 4 matches each,
read as `train-rec` reads them; then 20 batches of 512 of DeepFM with `ict` under `rec.fit.fit`, whose order of samples
is a permutation of them all. Memory beyond the samples grows with the batch, so a full epoch would only take longer.
--quick: 3 and 5 million samples, and the line through both at 10 million. The ratio reported is 6 GiB to the peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.store.open import open_lance
from llmcf_cli.store.tables import FEATURE

SAMPLES, LIMIT, TARGET = 10_000_000, 6.0, 1.0
USERS, ITEMS, EXAMPLES, TEXT, K, LENGTH = 100_000, 50_000, 20_000, 384, 4, 20
BLOCK, BATCHES = 500_000, 20


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 and 5 million samples, extrapolated")
    parser.add_argument("--train", metavar="FOLDER", help="the measured process: train on what is there")
    options = parser.parse_args()
    if options.train:
        train(Path(options.train))
        return
    sizes = (3_000_000, 5_000_000) if options.quick else (SAMPLES,)
    peaks = [measure(size) for size in sizes]
    peak = line(sizes, peaks) if options.quick else peaks[0]

    print(f"{'samples':>12}{'peak GiB':>10}")
    for size, value in zip(sizes, peaks, strict=True):
        print(f"{size:>12,}{value:>10.2f}")
    if options.quick:
        print(f"{SAMPLES:>12,}{peak:>10.2f}  extrapolated")
    ratio = LIMIT / peak
    detail = {
        "peak_gib": round(peak, 2), "limit_gib": LIMIT, "extrapolated": options.quick,
        "measured_gib": {str(size): round(value, 2) for size, value in zip(sizes, peaks, strict=True)},
    }  # fmt: skip
    result = {"name": "train_memory", "ratio": round(ratio, 2), "target": TARGET, "ok": ratio >= TARGET}
    print(json.dumps({**result, "detail": detail}))
    sys.exit(0 if ratio >= TARGET else 1)


def line(sizes: tuple[int, ...], peaks: list[float]) -> float:
    """The straight line through two measurements, at `SAMPLES`."""
    slope = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    return peaks[0] + slope * (SAMPLES - sizes[0])


def measure(size: int) -> float:
    """Peak memory in GiB of a process that trains on `size` samples."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), size)
        command = [sys.executable, __file__, "--train", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def train(folder: Path) -> None:
    """Load, train for 20 batches, print the peak in GiB."""
    from llmcf_cli.rec.config import BCEConfig, CoTReconstructionConfig, DeepFMConfig, ICTConfig, RankingConfig
    from llmcf_cli.rec.input.config import ExamplesInputConfig, TextInputConfig
    from llmcf_cli.rec.input.dataset import load_task_data
    from llmcf_cli.rec.model import RecModel
    from llmcf_cli.rec.tasks.ranking import Ranking
    from llmcf_cli.rec.train.fit import fit
    from llmcf_cli.recipe.sections import FitSection

    folders = {stage: folder / stage for stage in ("embed", "examples", "match")}
    data = load_task_data(
        folder / "data.duckdb", Ranking(RankingConfig()), history_length=LENGTH,
        inputs=[TextInputConfig(), ExamplesInputConfig()], folders=folders,
    )  # fmt: skip
    model = RecModel(data.resources, DeepFMConfig(), ICTConfig(), (BCEConfig(), CoTReconstructionConfig()))
    try:
        fit(model, data, FitSection(batch_size=512, epochs=1), seed=0, work=folder / "work", progress=Few())
    except EnoughError:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


class EnoughError(Exception):
    """As many batches as wanted are done."""


class Few:
    """A progress that ends the fit after `BATCHES` batches."""

    def __init__(self) -> None:
        self.left = BATCHES

    @contextmanager
    def task(self, *args: object) -> Iterator[Few]:
        """The only task is the fit."""
        yield self

    def advance(self, amount: float = 1) -> None:
        """A batch is done."""
        self.left -= 1
        if not self.left:
            raise EnoughError

    def measured(self, step: int, values: object) -> None:
        """Nobody reads it."""

    def note(self, text: str) -> None:
        """Nobody reads it."""

    def say(self, text: str) -> None:
        """Nobody reads it."""


def write(folder: Path, size: int) -> None:
    """The tables that ingest, embed and match leave, block by block."""
    rng = np.random.default_rng(20240)
    chosen_E = np.sort(rng.choice(int(size * 0.9), EXAMPLES, replace=False))
    rows = []
    with duckdb.connect(str(folder / "data.duckdb")) as connection:
        names = {"user": USERS, "item": ITEMS}
        for entity, count in names.items():
            connection.execute(
                f'CREATE TABLE "{entity}" AS SELECT (i + 1)::INTEGER {entity}_row, i::VARCHAR {entity}_id, '
                f"'' AS text, (i % 50)::VARCHAR AS kind FROM range({count}) t(i)"
            )
        connection.execute(
            "CREATE TABLE sample (sample_id BIGINT, user_row INTEGER, item_row INTEGER, label TINYINT, time BIGINT, "
            "split VARCHAR, history INTEGER[])"
        )
        connection.execute(FEATURE.ddl())
        connection.execute("CREATE TABLE history (user_row INTEGER, items INTEGER[], times BIGINT[])")
        connection.execute(f"INSERT INTO history SELECT i + 1, [], [] FROM range({USERS}) t(i)")
        for stage in ("embed", "examples", "match"):
            (folder / stage).mkdir()
        found = folder / "match" / "example_match.parquet"
        with pq.ParquetWriter(found, matches(rng, np.arange(1), chosen_E).schema) as writer:
            for start in range(0, size, BLOCK):
                id_N = np.arange(start, min(start + BLOCK, size))
                block = samples(rng, id_N, size)
                connection.execute("INSERT INTO sample FROM block")
                writer.write_table(matches(rng, id_N, chosen_E))
                rows.append(block.take(pa.array(chosen_E[(chosen_E >= start) & (chosen_E < start + BLOCK)] - start)))
    texts = pa.table({"item_row": np.arange(1, ITEMS + 1), "vector": unit(rng, ITEMS, TEXT)})
    open_lance(folder / "embed" / "lance").create_table("item_text", texts)
    examples = pa.concat_tables(rows).append_column("cot_vector", unit(rng, EXAMPLES, TEXT))
    examples = examples.append_column("vector", unit(rng, EXAMPLES, 2 * TEXT))
    open_lance(folder / "examples" / "lance").create_table("cot_example", examples)


def samples(rng: np.random.Generator, id_N: np.ndarray, size: int) -> pa.Table:
    """Nine of ten are train samples, the last tenth is for validation."""
    count = len(id_N)
    history_NL = rng.integers(1, ITEMS + 1, (count, LENGTH), dtype=np.int32)
    offset_N = np.arange(0, count * LENGTH + 1, LENGTH, dtype=np.int32)
    return pa.table({
        "sample_id": id_N, "user_row": rng.integers(1, USERS + 1, count, dtype=np.int32),
        "item_row": rng.integers(1, ITEMS + 1, count, dtype=np.int32),
        "label": rng.integers(0, 2, count, dtype=np.int8), "time": id_N,
        "split": pa.array(np.where(id_N < size * 0.9, "train", "validation")),
        "history": pa.ListArray.from_arrays(offset_N, history_NL.reshape(-1)),
    })  # fmt: skip


def matches(rng: np.random.Generator, id_N: np.ndarray, chosen_E: np.ndarray) -> pa.Table:
    """K random examples of each sample."""
    example_NK = chosen_E[rng.integers(0, EXAMPLES, (len(id_N), K))]
    score_NK = np.full(len(id_N) * K, 0.5, np.float32)
    return pa.table({
        "sample_id": id_N, "example_sample_id": pa.FixedSizeListArray.from_arrays(example_NK.reshape(-1), K),
        "score": pa.FixedSizeListArray.from_arrays(score_NK, K),
    })  # fmt: skip


def unit(rng: np.random.Generator, count: int, dim: int) -> pa.Array:
    """Random unit vectors."""
    vector_ND = rng.standard_normal((count, dim), dtype=np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return pa.FixedSizeListArray.from_arrays(vector_ND.reshape(-1), dim)


if __name__ == "__main__":
    main()
