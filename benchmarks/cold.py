"""What texts do for new items: texts about samples (`readout`) and texts about items (`kar`), in a planted world.

    python benchmarks/cold.py [--world N] [--seeds 1 2 3]

Three in ten books of the world of `power.py` come out in the time of validation and test, so half of the test samples
are of a book that nobody liked in train. Texts about samples state the book's hidden attributes, but are of train rows
alone. Texts about items state them for a book: for every one; for those alone that train rows are of; or for every one,
each that of another book (shuffled). Arms are DeepFM alone, with text vectors, with `readout`, and with `kar` whose
context holds the text's, too. Reported: test AUC of all samples, of books without a positive in train, and of books
that no train row is of; mean ± standard deviation over seeds. The ratio is the AUC that `kar` gains over `text` for
books without a positive; higher is better.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from power import prepare

from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.llm.config import HashingEncoderConfig, PlantedEngineConfig
from llmcf_cli.llm.engines.base import Ingested, Subject
from llmcf_cli.llm.engines.planted import PlantedEngine
from llmcf_cli.llm.models.hashing import HashingEncoder
from llmcf_cli.llm.writing.subjects import ALWAYS
from llmcf_cli.rec.config import BackboneConfig, KARConfig, NoneConfig, ReadoutConfig, TextConfig
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.input.knowledge import EntityKnowledge, Knowledge
from llmcf_cli.rec.measure.metrics import auc
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.rec.train.predict import score
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.words import Words
from llmcf_cli.stages.steps.task_data import arm_objectives
from llmcf_cli.store.open import connect_read

TARGET = 0.05
ARMS = ("none", "text", "readout", "kar, every book", "kar, books of train", "kar, every book, shuffled")
SLICES = ("all", "no positive in train", "not in train")


def about_items(recipe: Recipe, data: TaskData, database: Path) -> NDArray[np.float32]:
    """Vectors of a text about each book, with its hidden attributes, [I + 1, T]; row 0 is zeros."""
    engine = PlantedEngine(PlantedEngineConfig())
    engine.open(Ingested(database, recipe.dataset.source, Words(), recipe.seed))
    with connect_read(database) as connection:
        rows = connection.execute("SELECT item_row FROM item ORDER BY item_row").fetchall()
    texts = engine.describe("item", [Subject(row, ALWAYS, "") for (row,) in rows])
    return np.pad(HashingEncoder(HashingEncoderConfig()).encode(texts), ((1, 0), (0, 0)))


def knowing(data: TaskData, vector_IT: NDArray[np.float32], described_I: NDArray[np.bool_]) -> TaskData:
    """The data with what is known of the books that are described, and nothing of readers."""
    row_n = np.flatnonzero(described_I)
    slot_I = np.zeros(len(vector_IT), np.int64)
    slot_I[row_n] = np.arange(1, len(row_n) + 1)
    items = EntityKnowledge(slot_I, np.pad(vector_IT[row_n], ((1, 0), (0, 0))), np.full(len(row_n) + 1, ALWAYS))
    slot_U = np.zeros(len(data.resources.catalog.users.ids) + 1, np.int64)
    users = EntityKnowledge(slot_U, np.zeros((1, vector_IT.shape[1]), np.float32), np.full(1, ALWAYS))
    return replace(data, resources=data.resources.holding(knowledge=Knowledge(users, items)))


def aucs(recipe: Recipe, data: TaskData, augment: ComponentConfig, seeds: Sequence[int]) -> list[list[float]]:
    """Test AUC of each of `SLICES`, per seed."""
    arm = recipe.model_copy(update={"rec": recipe.rec.model_copy(update={"augment": augment})})
    backbone = recipe.rec.backbone
    assert isinstance(backbone, BackboneConfig)
    item_N, label_N = data.splits["test"].item_row_N, data.targets["test"]
    inside = [np.ones(len(item_N), bool)]
    for rows in (data.splits["train"].item_row_N[data.targets["train"] > 0], data.splits["train"].item_row_N):
        inside.append(~np.isin(item_N, rows))
    found = []
    for seed in seeds:
        model = RecModel(data.resources, backbone, augment, arm_objectives(arm), seed=seed)
        with tempfile.TemporaryDirectory() as work:
            fit(model, data, recipe.rec.fit, seed=seed, work=Path(work))
        score_N = score(model, data.batch("test", inputs=model.reads), 4096).numpy()
        found.append([auc(label_N[in_N], score_N[in_N]) for in_N in inside])
    return found


def measure(folder: Path, world: int, seeds: Sequence[int], arms: Sequence[str] = ARMS) -> dict[str, list[list[float]]]:
    """Arm → per seed, test AUC of each of `SLICES`."""
    settings = ("dataset.source.cold_items=0.3", f"dataset.source.seed={world}", "cot.sample.fraction=0.5")
    recipe, data, database = prepare(folder, *settings)
    vector_IT = about_items(recipe, data, database)
    every_I = np.arange(len(vector_IT)) > 0
    there_I = np.isin(np.arange(len(vector_IT)), data.splits["train"].item_row_N)
    others_IT = vector_IT.copy()
    others_IT[1:] = vector_IT[1:][np.random.default_rng(0).permutation(len(vector_IT) - 1)]
    kar = KARConfig(features=("text",))
    made: list[tuple[TaskData, ComponentConfig]] = [
        (data, NoneConfig()), (data, TextConfig()), (data, ReadoutConfig()),
        (knowing(data, vector_IT, every_I), kar), (knowing(data, vector_IT, there_I), kar),
        (knowing(data, others_IT, every_I), kar),
    ]  # fmt: skip
    return {arm: aucs(recipe, *of, seeds) for arm, of in zip(ARMS, made, strict=True) if arm in arms}


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", type=int, default=1, help="seed of the world")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.world, options.seeds)
    print(f"{'arm':<28}" + "".join(f"{name:>24}" for name in SLICES))
    for arm, rows in found.items():
        parts = [list(part) for part in zip(*rows, strict=True)]
        shown = [f"{statistics.mean(part):.4f} ± {np.std(part, ddof=min(1, len(part) - 1)):.4f}" for part in parts]
        print(f"{arm:<28}" + "".join(f"{part:>24}" for part in shown))
    of = {arm: statistics.mean(row[1] for row in rows) for arm, rows in found.items()}
    ratio = of["kar, every book"] - of["text"]
    result = {"name": "cold", "ratio": round(ratio, 3), "target": TARGET, "ok": ratio >= TARGET}
    print(json.dumps({**result, "detail": {"world": options.world, "seeds": options.seeds, "auc": found}}))
    sys.exit(0 if ratio >= TARGET else 1)


if __name__ == "__main__":
    main()
