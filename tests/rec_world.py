"""A small data set for tests of recommenders, made by the real tables, space and search.

Users like items whose group (item_row mod 3) is theirs (user_row mod 3), so a model has something to learn.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from llmcf_cli.features.batch import encode_rows
from llmcf_cli.features.choice import Choice
from llmcf_cli.features.collaborative import COLLABORATIVE, save_collaborative
from llmcf_cli.match.collaborative import fit_collaborative
from llmcf_cli.match.config import TextSpaceConfig
from llmcf_cli.match.exact import ExactSearcher
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.match.space import TextSpace
from llmcf_cli.plugin import registry
from llmcf_cli.rec.config import RankingConfig
from llmcf_cli.rec.input.config import ExamplesInputConfig
from llmcf_cli.rec.input.dataset import TaskData, load_task_data
from llmcf_cli.rec.input.needs import closure, declaration, in_order
from llmcf_cli.rec.tasks.ranking import Ranking
from llmcf_cli.store.open import open_lance
from llmcf_cli.store.tables import FEATURE, SAMPLE, TEACHER_SCORE, cot_example, example_match, item_text, knowledge

USERS, ITEMS, LENGTH, T, K = 30, 24, 5, 12, 4
CHOICES = (
    Choice("user", "group", "categorical"), Choice("user", "age", "numeric"), Choice("item", "brand", "categorical"),
    Choice("item", "tags", "multi"), Choice("item", "price", "numeric"),
    Choice("item", "year", "numeric", transform="quantile", buckets=4),
)  # fmt: skip
MATCH_SECTION = {
    "space": {"type": "text", "encoder": "asset:any", "history_weight": 0.5, "item_weight": 0.5},
    "search": {"type": "exact"}, "k": K, "balance": "labels",
}  # fmt: skip
SERVED = (ExamplesInputConfig(**MATCH_SECTION),)
"""What a bundle of the world must know to search for the examples of requests."""


@dataclass(frozen=True)
class World:
    """The tables, and what is loaded from them."""

    database: Path
    items: pa.Table
    samples: pa.Table
    item_text: pa.Table
    examples: pa.Table
    matches: pa.Table
    teacher: pa.Table
    knowledge: pa.Table
    data: TaskData


def make_world(folder: Path, per_user: int = 16, num_examples: int = 40, seed: int = 0) -> World:
    """Write and load the world."""
    rng = np.random.default_rng(seed)
    users = pa.table({
        "user_row": pa.array(range(1, USERS + 1), pa.int32()), "user_id": [f"u{u}" for u in range(1, USERS + 1)],
        "text": ["" for _ in range(USERS)], "group": [f"g{u % 3}" for u in range(1, USERS + 1)],
        "age": pa.array([None if u % 7 == 0 else 20.0 + u for u in range(1, USERS + 1)], pa.float64()),
    })  # fmt: skip
    items = pa.table({
        "item_row": pa.array(range(1, ITEMS + 1), pa.int32()), "item_id": [f"i{i}" for i in range(1, ITEMS + 1)],
        "text": [f"item {i}" for i in range(1, ITEMS + 1)], "brand": [f"b{i % 4}" for i in range(1, ITEMS + 1)],
        "tags": [[f"t{i % 3}", f"s{i % 5}"][: i % 3] for i in range(1, ITEMS + 1)],
        "price": pa.array([None if i % 9 == 0 else i**2 / 3 for i in range(1, ITEMS + 1)], pa.float64()),
        "year": pa.array([None if i % 8 == 0 else 1990.0 + i % 11 for i in range(1, ITEMS + 1)], pa.float64()),
    })  # fmt: skip
    samples = _samples(rng, per_user)
    text_IT = _unit(rng.standard_normal((ITEMS + 1, T)))
    text_IT[0] = 0
    texts = pa.table([items["item_row"], items["item_id"], _lists(text_IT[1:])], schema=item_text(T).schema)
    train = samples.filter(pa.array([s == "train" for s in samples["split"].to_pylist()]))
    chosen = train.take(np.sort(rng.choice(train.num_rows, num_examples, replace=False)))
    rows = encode_rows(chosen, LENGTH)
    vectors = TextSpace(_space()).example_vectors(text_IT, rows.item_row_N, rows.history_row_NL)
    names = ["sample_id", "user_row", "item_row", "label", "time", "split"]
    columns = [*(chosen[n] for n in names), _lists(vectors), _lists(_unit(rng.standard_normal((num_examples, T))))]
    examples = pa.table(columns, schema=cot_example(T, 2 * T).schema)
    matches = _match(samples, examples, text_IT)
    database = folder / "data.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute(SAMPLE.ddl())
        for name, table in (("user", users), ("item", items), ("rows", samples)):
            connection.register(f"arrow_{name}", table)
        connection.execute('CREATE TABLE "user" AS FROM arrow_user')
        connection.execute('CREATE TABLE "item" AS FROM arrow_item')
        connection.execute("INSERT INTO sample FROM arrow_rows")
        connection.execute(  # of all time: ingest keeps the latest
            "CREATE TABLE history AS SELECT user_row, list(item_row ORDER BY time) AS items, "
            "list(time ORDER BY time) AS times FROM sample WHERE label = 1 GROUP BY user_row ORDER BY user_row"
        )
        connection.execute(
            "CREATE TABLE interaction AS SELECT user_row, item_row, NULL::DOUBLE AS rating, "
            "time::DECIMAL(18, 6) AS time, (row_number() OVER (PARTITION BY user_row ORDER BY time))::INTEGER AS place "
            "FROM sample"
        )
        connection.execute("CREATE TABLE meta AS SELECT 'clock' AS key, 'per_user' AS value")
        connection.execute(FEATURE.ddl())
        for choice in CHOICES:
            connection.execute("INSERT INTO feature VALUES (?, ?, ?, ?, ?, ?)", list(vars(choice).values()))
    teacher, known = _teacher(rng, train), _knowledge(rng)
    liked = train.filter(pc.equal(train["label"], 1))
    folds = np.append(5, np.random.default_rng(seed).permutation(USERS) % 5)
    collaborative = fit_collaborative(
        liked["user_row"].to_numpy(), liked["item_row"].to_numpy(), folds, ITEMS, dim=6, seed=seed
    )
    tables = {"item_text": texts, "examples": examples, "matches": matches, "teacher": teacher, "knowledge": known,
              "collaborative": collaborative, "events": None}  # fmt: skip
    data = load_data(database, folder / "made", **tables)
    return World(database, items, samples, texts, examples, matches, teacher, known, data)


def digest(value: Any) -> str:
    """SHA-256 of all arrays that a value reaches through dataclasses and mappings."""
    sha = hashlib.sha256()
    for array in _arrays(value):
        sha.update(repr((array.dtype, array.shape)).encode() + array.tobytes())
    return sha.hexdigest()


def _arrays(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, torch.Tensor):
        yield value.numpy()
    elif isinstance(value, Mapping):
        for _, part in sorted(value.items()):
            yield from _arrays(part)
    elif dataclasses.is_dataclass(value):
        for part in dataclasses.fields(value):
            yield from _arrays(getattr(value, part.name))


def load_data(database: Path, folder: Path, *, history_length: int = LENGTH, **tables: Any) -> TaskData:
    """Write tables as their stages do, and load the inputs that can be made of them, or of `ingest` alone."""
    inputs = {name for name in registry().names("input") if not any(declaration(n).made_by for n in closure([name]))}
    for name, table in tables.items():
        stage, place, needed = {
            "item_text": ("embed", "lance", {"text"}), "examples": ("examples", "lance", {"examples"}),
            "matches": ("match", "example_match.parquet", {"examples"}),
            "teacher": ("teacher", "teacher_score.parquet", {"teacher"}),
            "knowledge": ("knowledge", "lance", {"knowledge"}),
            "collaborative": ("collab", COLLABORATIVE, {"collaborative", "signals"}),
            "events": ("ingest", "", {"events"}),
        }[name]  # fmt: skip
        (folder / stage).mkdir(parents=True, exist_ok=True)
        inputs |= needed
        if place == "lance":
            spec = {"item_text": "item_text", "examples": "cot_example", "knowledge": "knowledge"}[name]
            open_lance(folder / stage / place).create_table(spec, table)
        elif name == "events":
            pass  # they are in the database
        elif name == "collaborative":
            save_collaborative(table, folder / stage / place)
        else:
            pq.write_table(table, folder / stage / place)
    folders = {made.name: made for made in folder.iterdir()} if folder.exists() else {}
    configs = [registry().get("input", name).config()() for name in in_order(inputs)]
    return load_task_data(
        database, Ranking(RankingConfig()), history_length=history_length, inputs=configs, folders=folders
    )


def _samples(rng: np.random.Generator, per_user: int) -> pa.Table:
    rows = []
    for user in range(1, USERS + 1):
        taken: list[int] = []
        times = np.sort(rng.choice(10_000, per_user, replace=False))
        for time, item in zip(times, rng.permutation(np.arange(1, ITEMS + 1))[:per_user], strict=True):
            liked = (item % 3 == user % 3) != (rng.random() < 0.1)
            rows.append((user, int(item), int(liked), int(time), taken[-LENGTH:]))
            if liked:
                taken.append(int(item))
    rows.sort(key=lambda row: (row[3], row[0]))
    cut = [int(len(rows) * share) for share in (0.7, 0.85)]
    splits = ["train" if n < cut[0] else "validation" if n < cut[1] else "test" for n in range(len(rows))]
    columns = [range(len(rows)), *zip(*[r[:4] for r in rows], strict=True), splits, [r[4] for r in rows]]
    arrays = [pa.array(list(c), f.type) for c, f in zip(columns, SAMPLE.schema, strict=True)]
    return pa.table(arrays, schema=SAMPLE.schema)


def _teacher(rng: np.random.Generator, train: pa.Table) -> pa.Table:
    """Scores for two thirds of the train samples, mostly right."""
    rows = train.filter(pa.array(np.arange(train.num_rows) % 3 > 0))
    logit = 2 * rows["label"].to_numpy() - 1 + rng.standard_normal(rows.num_rows)
    columns = [rows["sample_id"], logit.astype(np.float32), np.full(rows.num_rows, 0.9, np.float32)]
    return pa.table(columns, schema=TEACHER_SCORE.schema)


def _knowledge(rng: np.random.Generator) -> pa.Table:
    """Texts about two thirds of the users, each up to some time of the train split, and about half of the items."""
    users = [row for row in range(1, USERS + 1) if row % 3]
    items = list(range(1, ITEMS + 1, 2))
    as_of = [*rng.integers(1_000, 6_000, len(users)), *[np.iinfo(np.int64).min] * len(items)]
    columns = [
        ["user"] * len(users) + ["item"] * len(items), pa.array([*users, *items], pa.int32()), pa.array(as_of),
        _lists(_unit(rng.standard_normal((len(users) + len(items), T)))),
    ]  # fmt: skip
    return pa.table(columns, schema=knowledge(T).schema)


def _match(samples: pa.Table, examples: pa.Table, text_IT: np.ndarray) -> pa.Table:
    rows = encode_rows(samples, LENGTH)
    query = TextSpace(_space()).query_vectors(text_IT, rows.item_row_N, rows.history_row_NL)
    found = ExactSearcher().search(
        query, _keys(samples), _array(examples["vector"]), _keys(examples), examples["label"].to_numpy(),
        k=K, balance="labels", guard=Guard("global", examples["split"].to_pylist()),
    )  # fmt: skip
    ids = np.where(found.index_NK < 0, -1, examples["sample_id"].to_numpy()[found.index_NK])
    return pa.table([samples["sample_id"], _lists(ids), _lists(found.score_NK)], schema=example_match(K).schema)


def _keys(table: pa.Table) -> Keys:
    return Keys(*(table[name].to_numpy() for name in ("sample_id", "user_row", "item_row", "time")))


def _space() -> TextSpaceConfig:
    return TextSpaceConfig(**MATCH_SECTION["space"])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _array(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), -1)


def _lists(array: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
