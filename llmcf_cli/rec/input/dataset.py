"""Everything a model is trained on, in memory: a catalogue, samples as row numbers, and inputs.

Legend: N samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.types import InputConfig
from llmcf_cli.features.batch import (
    Batch,
    Catalog,
    Samples,
    empty_samples,
    encode_entities,
    encode_rows,
    to_batch,
)
from llmcf_cli.features.choice import ENTITIES, Choice, Entity
from llmcf_cli.features.histories import Histories
from llmcf_cli.features.spec import fit_features
from llmcf_cli.rec.input.base import Input, Made, default_inputs, inputs_of
from llmcf_cli.rec.input.examples import EXAMPLES
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.measure.base import Truth
from llmcf_cli.rec.tasks.base import Task
from llmcf_cli.store.open import connect_read
from llmcf_cli.store.tables import FEATURE

SPLITS = ("train", "validation", "test")
ROWS_AT_ONCE = 1 << 17
"""Rows held beside the arrays while reading."""


@dataclass(frozen=True)
class TaskData:
    """Resources, and the samples of each split with their targets and values of inputs.

    Attributes:
        resources: What models look things up in.
        task: What is predicted.
        splits: `train`, `validation` and `test`.
        targets: By split, what is to be predicted of its samples: float32 [N].
        loaded: Name of an input → split → values of its samples that a stage made, [N, …].
    """

    resources: Resources
    task: Task
    splits: Mapping[str, Samples]
    targets: Mapping[str, NDArray[np.float32]]
    loaded: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)

    def batch(self, split: str, device: object = "cpu", *, inputs: Iterable[str] = ()) -> Batch:
        """A whole split as one `Batch` on `device`, to take batches from.

        Args:
            split: Its name.
            device: Where to.
            inputs: Inputs whose values it brings, where there are any; `Recommender.reads` of the model it is for.

        Raises:
            DataError: There is no such split, or what an input is made of is missing.
        """
        samples = self._split(split)
        values = {name: self.values(name, split) for name in inputs}
        return to_batch(samples, device, target_N=self.targets[split], inputs=values)

    def truth(self, split: str) -> Truth:
        """What predictions of a split are measured against.

        Raises:
            DataError: There is no such split.
        """
        samples = self._split(split)
        return Truth(self.targets[split], samples.user_row_N, self.taken_I)

    @cached_property
    def taken_I(self) -> NDArray[np.int64]:
        """How often each item was taken in train, int64 [I + 1]."""
        train = self.splits["train"]
        size = len(self.resources.catalog.items.ids) + 1
        return np.bincount(train.item_row_N[train.label_N > 0.5], minlength=size)

    def values(self, name: str, split: str) -> NDArray[Any] | None:
        """An input's values of a split's samples, [N, …], computed once; None if it has none.

        Raises:
            DataError: There is no such split, or what the input is made of is missing.
        """
        samples = self._split(split)
        if name in self.loaded:
            return self.loaded[name].get(split)
        if (name, split) not in self._values:
            one = default_inputs([name])[name]
            self._values[name, split] = one.values(self.resources, samples, split)
        return self._values[name, split]

    def _split(self, split: str) -> Samples:
        if split not in self.splits:
            raise DataError(f"no split {split!r}", code="split-unknown", allowed=tuple(self.splits))
        return self.splits[split]

    @cached_property
    def _values(self) -> dict[tuple[str, str], NDArray[Any] | None]:
        return {}


def load_task_data(
    database: Path, task: Task, *, history_length: int, inputs: Iterable[InputConfig] = (),
    folders: Mapping[str, Path] | None = None, min_count: int = 1,
) -> TaskData:  # fmt: skip
    """Read what the stages before made.

    Args:
        database: DuckDB file with the tables user, item, feature and sample.
        task: Says what is to be predicted of each sample.
        history_length: Events of a history that the models see.
        inputs: The inputs to load, each after those that it is made of.
        folders: Stage → folder, of the stages that they name.
        min_count: Least train occurrences for a feature value to get an id.

    Raises:
        DataError: The parts do not fit together: an item without a vector, a sample without matches, an example or a
            teacher's score that belongs to no train sample, collaborative vectors of another catalogue.
    """
    with connect_read(database) as connection:
        users, items = (connection.sql(f'SELECT * FROM "{e}" ORDER BY {e}_row').to_arrow_table() for e in ENTITIES)
        histories = Histories.from_arrow(connection.sql("SELECT * FROM history ORDER BY user_row").to_arrow_table())
        columns = ", ".join(FEATURE.schema.names)
        choices = [Choice(*row) for row in connection.sql(f"SELECT {columns} FROM feature ORDER BY ALL").fetchall()]
        splits = {split: _samples(connection, split, task.condition, history_length) for split in SPLITS}
        targets = {split: task.target(connection, samples) for split, samples in splits.items()}
    counts = _train_counts(splits["train"], users.num_rows, items.num_rows)
    spec, vocab = fit_features(users, items, choices, counts, history_length, min_count)
    catalog = Catalog(encode_entities(users, "user", spec, vocab), encode_entities(items, "item", spec, vocab))
    resources, loaded, read = Resources(spec, vocab, catalog, histories=histories), {}, inputs_of(inputs)
    for name, one in read.items():
        found = one.load(Made(database, folders or {}, splits, resources))
        resources = resources.holding(**{name: found.held})
        if found.rows is not None:
            loaded[name] = found.rows
    return TaskData(with_rows_of_examples(resources, read.values()), task, splits, targets, loaded)


def with_rows_of_examples(resources: Resources, inputs: Iterable[Input]) -> Resources:
    """Resources whose examples bring the values, as train rows, of the inputs that belong to a row itself."""
    bank = resources.get(EXAMPLES)
    if bank is None:
        return resources
    found = {one.name: one.values(resources, bank.samples, "train") for one in inputs if one.of_examples}
    rows = {name: values for name, values in found.items() if values is not None}
    return resources.holding(**{EXAMPLES: replace(bank, rows=rows)})


def _samples(connection: Any, split: str, condition: str, history_length: int) -> Samples:
    """A split's samples by id, read block by block into arrays of their final size."""
    condition, found = f"FROM sample WHERE split = ? AND ({condition})", 0
    ((count,),) = connection.sql(f"SELECT count(*) {condition}", params=[split]).fetchall()
    samples = empty_samples(count, history_length)
    reader = connection.sql(f"SELECT * {condition}", params=[split]).to_arrow_reader(ROWS_AT_ONCE)
    for rows in reader:
        samples.put(found, encode_rows(pa.Table.from_batches([rows]), history_length))
        found += rows.num_rows
    # Ingest writes samples in the order of their ids, so this is a check; sorting in SQL would hold them all twice.
    in_order = bool(np.all(samples.sample_id_N[1:] > samples.sample_id_N[:-1]))
    return samples if in_order else samples.take(np.argsort(samples.sample_id_N, kind="stable"))


def _train_counts(train: Samples, num_users: int, num_items: int) -> dict[Entity, NDArray[Any]]:
    """How often each user and item row occurs in train samples, targets and histories together."""
    count_I = np.bincount(train.item_row_N, minlength=num_items + 1)
    for start in range(0, len(train), ROWS_AT_ONCE):
        count_I += np.bincount(train.history_row_NL[start : start + ROWS_AT_ONCE].reshape(-1), minlength=num_items + 1)
    return {"user": np.bincount(train.user_row_N, minlength=num_users + 1), "item": count_I}
