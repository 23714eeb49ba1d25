"""Stored matches: every sample once, with the scores that space and weights give."""

from __future__ import annotations

import pickle
import random
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from refusals import refused

from llmcf_cli.core.errors import StoreError
from llmcf_cli.match.config import TextSpaceConfig
from llmcf_cli.match.materialise import ExampleStore, match_samples
from llmcf_cli.match.space import TextSpace
from llmcf_cli.recipe.sections import MatchSection
from llmcf_cli.scale import LOCAL
from llmcf_cli.store.open import open_lance

SPACE = {"type": "text", "encoder": "asset:any", "history_weight": 0.3, "item_weight": 0.7}


@pytest.fixture(scope="module")
def database(world, tmp_path_factory) -> Path:
    """The world's, with times that users share."""
    file = tmp_path_factory.mktemp("ingest") / "data.duckdb"
    file.write_bytes(world.database.read_bytes())
    with duckdb.connect(str(file)) as connection:
        connection.execute("UPDATE meta SET value = 'global' WHERE key = 'clock'")
    return file


@pytest.fixture(scope="module")
def store(world, tmp_path_factory) -> ExampleStore:
    """The world's items and examples."""
    folder = tmp_path_factory.mktemp("lance")
    open_lance(folder).create_table("item_text", world.item_text)
    open_lance(folder).create_table("cot_example", world.examples)
    return ExampleStore(folder, folder)


@pytest.fixture
def match(database, store, tmp_path, monkeypatch):
    """Match all samples in blocks of 50; the table."""
    monkeypatch.setattr("llmcf_cli.match.materialise.ROWS_AT_ONCE", 50)

    def run(executor=LOCAL, store=store, **section):
        out = tmp_path / "match.parquet"
        section = MatchSection(space=SPACE, **{"k": 4, **section})
        match_samples(section, data=database, store=store, history_length=5, out=out, executor=executor)
        return pq.read_table(out)

    return run


class Shuffled:
    """Gives the results of a copy of the worker in another order than that of the items."""

    @contextmanager
    def pool(self, worker):
        self._worker = pickle.loads(pickle.dumps(worker))
        yield self

    def map(self, items):
        done = [(item, self._worker(item)) for item in items]
        random.Random(5).shuffle(done)
        yield from done


@pytest.mark.parametrize("search", ["exact", "random", {"type": "ann", "index": "flat", "time_block": 32}])
def test_rows_do_not_depend_on_who_finds_them_or_in_which_order(match, search):
    assert match(Shuffled(), search=search).equals(match(search=search))


def test_examples_may_be_copied_to_an_address(match, store, tmp_path):
    address = (tmp_path / "bucket").as_uri()
    copy = store.copied(f"{address}/items", f"{address}/examples")
    assert match(store=copy).equals(match())
    assert store.copied(copy.items, copy.examples) == copy, "what is there is not copied again"
    assert len(open_lance(copy.examples).open_table("cot_example").list_versions()) == 1
    with refused("store-unreadable", StoreError):
        match(store=ExampleStore(copy.items, f"{address}/nowhere"))


def test_every_sample_is_matched_once_by_the_space(world, match):
    resources = world.data.resources
    bank = resources.get("examples")
    table = match()
    ids = table["sample_id"].to_numpy()
    row_of = {sample_id: row for row, sample_id in enumerate(ids.tolist())}
    assert len(row_of) == len(ids) == sum(map(len, world.data.splits.values()))
    at_of = {sample_id: at for at, sample_id in enumerate(bank.samples.sample_id_N.tolist())}
    found, scores = table["example_sample_id"].to_pylist(), table["score"].to_pylist()
    space, item_IT, checked = TextSpace(TextSpaceConfig(**SPACE)), resources.get("text"), 0
    example_ED = space.example_vectors(item_IT, bank.samples.item_row_N, bank.samples.history_row_NL)
    for rows in world.data.splits.values():
        query_ND = space.query_vectors(item_IT, rows.item_row_N, rows.history_row_NL)
        for query_D, sample_id in zip(query_ND, rows.sample_id_N.tolist(), strict=True):
            row = row_of[sample_id]
            for example, score in zip(found[row], scores[row], strict=True):
                if example >= 0:
                    assert score == pytest.approx(float(example_ED[at_of[example]] @ query_D), abs=1e-5)
                    checked += 1
    assert checked > 500
