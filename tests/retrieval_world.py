"""A small data set for tests of candidate retrieval, made by ingest itself.

Items stand in rings of five. A user goes around one ring and now and then changes it, so that the next item follows
from the last ones, and not from how popular it is. Several events share a time, some ratings are low, and some users
are new in the test split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from llmcf_cli.data.ingest import ingest
from llmcf_cli.plugin import registry
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.input.dataset import TaskData, load_task_data
from llmcf_cli.rec.retrieval.config import RetrievalConfig
from llmcf_cli.rec.retrieval.model import RetrievalModel
from llmcf_cli.rec.retrieval.task import Retrieval
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.store.open import open_lance
from llmcf_cli.store.tables import item_text

USERS, ITEMS, RING, LENGTH, T = 200, 60, 5, 8, 16


def write_events(folder: Path, seed: int = 0, users: int = USERS) -> None:
    """Write `events.csv` and `items.csv`."""
    rng = np.random.default_rng(seed)
    rows = ["user,item,rating,time"]
    for user in range(users):
        time = 874_965_758 + (9000 if user >= users * 0.9 else 0)  # seconds: some day in 1997
        time += int(rng.integers(0, 9000 if user < users * 0.9 else 200))
        at, seen = int(rng.integers(ITEMS)), set()
        for _ in range(int(rng.integers(4, 24))):
            ring = at // RING
            at = ring * RING + (at + 1) % RING if rng.random() < 0.8 else int(rng.integers(ITEMS))
            if at in seen:
                at = int(rng.integers(ITEMS))
            if at not in seen:
                seen.add(at)
                rows.append(f"u{user},i{at:02d},{2 if rng.random() < 0.15 else 5},{time}")
            time += int(rng.integers(0, 60)) * int(rng.random() < 0.8)
    (folder / "events.csv").write_text("\n".join(rows) + "\n")
    items = [f"i{item:02d},ring {item // RING} item {item}" for item in range(ITEMS)]
    (folder / "items.csv").write_text("item,title\n" + "\n".join(items) + "\n")


def section(folder: Path, split: dict[str, Any] | None = None, **changes: Any) -> DatasetSection:
    """The data set of `write_events`."""
    return DatasetSection.model_validate({
        "source": {
            "type": "csv", "interactions": str(folder / "events.csv"), "items": str(folder / "items.csv"),
            "columns": {"user": "user", "item": "item", "rating": "rating", "time": "time"},
        },
        "label": {"type": "rating", "positive_from": 4},
        "split": split or {"type": "global_time", "validation": 0.15, "test": 0.15},
        "history": {"max_length": LENGTH}, **changes,
    })  # fmt: skip


def load(database: Path, length: int = LENGTH, read: str = "positive", **task: Any) -> TaskData:
    """What models of the task read, with texts in which a ring's items are alike."""
    folder = database.parent / "embed" / "lance"
    if not folder.exists():
        _write_texts(database, folder)
    configs = [registry().get("input", "text").config()(), registry().get("input", "events").config()(read=read)]
    return load_task_data(
        database, Retrieval(RetrievalConfig(**task)), history_length=length, inputs=configs,
        folders={"embed": folder.parent},
    )  # fmt: skip


def make_data(folder: Path, *, split: dict[str, Any] | None = None, **task: Any) -> TaskData:
    """Write, ingest and load."""
    write_events(folder)
    ingest(section(folder, split), locate=Path, seed=1, out=folder / "data.duckdb")
    return load(folder / "data.duckdb", **task)


def _write_texts(database: Path, folder: Path) -> None:
    from llmcf_cli.store.open import connect_read

    with connect_read(database) as connection:
        found = connection.sql("SELECT item_row, item_id FROM item ORDER BY item_row").to_arrow_table()
    rng = np.random.default_rng(3)
    ring = [int(name[1:]) // RING for name in found["item_id"].to_pylist()]
    vector = rng.standard_normal((ITEMS // RING, T))[ring] + 0.3 * rng.standard_normal((len(ring), T))
    vector = (vector / np.linalg.norm(vector, axis=1, keepdims=True)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vector.ravel()), T)
    schema = item_text(T).schema
    open_lance(folder).create_table("item_text", pa.table([found["item_row"], found["item_id"], lists], schema=schema))


def default(kind: str, name: str, **settings: Any) -> Any:
    """Settings of a component."""
    return registry().get(kind, name).config()(**settings)


def save(
    folder: Path, resources: Any, backbone: str = "sasrec", augment: str = "text_tower", task: Any = None
) -> Path:  # fmt: skip
    """A bundle of a model that was not trained, its weights far from each other."""
    model = RetrievalModel(resources, default("backbone", backbone), default("augmenter", augment), seed=1)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.arange(parameter.numel()).sin().view_as(parameter)
    save_bundle(folder, model, task=task or RetrievalConfig(), recipe={"name": "shop"}, clock="global")
    return folder
