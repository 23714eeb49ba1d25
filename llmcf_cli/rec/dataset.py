"""Everything a ranking model is trained on, in memory: a catalogue, samples as row numbers, vectors, examples.

Legend: N samples, L history, K examples, E examples in the bank, I items, T text, S search space, G signals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.batch import Batch, Catalog, Samples, encode_entities, encode_rows, to_batch
from llmcf_cli.features.collaborative import Collaborative
from llmcf_cli.features.spec import ENTITIES, FeatureSpec, Vocab, fit_features
from llmcf_cli.features.vectors import item_text_array, vectors
from llmcf_cli.rec.signals import signals_of
from llmcf_cli.store.open import connect_read

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ExampleBank:
    """The in-context examples (x_i, cot_i, y_i).

    Attributes:
        samples: x_i and y_i.
        cot_ET: float32, vector of each chain of thought.
        vector_ES: float32, what each is found by in the search space; None where nothing will search.
        signal_EG: float32, matching signals of each as a train row; None without collaborative vectors.
    """

    samples: Samples
    cot_ET: np.ndarray
    vector_ES: np.ndarray | None = None
    signal_EG: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Resources:
    """What a model looks things up in: all it needs beside its weights.

    Attributes:
        spec: Fields.
        vocab: Their values.
        catalog: Encoded users and items.
        item_text_IT: float32 [I + 1, T], unit rows, row 0 zeros; None without text vectors.
        bank: Examples; None without.
        num_examples: K; 0 without examples.
        collaborative: Collaborative vectors and popularity of items; None without.
    """

    spec: FeatureSpec
    vocab: Vocab
    catalog: Catalog
    item_text_IT: np.ndarray | None = None
    bank: ExampleBank | None = None
    num_examples: int = 0
    collaborative: Collaborative | None = None


@dataclass(frozen=True)
class Matches:
    """The retrieved examples of a split's samples, best first.

    Attributes:
        example_NK: int32 positions in the bank, -1 where there are fewer than K.
        score_NK: float32, 0 there.
    """

    example_NK: np.ndarray
    score_NK: np.ndarray


@dataclass(frozen=True)
class RankingData:
    """Resources, and the samples of each split with their examples.

    Attributes:
        resources: What models look things up in.
        splits: `train`, `validation` and `test`.
        matches: By split; empty without examples.
    """

    resources: Resources
    splits: Mapping[str, Samples]
    matches: Mapping[str, Matches] = field(default_factory=dict)

    def batch(self, split: str, device: object = "cpu", *, examples: bool = True, signals: bool = False) -> Batch:
        """A whole split as one `Batch` on `device`, to take batches from.

        Raises:
            DataError: There is no such split, or signals are asked for and there are no collaborative vectors.
        """
        samples = self._split(split)
        found = self.matches.get(split) if examples else None
        signal_NG = self.signals(split) if signals else None
        return to_batch(samples, None if found is None else found.example_NK, device, signal_NG)

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
            raise DataError("there are no collaborative vectors", where=f"split {split}", hint="llmcf collab")
        if split == "train":
            return collaborative.train_folds(samples.user_row_N)
        return collaborative.later_folds(len(samples))

    def _split(self, split: str) -> Samples:
        if split not in self.splits:
            raise DataError(f"no split {split!r}", allowed=tuple(self.splits))
        return self.splits[split]

    @cached_property
    def _signals(self) -> dict[str, np.ndarray]:
        return {}


def load_ranking_data(
    database: Path, *, history_length: int, item_text: pa.Table | None = None, examples: pa.Table | None = None,
    matches: pa.Table | None = None, collaborative: Collaborative | None = None, min_count: int = 1,
) -> RankingData:  # fmt: skip
    """Read what ingest, embed, match and collab made.

    Args:
        database: DuckDB file with the tables user, item and sample.
        history_length: Events of a history that the models see.
        item_text: LanceDB table `item_text`.
        examples: LanceDB table `cot_example`; needs `item_text` and `matches`.
        matches: Table `example_match` of all samples.
        collaborative: Collaborative vectors of the same users and items.
        min_count: Least train occurrences for a feature value to get an id.

    Raises:
        DataError: The parts do not fit together: an item without a vector, a sample without matches, an example that is
            no train sample, collaborative vectors of another catalogue.
    """
    with connect_read(database) as connection:
        users, items = (connection.sql(f'SELECT * FROM "{e}" ORDER BY {e}_row').to_arrow_table() for e in ENTITIES)
        query = "SELECT * FROM sample WHERE split = ? ORDER BY sample_id"
        rows = {split: connection.sql(query, params=[split]).to_arrow_table() for split in SPLITS}
    splits = {split: encode_rows(table, history_length) for split, table in rows.items()}
    counts = _train_counts(splits["train"], users.num_rows, items.num_rows)
    spec, vocab = fit_features(users, items, counts, history_length, min_count)
    catalog = Catalog(encode_entities(users, "user", spec, vocab), encode_entities(items, "item", spec, vocab))
    text_IT = None if item_text is None else item_text_array(item_text, items.num_rows)
    if collaborative is not None:
        _check_collaborative(collaborative, users.num_rows, items.num_rows)
    resources = Resources(spec, vocab, catalog, text_IT, collaborative=collaborative)
    if examples is None:
        return RankingData(resources, splits)
    if matches is None:
        raise DataError("examples without matches", where=str(database), hint="llmcf match")
    bank = _bank(examples, splits["train"])
    if collaborative is not None:
        folds_E = collaborative.train_folds(bank.samples.user_row_N)
        bank = replace(bank, signal_EG=signals_of(resources, bank.samples, folds_E))
    found = {split: _matches(matches, bank, samples) for split, samples in splits.items()}
    k = found["train"].example_NK.shape[1]
    return RankingData(replace(resources, bank=bank, num_examples=k), splits, found)


def _train_counts(train: Samples, num_users: int, num_items: int) -> dict[str, np.ndarray]:
    """How often each user and item row occurs in train samples, targets and histories together."""
    seen = np.concatenate([train.item_row_N, train.history_row_NL.reshape(-1)])
    return {
        "user": np.bincount(train.user_row_N, minlength=num_users + 1),
        "item": np.bincount(seen, minlength=num_items + 1),
    }


def _check_collaborative(collaborative: Collaborative, num_users: int, num_items: int) -> None:
    found = len(collaborative.fold_of_user_U) - 1, collaborative.item_FID.shape[1] - 1
    if found != (num_users, num_items):
        raise DataError(
            f"vectors for {found[0]} users and {found[1]} items, but there are {num_users} and {num_items}",
            where="collaborative vectors", hint="run the recipe again with --force collab",
        )  # fmt: skip


def _bank(examples: pa.Table, train: Samples) -> ExampleBank:
    examples = examples.sort_by("sample_id")
    foreign = pc.unique(examples["split"]).to_pylist()
    sample_id_E = examples["sample_id"].combine_chunks().to_numpy()
    at_E = np.searchsorted(train.sample_id_N, sample_id_E)
    at_E = np.minimum(at_E, max(len(train) - 1, 0))
    if foreign != ["train"] or not len(train) or not np.array_equal(train.sample_id_N[at_E], sample_id_E):
        raise DataError("an example is no train sample, or there are none", where="cot_example", hint="llmcf gen-cot")
    return ExampleBank(train.take(at_E), vectors(examples["cot_vector"]), vectors(examples["vector"]))


def _matches(table: pa.Table, bank: ExampleBank, samples: Samples) -> Matches:
    table = table.sort_by("sample_id")
    sample_id_n = table["sample_id"].combine_chunks().to_numpy()
    at_N = np.minimum(np.searchsorted(sample_id_n, samples.sample_id_N), max(len(sample_id_n) - 1, 0))
    if len(samples) and not (len(sample_id_n) and np.array_equal(sample_id_n[at_N], samples.sample_id_N)):
        raise DataError("a sample has no row of matches", where="example_match", hint="llmcf match")
    ids = table["example_sample_id"].combine_chunks()
    id_NK = ids.flatten().to_numpy().reshape(len(ids), ids.type.list_size)[at_N]
    known = bank.samples.sample_id_N
    index_NK = np.minimum(np.searchsorted(known, id_NK), len(known) - 1)
    if not np.all((known[index_NK] == id_NK) | (id_NK == -1)):
        raise DataError("a match names an example that does not exist", where="example_match", hint="llmcf match")
    return Matches(np.where(id_NK == -1, -1, index_NK).astype(np.int32), vectors(table["score"])[at_N])
