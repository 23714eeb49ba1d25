"""Seeded ranking data with the shape of MovieLens-100K, at any size, for the benchmarks of training.

Legend: N samples, L history, E examples, K examples of a sample, I items, T text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from llmcf_cli.features.batch import Catalog, Samples, encode_entities
from llmcf_cli.features.choice import Choice
from llmcf_cli.features.spec import fit_features
from llmcf_cli.match.collaborative import fit_collaborative
from llmcf_cli.rec.config import RankingConfig
from llmcf_cli.rec.input.base import default_inputs
from llmcf_cli.rec.input.dataset import TaskData, with_rows_of_examples
from llmcf_cli.rec.input.examples import ExampleBank
from llmcf_cli.rec.input.knowledge import EntityKnowledge, Knowledge
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.tasks.ranking import Ranking

LENGTH, TEXT, K = 20, 384, 4
FEATURES = (
    Choice("user", "age", "categorical"), Choice("user", "gender", "categorical"),
    Choice("user", "occupation", "categorical"), Choice("item", "year", "categorical"),
    Choice("item", "genres", "multi"),
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        train: Train samples; a tenth as many again for validation.
        users: Users.
        items: Items.
        examples: In-context examples.
    """

    train: int = 80_000
    users: int = 943
    items: int = 1_682
    examples: int = 176


def task_data(size: Size, seed: int = 20240) -> TaskData:
    """Users with three features, items with a year and up to three of 18 genres, histories of 20; popularity by Zipf.

    A sample's examples are the bank's most popular with some noise, as similar items find similar examples.
    """
    rng = np.random.default_rng(seed)
    users, items = _users(rng, size.users), _items(rng, size.items)
    train = samples(rng, size.train, size)
    validation = samples(rng, size.train // 10, size)
    counts = {"user": np.ones(size.users + 1, np.int64), "item": np.ones(size.items + 1, np.int64)}
    spec, vocab = fit_features(users, items, FEATURES, counts, LENGTH)
    catalog = Catalog(encode_entities(users, "user", spec, vocab), encode_entities(items, "item", spec, vocab))
    text_IT = np.concatenate([np.zeros((1, TEXT), np.float32), unit(rng, size.items)])
    chosen_E = np.sort(rng.choice(size.train, size.examples, replace=False))
    bank = ExampleBank(train.take(chosen_E), unit(rng, size.examples), K)
    splits = {"train": train, "validation": validation}
    matches = {name: _matches(rng, rows, size.examples) for name, rows in splits.items()}
    targets = {name: rows.label_N for name, rows in splits.items()}
    task = Ranking(RankingConfig())
    return TaskData(
        Resources(spec, vocab, catalog, {"text": text_IT, "examples": bank}),
        task,
        splits,
        targets,
        {"examples": matches},
    )


def with_all_inputs(data: TaskData, seed: int = 20240) -> TaskData:
    """The same data with all that an augmenter or an objective may read.

    Collaborative vectors, and matching signals of examples; knowledge about two of three users and items, of a user up
    to some time; a teacher's logits for half of the train samples.
    """
    rng = np.random.default_rng(seed)
    resources, train = data.resources, data.splits["train"]
    liked_N = train.label_N == 1
    users, items = (len(table.ids) for table in (resources.catalog.users, resources.catalog.items))
    folds_U = np.append(5, rng.permutation(users) % 5)
    collaborative = fit_collaborative(
        train.user_row_N[liked_N], train.item_row_N[liked_N], folds_U, items, dim=16, seed=seed
    )
    known = Knowledge(_known(rng, users, len(train)), _known(rng, items, 0))
    resources = resources.holding(collaborative=collaborative, knowledge=known)
    teacher_N = np.where(np.arange(len(train)) % 2, np.nan, rng.standard_normal(len(train))).astype(np.float32)
    resources = with_rows_of_examples(resources, default_inputs(["signals"]).values())
    return replace(data, resources=resources, loaded={**data.loaded, "teacher": {"train": teacher_N}})


def _known(rng: np.random.Generator, count: int, latest: int) -> EntityKnowledge:
    """Vectors of two thirds of `count` rows, with times up to `latest`; 0: of all time."""
    slot_R = np.zeros(count + 1, np.int64)
    row_n = np.flatnonzero(np.arange(count + 1) % 3)
    slot_R[row_n] = np.arange(1, len(row_n) + 1)
    as_of_n = rng.integers(0, latest, len(row_n)) if latest else np.full(len(row_n), np.iinfo(np.int64).min)
    return EntityKnowledge(slot_R, np.pad(unit(rng, len(row_n)), ((1, 0), (0, 0))), np.pad(as_of_n, (1, 0)))


def samples(rng: np.random.Generator, count: int, size: Size) -> Samples:
    """`count` samples; a fifth of the history's places are padding. Labels follow the item's and the user's taste."""
    user_N = rng.integers(1, size.users + 1, count, dtype=np.int32)
    item_N = zipf(rng, count, size.items)
    history_NL = zipf(rng, (count, LENGTH), size.items)
    history_NL[np.arange(LENGTH) < rng.integers(0, 9, (count, 1), dtype=np.int8)] = 0
    liked_N = (user_N % 7 + item_N % 5 + rng.integers(0, 6, count, dtype=np.int8)) > 7
    return Samples(np.arange(count), user_N, item_N, history_NL, liked_N.astype(np.float32), np.arange(count))


def zipf(rng: np.random.Generator, shape: int | tuple[int, ...], count: int) -> np.ndarray:
    """int32 1 … count, of log-uniform popularity."""
    return np.exp(rng.random(shape, dtype=np.float32) * np.log(count)).astype(np.int32).clip(1, count)


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random unit vectors, float32 [count, T]."""
    vector_NT = rng.standard_normal((count, TEXT), dtype=np.float32)
    return vector_NT / np.linalg.norm(vector_NT, axis=1, keepdims=True)


def _matches(rng: np.random.Generator, rows: Samples, examples: int) -> np.ndarray:
    """Four of sixteen that the item decides, a few of them missing."""
    near_NK = rows.item_row_N[:, None] * 7919 + rng.integers(0, 16, (len(rows), K), dtype=np.int32) * 104_729
    example_NK = (near_NK % examples).astype(np.int32)
    example_NK[rng.random(len(rows)) < 0.02, 2:] = -1
    return example_NK


def _users(rng: np.random.Generator, count: int) -> pa.Table:
    return pa.table({
        "user_row": pa.array(range(1, count + 1), pa.int32()), "user_id": _names("u", np.arange(count)),
        "age": _names("a", rng.integers(0, 60, count)), "gender": _names("g", rng.integers(0, 2, count)),
        "occupation": _names("o", rng.integers(0, 21, count)),
    })  # fmt: skip


def _items(rng: np.random.Generator, count: int) -> pa.Table:
    genres = pa.ListArray.from_arrays(
        np.arange(0, 3 * count + 1, 3, dtype=np.int32), _names("c", rng.integers(0, 18, 3 * count))
    )
    return pa.table({
        "item_row": pa.array(range(1, count + 1), pa.int32()), "item_id": _names("i", np.arange(count)),
        "year": _names("y", rng.integers(1930, 1999, count)), "genres": genres,
    })  # fmt: skip


def _names(prefix: str, number_N: np.ndarray) -> pa.StringArray:
    return pa.array(np.char.add(prefix, number_N.astype(str)), pa.string())
