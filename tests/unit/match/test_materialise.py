"""Stored matches: every sample once, with the scores that space and weights give."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from llmcf_cli.match.config import TextSpaceConfig
from llmcf_cli.match.materialise import match_samples
from llmcf_cli.match.space import TextSpace
from llmcf_cli.recipe.sections import MatchSection
from llmcf_cli.store.tables import META

SPACE = {"type": "text", "encoder": "asset:any", "history_weight": 0.3, "item_weight": 0.7}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("rec_world", Path(__file__).parents[2] / "rec_world.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["rec_world"] = module
    spec.loader.exec_module(module)
    return module.make_world(tmp_path_factory.mktemp("world"))


def test_every_sample_is_matched_once_by_the_space(world, tmp_path, monkeypatch):
    resources = world.data.resources
    bank = resources.bank
    monkeypatch.setattr("llmcf_cli.match.materialise.ROWS_AT_ONCE", 50)
    out, database = tmp_path / "match.parquet", tmp_path / "data.duckdb"
    database.write_bytes(world.database.read_bytes())
    with duckdb.connect(str(database)) as connection:
        connection.execute(META.ddl())
        connection.execute("INSERT INTO meta VALUES ('clock', 'global')")
    match_samples(
        MatchSection(space=SPACE, k=4), data=database, item_text=world.item_text, examples=world.examples,
        history_length=5, out=out,
    )  # fmt: skip
    table = pq.read_table(out)
    ids = table["sample_id"].to_numpy()
    row_of = {sample_id: row for row, sample_id in enumerate(ids.tolist())}
    assert len(row_of) == len(ids) == sum(map(len, world.data.splits.values()))
    at_of = {sample_id: at for at, sample_id in enumerate(bank.samples.sample_id_N.tolist())}
    found, scores = table["example_sample_id"].to_pylist(), table["score"].to_pylist()
    space, item_IT, checked = TextSpace(TextSpaceConfig(**SPACE)), resources.item_text_IT, 0
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
