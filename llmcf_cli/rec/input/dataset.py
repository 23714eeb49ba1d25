"""Everything a model is trained on, in memory: a catalogue, samples as row numbers, vectors, examples.

Legend: N samples, L history, K examples, E examples in the bank, I items, T text, S search space, G signals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.seeding import derive_seed
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
from llmcf_cli.features.collaborative import Collaborative
from llmcf_cli.features.histories import Histories
from llmcf_cli.features.spec import fit_features
from llmcf_cli.features.vectors import item_text_array, vectors
from llmcf_cli.rec.input.knowledge import read_knowledge
from llmcf_cli.rec.input.resources import ExampleBank, Resources
from llmcf_cli.rec.input.signals import signals_of
from llmcf_cli.rec.measure.base import Truth
from llmcf_cli.rec.tasks.base import Task
from llmcf_cli.store.open import connect_read
from llmcf_cli.store.tables import FEATURE

SPLITS = ("train", "validation", "test")
ROWS_AT_ONCE = 1 << 17
"""Rows held beside the arrays while reading."""


@dataclass(frozen=True)
class TaskData:
    """Resources, and the samples of each split with their targets and examples.

    Attributes:
        resources: What models look things up in.
        task: What is predicted.
        splits: `train`, `validation` and `test`.
        targets: By split, what is to be predicted of its samples: float32 [N].
        matches: By split, the examples retrieved for its samples, best first: int32 [N, K] positions in the bank, -1
            where there are fewer than K; empty without examples.
        teacher_N: float32, the language model's logit of each train sample, NaN where it was not asked; None without.
    """

    resources: Resources
    task: Task
    splits: Mapping[str, Samples]
    targets: Mapping[str, np.ndarray]
    matches: Mapping[str, np.ndarray] = field(default_factory=dict)
    teacher_N: np.ndarray | None = None

    def batch(self, split: str, device: object = "cpu", *, examples: bool = True, signals: bool = False) -> Batch:
        """A whole split as one `Batch` on `device`, to take batches from.

        Raises:
            DataError: There is no such split, or signals are asked for and there are no collaborative vectors.
        """
        samples = self._split(split)
        example_NK = self.matches.get(split) if examples else None
        signal_NG = self.signals(split) if signals else None
        teacher_N = self.teacher_N if split == "train" else None
        return to_batch(
            samples, device, target_N=self.targets[split], example_NK=example_NK, teacher_N=teacher_N,
            signal_NS=signal_NG,
        )  # fmt: skip

    def truth(self, split: str) -> Truth:
        """What predictions of a split are measured against.

        Raises:
            DataError: There is no such split.
        """
        samples = self._split(split)
        return Truth(self.targets[split], samples.user_row_N)

    def signals(self, split: str) -> np.ndarray:
        """Matching signals of a split's samples, float32 [N, G], computed once; train rows out of their user's fold.

        Raises:
            DataError: There is no such split, or there are no collaborative vectors.
        """
        samples = self._split(split)
        if split not in self._signals:
            self._signals[split] = signals_of(self.resources, samples, self.folds(split))
        return self._signals[split]

    def folds(self, split: str) -> np.ndarray:
        """Fold of the collaborative space that each sample of a split is matched with, int8 [N].

        Raises:
            DataError: There is no such split, or there are no collaborative vectors.
        """
        samples, collaborative = self._split(split), self.resources.collaborative
        if collaborative is None:
            raise DataError(
                "there are no collaborative vectors", code="input-missing", where=f"split {split}", hint="llmcf collab"
            )
        if split == "train":
            return collaborative.train_folds(samples.user_row_N)
        return collaborative.later_folds(len(samples))

    def _split(self, split: str) -> Samples:
        if split not in self.splits:
            raise DataError(f"no split {split!r}", code="split-unknown", allowed=tuple(self.splits))
        return self.splits[split]

    @cached_property
    def _signals(self) -> dict[str, np.ndarray]:
        return {}


def load_task_data(
    database: Path, task: Task, *, history_length: int, item_text: pa.Table | None = None,
    examples: pa.Table | None = None, matches: pa.Table | None = None, teacher: pa.Table | None = None,
    knowledge: pa.Table | None = None, collaborative: Collaborative | None = None, min_count: int = 1,
) -> TaskData:  # fmt: skip
    """Read what the stages before made.

    Args:
        database: DuckDB file with the tables user, item, feature and sample.
        task: Says what is to be predicted of each sample.
        history_length: Events of a history that the models see.
        item_text: LanceDB table `item_text`.
        examples: LanceDB table `cot_example`; needs `item_text` and `matches`.
        matches: Table `example_match` of all samples.
        teacher: Table `teacher_score`.
        knowledge: LanceDB table `knowledge`.
        collaborative: Collaborative vectors of the same users and items.
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
        splits = {split: _samples(connection, split, history_length) for split in SPLITS}
        targets = {split: task.target(connection, samples) for split, samples in splits.items()}
    counts = _train_counts(splits["train"], users.num_rows, items.num_rows)
    spec, vocab = fit_features(users, items, choices, counts, history_length, min_count)
    catalog = Catalog(encode_entities(users, "user", spec, vocab), encode_entities(items, "item", spec, vocab))
    text_IT = None if item_text is None else item_text_array(item_text, items.num_rows)
    if collaborative is not None:
        _check_collaborative(collaborative, users.num_rows, items.num_rows)
    resources = Resources(spec, vocab, catalog, text_IT, collaborative=collaborative, histories=histories)
    if knowledge is not None:
        resources = replace(resources, knowledge=read_knowledge(knowledge, users.num_rows, items.num_rows))
    teacher_N = None if teacher is None else _teacher(teacher, splits["train"])
    if examples is None:
        return TaskData(resources, task, splits, targets, teacher_N=teacher_N)
    if matches is None:
        raise DataError("examples without matches", code="matches-missing", where=str(database), hint="llmcf match")
    bank = _bank(examples, splits["train"])
    if collaborative is not None:
        folds_E = collaborative.train_folds(bank.samples.user_row_N)
        bank = replace(bank, signal_EG=signals_of(resources, bank.samples, folds_E))
    found = {split: _matches(matches, bank, samples) for split, samples in splits.items()}
    k = found["train"].shape[1]
    return TaskData(replace(resources, bank=bank, num_examples=k), task, splits, targets, found, teacher_N)


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


def _samples(connection: Any, split: str, history_length: int) -> Samples:
    """A split's samples by id, read block by block into arrays of their final size."""
    condition, found = "FROM sample WHERE split = ?", 0
    ((count,),) = connection.sql(f"SELECT count(*) {condition}", params=[split]).fetchall()
    samples = empty_samples(count, history_length)
    reader = connection.sql(f"SELECT * {condition}", params=[split]).to_arrow_reader(ROWS_AT_ONCE)
    for rows in reader:
        samples.put(found, encode_rows(pa.Table.from_batches([rows]), history_length))
        found += rows.num_rows
    # Ingest writes samples in the order of their ids, so this is a check; sorting in SQL would hold them all twice.
    in_order = bool(np.all(samples.sample_id_N[1:] > samples.sample_id_N[:-1]))
    return samples if in_order else samples.take(np.argsort(samples.sample_id_N, kind="stable"))


def _train_counts(train: Samples, num_users: int, num_items: int) -> dict[Entity, np.ndarray]:
    """How often each user and item row occurs in train samples, targets and histories together."""
    count_I = np.bincount(train.item_row_N, minlength=num_items + 1)
    for start in range(0, len(train), ROWS_AT_ONCE):
        count_I += np.bincount(train.history_row_NL[start : start + ROWS_AT_ONCE].reshape(-1), minlength=num_items + 1)
    return {"user": np.bincount(train.user_row_N, minlength=num_users + 1), "item": count_I}


def _check_collaborative(collaborative: Collaborative, num_users: int, num_items: int) -> None:
    found = len(collaborative.fold_of_user_U) - 1, collaborative.item_FID.shape[1] - 1
    if found != (num_users, num_items):
        raise DataError(
            f"vectors for {found[0]} users and {found[1]} items, but there are {num_users} and {num_items}",
            code="vectors-unfit", where="collaborative vectors", hint="run the recipe again with --force collab",
        )  # fmt: skip


def _bank(examples: pa.Table, train: Samples) -> ExampleBank:
    examples = examples.sort_by("sample_id")
    foreign = pc.unique(examples["split"]).to_pylist()
    at_E = _positions(examples, train)
    if foreign != ["train"] or at_E is None:
        raise DataError(
            "an example is no train sample, or there are none",
            code="not-train",
            where="cot_example",
            hint="llmcf gen-cot",
        )
    return ExampleBank(train.take(at_E), vectors(examples["cot_vector"]), vectors(examples["vector"]))


def _teacher(scores: pa.Table, train: Samples) -> np.ndarray:
    at_n = _positions(scores, train)
    if at_n is None:
        raise DataError(
            "a score is of no train sample, or there are none",
            code="not-train",
            where="teacher_score",
            hint="llmcf teacher",
        )
    teacher_N = np.full(len(train), np.nan, np.float32)
    teacher_N[at_n] = scores["logit"].combine_chunks().to_numpy()
    return teacher_N


def _positions(table: pa.Table, samples: Samples) -> np.ndarray | None:
    """Where the table's rows stand among the samples; None if one does not, or there are no rows."""
    id_n = table["sample_id"].combine_chunks().to_numpy()
    at_n = np.minimum(np.searchsorted(samples.sample_id_N, id_n), max(len(samples) - 1, 0))
    known = len(id_n) and len(samples) and np.array_equal(samples.sample_id_N[at_n], id_n)
    return at_n if known else None


def _matches(table: pa.Table, bank: ExampleBank, samples: Samples) -> np.ndarray:
    sample_id_n = table["sample_id"].combine_chunks().to_numpy()
    if np.any(sample_id_n[1:] < sample_id_n[:-1]):
        table = table.sort_by("sample_id")
        sample_id_n = table["sample_id"].combine_chunks().to_numpy()
    at_N = np.minimum(np.searchsorted(sample_id_n, samples.sample_id_N), max(len(sample_id_n) - 1, 0))
    if len(samples) and not (len(sample_id_n) and np.array_equal(sample_id_n[at_N], samples.sample_id_N)):
        raise DataError(
            "a sample has no row of matches", code="match-broken", where="example_match", hint="llmcf match"
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
            hint="llmcf match",
        )
    return np.where(id_NK == -1, -1, index_NK).astype(np.int32)
