"""`gen-cot` and `match` on a Ray cluster of two nodes, one of which is lost, against one process: a tiny model."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from llmcf_cli.core.progress import SILENT, SilentProgress
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.scale.cluster import RayExecutor
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.stages.steps.match import Match
from llmcf_cli.store.artifacts import ArtifactStore

RECIPE = """\
extends: base.yaml
name: scaled
cot: {engine: {max_batch: 2, temperature: 0.7, samples: 2}}
rec: {backbone: {type: deepfm, embedding_dim: 8, hidden: [16]}}
"""


class AfterFirst(SilentProgress):
    """Does something, once, when the first text of `gen-cot` is there."""

    def __init__(self, act) -> None:
        self._act = act

    @contextmanager
    def task(self, name, total, unit, done=0):
        with super().task(name, total, unit, done) as task:
            if name == "gen-cot":
                task.advance = self._advance
            yield task

    def _advance(self, amount=1):
        if amount and self._act:
            act, self._act = self._act, None
            act()


def made(context, stage, progress=SILENT):
    """The report and folder of a stage, after it and all it needs."""
    reports = {}
    steps = plan(context, [stage])
    execute(steps, progress, on_start=lambda step: None,
            on_end=lambda step, manifest: reports.update({step.node.stage.name: manifest.report}))  # fmt: skip
    return reports[stage.name], steps[-1].node.folder


@pytest.mark.slow
def test_two_nodes_write_and_find_what_one_process_does(tmp_path, write_ratings, monkeypatch):
    from ray.cluster_utils import Cluster

    write_ratings(tmp_path, users=20, items=25)
    (tmp_path / "scaled.yaml").write_text(RECIPE)
    here = open_context(load_recipe(tmp_path / "scaled.yaml"), tmp_path / "here")
    texts, cots = made(here, GenCoT())
    _, matches = made(here, Match())
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for folder in ("gen-cot", "examples", "match", "cache"):
        shutil.rmtree(tmp_path / "there" / folder)

    node = {"num_cpus": 1, "object_store_memory": 100 * 1024 * 1024}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    try:
        there = replace(here, store=ArtifactStore(tmp_path / "there"), executor=RayExecutor(cluster.address))
        losing = AfterFirst(lambda: cluster.remove_node(second, allow_graceful=False))
        found, scaled_cots = made(there, GenCoT(), losing)
        assert losing._act is None
        cluster.add_node(**node)
        monkeypatch.setattr("llmcf_cli.match.materialise.ROWS_AT_ONCE", 20)
        _, scaled_matches = made(replace(there, shared=(tmp_path / "bucket").as_uri()), Match())
    finally:
        cluster.shutdown()

    assert scaled_cots.name == cots.name, "who makes a result is no part of what it is"
    assert scaled_matches.name == matches.name
    calls = texts["generated"]
    assert found["generated"] == calls >= 70
    assert found["failed"] == found["cached"] == 0
    with closing(sqlite3.connect(there.generations)) as connection:
        assert connection.execute("SELECT count(*), max(attempts) FROM generation").fetchall() == [(calls, 1)]
        assert connection.execute("SELECT count(*) FROM generation_lease").fetchall() == [(0,)]
    for name in ("cot", "cot_candidate", "cot_dropped"):
        assert pq.read_table(scaled_cots / f"{name}.parquet").equals(pq.read_table(cots / f"{name}.parquet"))
    scaled = pq.read_table(scaled_matches / "example_match.parquet")
    assert scaled.num_rows > 100
    assert scaled.equals(pq.read_table(matches / "example_match.parquet"))
