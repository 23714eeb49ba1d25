"""The retrieved examples of a row: the bank, which of it a row sees, and the search for those of a request.

Legend: N samples, B batch, L history, K examples of a row, E examples in the bank, U distinct ones of a batch, T text,
S search space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.core.types import Clock
from llmcf_cli.features.batch import Batch, Samples, encode_rows, joined
from llmcf_cli.features.vectors import vectors
from llmcf_cli.plugin import registry
from llmcf_cli.rec.input.base import Input, Loaded, Made, QueryLookup, Rows, tensor_table
from llmcf_cli.rec.input.config import ExamplesInputConfig
from llmcf_cli.rec.input.places import positions
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.input.stored import Stored, Storing, check_vectors, demand, within
from llmcf_cli.store.open import connect_read, read_lance, read_parquet

EXAMPLES = "examples"
TABLE, VECTORS = "examples.parquet", "examples.safetensors"
BLOCK = 8192
"""Examples whose vectors are looked up at once."""
_ROWS = "rows."
"""How arrays of values of examples begin."""


@dataclass(frozen=True)
class ExampleBank:
    """The in-context examples (x_i, cot_i, y_i).

    Attributes:
        samples: x_i and y_i.
        cot_ET: float32, vector of each chain of thought.
        k: Examples of a row.
        vector_ES: float32, what each is found by in the search space; None where nothing will search.
        rows: Name of an input whose values belong to a row itself → those of each example as a train row, [E, …].
    """

    samples: Samples
    cot_ET: NDArray[np.float32]
    k: int
    vector_ES: NDArray[np.float32] | None = None
    rows: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)


class Examples:
    """The examples of a batch, each distinct one once; what is known of these is looked up when it is first read.

    Attributes:
        index_U: int64 positions in the bank of the U distinct ones.
        slot_BK: Which of the U stands at place k of row b, best first.
        mask_BK: False where a row has fewer examples; the slot there means nothing.
        lists: Where rows are known to share lists of examples: slots and mask of the G lists, and int64 [B], which of
            them each row has.
    """

    def __init__(
        self, bank: ExampleLookup, embed: Callable[[Batch], Rows], index_U: Tensor, slot_BK: Tensor, mask_BK: Tensor,
        lists: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self._bank, self._embed = bank, embed
        self.index_U, self.slot_BK, self.mask_BK, self.lists = index_U, slot_BK, mask_BK, lists

    @cached_property
    def rows(self) -> Rows:
        """The U examples as rows, label-free."""
        return self._embed(self._bank.rows(self.index_U))

    @cached_property
    def cot_UT(self) -> Tensor:
        """Vectors of their chains of thought."""
        return self._bank.cot_ET[self.index_U]

    @cached_property
    def label_U(self) -> Tensor:
        """Their labels, int64."""
        return self._bank.label_E[self.index_U]


class RetrievedExamples(Input):
    """Holds `ExampleBank`. Values of rows: int32 [N, K], positions in it, best first, -1 where there are fewer."""

    files: ClassVar[tuple[str, ...]] = (TABLE, VECTORS)
    config: ExamplesInputConfig

    @property
    def repeatable(self) -> bool:
        """Not where the search is approximate: its index is built anew at each load."""
        return bool(registry().get("searcher", self.config.search.type).load().repeatable)

    def load(self, made: Made) -> Loaded:
        """Of the tables `cot_example` and `example_match`."""
        examples = read_lance(made.folders["examples"] / "lance", "cot_example")
        matches = read_parquet(made.folders["match"] / "example_match.parquet")
        if self.config.cot == "shuffled":
            examples = shuffle_cot(examples, self.config.seed)
        if self.config.cot == "mean":
            examples = mean_cot(examples)
        k = matches["example_sample_id"].type.list_size
        bank = _bank(examples, _train_rows(made, examples), k)
        return Loaded(bank, {split: _matches(matches, bank, samples) for split, samples in made.splits.items()})

    def lookup(self, resources: Resources) -> ExampleLookup:
        """`sizes`: `examples` is K, `cot` the length of a chain of thought's vector."""
        return ExampleLookup(resources.get(EXAMPLES))

    def settings(self, held: Any) -> ExamplesInputConfig:
        """With the bank's own K."""
        return self.config.model_copy(update={"k": held.k})

    def save(self, held: Any, out: Storing) -> None:
        """Rows as a table, vectors as arrays."""
        columns = {name.rsplit("_", 1)[0]: array for name, array in asdict(held.samples).items()}
        history_EL = columns.pop("history_row")
        history = pa.FixedSizeListArray.from_arrays(pa.array(history_EL.reshape(-1)), history_EL.shape[1])
        out.table(TABLE, pa.table({**columns, "history": history}))
        arrays = {"cot_ET": held.cot_ET, "vector_ES": held.vector_ES}
        arrays |= {f"{_ROWS}{name}": array for name, array in held.rows.items()}
        out.arrays(VECTORS, {name: array for name, array in arrays.items() if array is not None})

    def read(self, stored: Stored, resources: Resources) -> ExampleBank:
        """With histories as long as the fields'."""
        table, length = stored.table(TABLE), resources.spec.history_length
        if (width := table["history"].type.list_size) != length:
            what = f"histories of {width} items, but the spec has {length}"
            raise ModelError(what, code="bundle-unfit", where=str(stored.path(TABLE)))
        samples, arrays = encode_rows(table, length), stored.arrays(VECTORS)
        if len(arrays["cot_ET"]) != len(samples):
            what = f"{len(arrays['cot_ET'])} vectors for {len(samples)} examples"
            raise ModelError(what, code="bundle-unfit", where=str(stored.path(VECTORS)))
        rows = {name.removeprefix(_ROWS): array for name, array in arrays.items() if name.startswith(_ROWS)}
        return ExampleBank(samples, arrays["cot_ET"], self.config.k, arrays.get("vector_ES"), rows)

    def check(self, held: Any, resources: Resources, where: Path) -> None:
        """Rows of the catalogue, labels of 0 and 1, vectors of one length, moderate numbers."""
        rows, items = held.samples, len(resources.catalog.items.ids)
        demand(len(held) > 0, where, "examples")
        demand(within(rows.user_row_N, len(resources.catalog.users.ids) + 1), where, "users of examples")
        known = within(rows.item_row_N, items + 1) and within(rows.history_row_NL, items + 1)
        demand(known, where, "items of examples")
        demand(np.isin(rows.label_N, (0, 1)).all(), where, "labels of examples")
        named = {"vectors": held.vector_ES, "chains of thought": held.cot_ET, **held.rows}
        for what, values in named.items():
            check_vectors(values if values is None else values.reshape(len(values), -1), where, f"{what} of examples")
            demand(values is None or len(values) == len(held), where, f"{what} of examples")

    def refreshed(self, held: Any, made: Made, items: pa.Table) -> ExampleBank:
        """With new examples, if any were made, last; what `rows` has of them is the caller's to add."""
        bank: ExampleBank = held
        if "examples" not in made.folders:
            return bank
        examples = read_lance(made.folders["examples"] / "lance", "cot_example")
        if self.config.cot == "shuffled":
            examples = shuffle_cot(examples, self.config.seed)
        more = _bank(examples, _train_rows(made, examples), bank.k)
        cot_ET = np.tile(bank.cot_ET[:1], (len(more), 1)) if self.config.cot == "mean" else more.cot_ET
        vector_ES = None if bank.vector_ES is None else np.concatenate([bank.vector_ES, cast("Any", more.vector_ES)])
        return ExampleBank(
            joined(bank.samples, more.samples), np.concatenate([bank.cot_ET, cot_ET]), bank.k, vector_ES, bank.rows
        )

    def answers(self, resources: Resources, clock: Clock) -> ExampleAnswers:
        """A search by the space and the searcher that made the train rows' matches."""
        return ExampleAnswers(self.config, resources, clock)

    def trial(self, resources: Resources, samples: Samples) -> NDArray[np.int32]:
        """The first example, K times."""
        return np.zeros((len(samples), resources.get(EXAMPLES).k), np.int32)


class ExampleAnswers:
    """Examples of requests.

    Args:
        config: Says how.
        resources: With the bank.
        clock: How times compare.

    Raises:
        ModelError: The bank has no search vectors, the settings no space, or they do not fit.
    """

    def __init__(self, config: ExamplesInputConfig, resources: Resources, clock: Clock) -> None:
        bank = resources.get(EXAMPLES)
        hint = "train again: llmcf train-rec RECIPE"
        if bank.vector_ES is None:
            raise ModelError(
                "the bundle's examples have no search vectors", code="bundle-unfit", where=EXAMPLES, hint=hint
            )
        if config.space is None:
            raise ModelError(
                "the bundle does not say how examples are matched", code="bundle-unfit", where=EXAMPLES, hint=hint
            )
        self._k, self._by_item = bank.k, config.query == "row"
        space = registry().get("space", config.space.type).load()(config.space)
        searcher = registry().get("searcher", config.search.type).load()(config.search)
        self._search = searcher.online(space, bank.samples, bank.vector_ES, config, clock)
        self._search.check_dim(resources.get("text"), resources.spec.history_length)

    def search(self, resources: Resources, samples: Samples) -> Any:
        """`match.searcher.Matches` of some requests: positions in the bank, and likenesses."""
        asked = samples if self._by_item else samples.without_items()
        return self._search.search(resources.get("text"), asked, self._k)

    def __call__(self, resources: Resources, samples: Samples) -> NDArray[np.int32]:
        """Positions in the bank, int32 [N, K]."""
        return cast("NDArray[np.int32]", self.search(resources, samples).index_NK)


class ExampleLookup(QueryLookup):
    """Queries → `Examples`."""

    shares = True
    user_E: Tensor
    item_E: Tensor
    history_EL: Tensor
    time_E: Tensor
    label_E: Tensor
    cot_ET: Tensor

    def __init__(self, bank: ExampleBank) -> None:
        super().__init__()
        self.sizes = {"examples": bank.k, "cot": bank.cot_ET.shape[1]}
        rows = bank.samples
        tensor_table(self, "user_E", rows.user_row_N.astype(np.int64))
        tensor_table(self, "item_E", rows.item_row_N.astype(np.int64))
        tensor_table(self, "history_EL", rows.history_row_NL.astype(np.int64))
        tensor_table(self, "time_E", rows.time_N.astype(np.int64))
        tensor_table(self, "label_E", rows.label_N.astype(np.int64))
        tensor_table(self, "cot_ET", bank.cot_ET)
        self._rows = tuple(bank.rows)
        for name, values in bank.rows.items():
            tensor_table(self, f"rows_{name}", values)

    def forward(self, batch: Batch, embed: Callable[[Batch], Rows]) -> Examples:
        """Each distinct example of the batch once; slots without an example point anywhere, masked.

        Of lists that rows are known to share, each example of each list.
        """
        if batch.shared is not None and EXAMPLES in batch.shared.inputs:
            example_GK, of_B = batch.shared.inputs[EXAMPLES]
            index_U, mask_GK = example_GK.clamp_min(0).flatten(), example_GK >= 0
            slot_GK = torch.arange(index_U.shape[0], device=index_U.device).view_as(example_GK)
            return Examples(self, embed, index_U, slot_GK[of_B], mask_GK[of_B], (slot_GK, mask_GK, of_B))
        if (example_BK := batch.inputs.get(EXAMPLES)) is None:
            raise ModelError(
                "the batch has no examples", code="batch-incomplete", where="rec model", hint="llmcf match RECIPE"
            )
        index_U, slot_BK = torch.unique(example_BK.clamp_min(0), return_inverse=True)
        return Examples(self, embed, index_U, slot_BK, example_BK >= 0)

    def blocks(self, embed: Callable[[Batch], Rows]) -> Iterator[Examples]:
        """All examples of the bank in order, each as the only one of a row."""
        for index_U in self.indices():
            slot_B1 = torch.arange(len(index_U), device=index_U.device)[:, None]
            yield Examples(self, embed, index_U, slot_B1, torch.ones_like(slot_B1, dtype=torch.bool))

    def indices(self) -> Iterator[Tensor]:
        """The numbers of all examples, block by block."""
        yield from torch.arange(len(self.item_E), device=self.item_E.device).split(BLOCK)

    def rows(self, index_U: Tensor) -> Batch:
        """Some examples of the bank as rows."""
        return Batch(
            self.user_E[index_U], self.item_E[index_U], self.history_EL[index_U], self.time_E[index_U],
            inputs={name: getattr(self, f"rows_{name}")[index_U] for name in self._rows},
        )  # fmt: skip


def mean_cot(examples: pa.Table) -> pa.Table:
    """Table `cot_example` in which each example has the mean of all chains of thought."""
    field = examples.schema.field("cot_vector")
    cot_ET = vectors(examples["cot_vector"])
    mean = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(cot_ET.mean(0), len(cot_ET))), cot_ET.shape[1])
    return examples.set_column(examples.column_names.index("cot_vector"), field, mean.cast(field.type))


def shuffle_cot(examples: pa.Table, seed: int) -> pa.Table:
    """Table `cot_example` in which each chain of thought belongs to another example of its label."""
    label_E = examples["label"].to_numpy()
    source_E = np.arange(len(label_E))
    rng = np.random.default_rng(derive_seed(seed, "shuffle-cot"))
    for label in np.unique(label_E):
        order = rng.permutation(np.flatnonzero(label_E == label))
        source_E[order] = np.roll(order, 1)  # one cycle through all: none keeps its own
    moved = examples["cot_vector"].take(pa.array(source_E))
    return examples.set_column(examples.column_names.index("cot_vector"), examples.schema.field("cot_vector"), moved)


def _train_rows(made: Made, examples: pa.Table) -> Samples:
    """Train samples, with the examples among them, whether or not the task asks about these."""
    with connect_read(made.database) as connection:
        connection.register("example", examples.select(["sample_id"]))
        query = "FROM sample SEMI JOIN example USING (sample_id) WHERE split = 'train' ORDER BY sample_id"
        return encode_rows(connection.sql(query).to_arrow_table(), made.resources.spec.history_length)


def _bank(examples: pa.Table, train: Samples, k: int) -> ExampleBank:
    examples = examples.sort_by("sample_id")
    foreign = pc.unique(examples["split"]).to_pylist()
    at_E = positions(examples, train)
    if foreign != ["train"] or at_E is None:
        raise DataError(
            "an example is not a train sample, or there are no examples",
            code="not-train",
            where="cot_example",
            hint="llmcf gen-cot RECIPE",
        )
    return ExampleBank(train.take(at_E), vectors(examples["cot_vector"]), k, vectors(examples["vector"]))


def _matches(table: pa.Table, bank: ExampleBank, samples: Samples) -> NDArray[np.int32]:
    sample_id_n = table["sample_id"].combine_chunks().to_numpy()
    if np.any(sample_id_n[1:] < sample_id_n[:-1]):
        table = table.sort_by("sample_id")
        sample_id_n = table["sample_id"].combine_chunks().to_numpy()
    at_N = np.minimum(np.searchsorted(sample_id_n, samples.sample_id_N), max(len(sample_id_n) - 1, 0))
    if len(samples) and not (len(sample_id_n) and np.array_equal(sample_id_n[at_N], samples.sample_id_N)):
        raise DataError(
            "a sample has no matches", code="match-broken", where="example_match", hint="llmcf match RECIPE"
        )
    ids = table["example_sample_id"].combine_chunks()
    id_NK = ids.flatten().to_numpy().reshape(len(ids), ids.type.list_size)[at_N]
    known = bank.samples.sample_id_N
    index_NK = np.minimum(np.searchsorted(known, id_NK), len(known) - 1)
    if not np.all((known[index_NK] == id_NK) | (id_NK == -1)):
        raise DataError(
            "a match names an example that does not exist",
            code="match-broken",
            where="example_match",
            hint="llmcf match RECIPE",
        )
    return np.where(id_NK == -1, -1, index_NK).astype(np.int32)
