"""The stage `collab`: which rows it reads, what it leaves, and that ranking data take it up."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.features.collaborative import load_collaborative
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.base import Context, Job
from llmcf_cli.stages.steps.collab import Collab, CollabOutput
from llmcf_cli.stages.steps.task_data import task_data
from llmcf_cli.store.artifacts import ArtifactStore
from llmcf_cli.store.tables import FEATURE, SAMPLE

ROWS = """
    SELECT row_number() OVER () - 1, u, i, ((u + i) % 2)::TINYINT, row_number() OVER (),
           CASE WHEN i = 7 THEN 'test' WHEN i = 6 THEN 'validation' ELSE 'train' END, []::INTEGER[]
    FROM range(1, 13) users(u), range(1, 8) items(i)
"""


@pytest.fixture
def job(tmp_path):
    recipe = load_recipe("quickstart", ["match.collaborative={dim: 3, folds: 4}"]).recipe
    context = Context(recipe=recipe, store=ArtifactStore(tmp_path), locate=None, models=tmp_path)
    for name in ("ingest", "collab", "work"):
        (tmp_path / name).mkdir()
    with duckdb.connect(str(tmp_path / "ingest" / "data.duckdb")) as connection:
        connection.execute(SAMPLE.ddl())
        connection.execute(f"INSERT INTO sample {ROWS}")
        for kind, count in (("user", 12), ("item", 7)):
            rows = f"SELECT r::INTEGER AS {kind}_row, 'x' || r AS {kind}_id, '' AS text FROM range(1, {count + 1}) t(r)"
            connection.execute(f'CREATE TABLE "{kind}" AS {rows}')
        connection.execute(FEATURE.ddl())
        connection.execute(
            "CREATE TABLE history AS SELECT r::INTEGER AS user_row, []::INTEGER[] AS items, []::BIGINT[] AS times "
            "FROM range(1, 13) t(r)"
        )
    inputs = {"ingest": tmp_path / "ingest"}
    return Job(context, tmp_path / "collab", tmp_path / "work", inputs=inputs, keys={}, progress=SILENT)


def test_train_positives_become_vectors_that_task_data_take_up(job):
    report = Collab().run(job)
    found = load_collaborative(CollabOutput(job.out).vectors)
    assert {name: getattr(report, name) for name in ("positives", "items", "dim", "folds")} == {
        "positives": 30, "items": 5, "dim": 3, "folds": 4
    }  # fmt: skip
    assert found.count_FI[-1].tolist() == [0, 6, 6, 6, 6, 6, 0, 0]  # items 6 and 7 are of other splits
    assert not found.item_FID[:, 6:].any()
    data = task_data(job.recipe, {**job.inputs, "collab": job.out}, frozenset({"collaborative"}))
    assert np.array_equal(data.resources.get("collaborative").item_FID, found.item_FID)
    assert data.values("signals", "train").shape == (60, 7)
    assert task_data(job.recipe, job.inputs).resources.get("collaborative") is None


def test_vectors_of_another_catalogue_are_refused(job):
    Collab().run(job)
    with duckdb.connect(str(job.database)) as connection:
        connection.execute("INSERT INTO item VALUES (8, 'x8', '')")
    with refused("vectors-unfit", DataError, names="12.*7.*12.*8"):
        task_data(job.recipe, {**job.inputs, "collab": job.out}, frozenset({"collaborative"}))
