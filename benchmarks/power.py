"""Whether an augmentation sees reasoning that is there: AUC against the truth of texts and the size of the pool.

    python benchmarks/power.py [--quick] [--world N] [--seeds 1 2 3] [--plot FILE.png]

In a planted world labels depend on attributes of items that no column has, and chains of thought written by rule state
them with a given truth. Arms are DeepFM alone (`none`), with text vectors (`text`), with LLM-CF (`ict`) and with
`readout`; controls of the last two carry the chain of thought of another example (shuffled), the mean of all (mean), or
see random examples (random); texts of truth 0 are all false. The ceiling is told what the texts about the same item
say, as one-hot context beside the texts. Reported: test AUC, mean ± standard deviation over seeds, and the share of the
gap from `text` to the ceiling that an arm closes. The ratio is that of `readout` at truth 1 with half of the train rows
as examples; higher is better. --quick: the two ends of the curve at that size only.
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
from typing import Literal

import numpy as np
import torch
from torch import nn

from llmcf_cli.core.progress import SILENT
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.planted.config import PlantedConfig
from llmcf_cli.planted.world import make_world
from llmcf_cli.plugin import registry
from llmcf_cli.rec.augment.base import Augmentation, Augmenter, AugmentInput, AugmentShape
from llmcf_cli.rec.augment.text import TextAugmenter
from llmcf_cli.rec.config import BackboneConfig, ICTConfig, NoneConfig, ReadoutConfig, TextConfig
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.input.examples import EXAMPLES, ExampleBank
from llmcf_cli.rec.measure.metrics import auc
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.rec.train.predict import score
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.steps.match import Match
from llmcf_cli.stages.steps.task_data import arm_objectives, task_data
from llmcf_cli.store.open import connect_read

TARGET = 0.7
RECIPE = "planted/base"
NEEDS = frozenset({"text", "examples"})


class CeilingConfig(ComponentConfig):
    """What same-item texts say, told."""

    needs = NEEDS

    type: Literal["ceiling"] = "ceiling"
    dim: int = 32
    """Numbers in the context feature."""


class CeilingAugmenter(Augmenter):
    """context = that of `text` + W · (mean of the vectors of the examples of the same item); zeros without any."""

    def __init__(self, config: CeilingConfig, shape: AugmentShape) -> None:
        super().__init__()
        self.context_dim = config.dim
        self.text = TextAugmenter(TextConfig(dim=config.dim), shape)
        self.linear = nn.Linear(shape.size("cot"), config.dim, bias=False)
        nn.init.normal_(self.linear.weight, std=0.3)

    def forward(self, x: AugmentInput) -> Augmentation:
        """Context [B, C]."""
        examples = x.inputs["examples"]
        same_BK = (x.likeness().item_BK > 0.9999) & examples.mask_BK
        share_BK = same_BK / same_BK.sum(1, keepdim=True).clamp_min(1)
        told_BKT = nn.functional.embedding(examples.slot_BK, examples.cot_UT)
        return Augmentation(self.text(x).context_BC + self.linear(torch.einsum("bk,bkt->bt", share_BK, told_BKT)))


def prepare(folder: Path, *changes: str) -> tuple[Recipe, TaskData, Path]:
    """The planted recipe with some settings changed, its data up to `match`, and the database."""
    loaded = load_recipe(RECIPE, changes)
    steps = plan(open_context(loaded, folder), [Match()])
    execute(steps, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None)
    folders = {step.node.stage.name: step.node.folder for step in steps}
    return loaded.recipe, task_data(loaded.recipe, folders, NEEDS), folders["ingest"] / "data.duckdb"


def told(recipe: Recipe, data: TaskData, database: Path) -> TaskData:
    """The data with the hidden attributes of each example's item, one-hot, in place of its chain of thought."""
    source = recipe.dataset.source
    assert isinstance(source, PlantedConfig)
    with connect_read(database) as connection:
        names = dict(connection.execute("SELECT item_row, item_id FROM item").fetchall())
    hidden_IA = make_world(source).hidden_IA
    bank: ExampleBank = data.resources.get(EXAMPLES)
    item_E = [int(names[row][1:]) for row in bank.samples.item_row_N.tolist()]
    one_hot_ET = np.eye(source.values, dtype=np.float32)[hidden_IA[item_E]].reshape(len(item_E), -1)
    return with_cots(data, one_hot_ET)


def shuffled(data: TaskData, seed: int = 0) -> TaskData:
    """The data with each chain of thought at another example of its label."""
    bank: ExampleBank = data.resources.get(EXAMPLES)
    rng, source_E = np.random.default_rng(seed), np.arange(len(bank))
    for label in (0, 1):
        order = rng.permutation(np.flatnonzero(bank.samples.label_N == label))
        source_E[order] = np.roll(order, 1)
    return with_cots(data, bank.cot_ET[source_E])


def mean_text(data: TaskData) -> TaskData:
    """The data with the mean of all chains of thought at each example."""
    cot_ET = data.resources.get(EXAMPLES).cot_ET
    return with_cots(data, np.broadcast_to(cot_ET.mean(0), cot_ET.shape).copy())


def with_cots(data: TaskData, cot_ET: np.ndarray) -> TaskData:
    """The data with other vectors of chains of thought."""
    bank = replace(data.resources.get(EXAMPLES), cot_ET=np.ascontiguousarray(cot_ET, np.float32))
    return replace(data, resources=data.resources.holding(**{EXAMPLES: bank}))


def test_aucs(recipe: Recipe, data: TaskData, augment: ComponentConfig, seeds: Sequence[int]) -> list[float]:
    """Test AUC of the recipe's backbone with an augmenter, per seed."""
    found, arm = [], recipe.model_copy(update={"rec": recipe.rec.model_copy(update={"augment": augment})})
    backbone = recipe.rec.backbone
    assert isinstance(backbone, BackboneConfig)
    for seed in seeds:
        model = RecModel(data.resources, backbone, augment, arm_objectives(arm), seed=seed)
        with tempfile.TemporaryDirectory() as work:
            fit(model, data, recipe.rec.fit, seed=seed, work=Path(work))
        test = data.batch("test", inputs=model.reads)
        found.append(auc(data.targets["test"], score(model, test, 4096).numpy()))
    return found


def closed(aucs: Sequence[float], text: Sequence[float], ceiling: Sequence[float]) -> float:
    """Share of the gap from `text` to the ceiling that an arm closes, by means over seeds."""
    low, high = statistics.mean(text), statistics.mean(ceiling)
    return (statistics.mean(aucs) - low) / (high - low)


def measure(
    folder: Path, world: int, seeds: Sequence[int], truths: Sequence[float], pools: Sequence[float],
    controls: Sequence[str], arms: Sequence[ComponentConfig], *changes: str,
) -> dict[str, dict[str, list[float]]]:  # fmt: skip
    """Test AUCs: (pool and truth, e.g. `0.5 1.0`) → arm → per seed.

    Args:
        folder: Where artifacts go.
        world: Seed of the world.
        seeds: Of training.
        truths: Of the texts; at truth 1 the controls are made too.
        pools: Shares of the train rows that are examples.
        controls: Some of `shuffled`, `mean` and `random`.
        arms: What is measured beside `none`, `text` and the ceiling.
        changes: Further settings of the recipe, `KEY=VALUE`.
    """
    if "ceiling" not in registry().names("augmenter"):
        registry().add(
            "augmenter", "ceiling", config=f"{__name__}:CeilingConfig", target=f"{__name__}:CeilingAugmenter",
            summary="what same-item texts say, told",
        )  # fmt: skip
    found: dict[str, dict[str, list[float]]] = {}
    for pool in pools:
        base: dict[str, list[float]] = {}
        for truth in truths:
            settings = (f"dataset.source.seed={world}", f"cot.sample.fraction={pool}", f"cot.engine.truth={truth}")
            recipe, data, database = prepare(folder, *settings, *changes)
            if not base:
                base = {arm.type: test_aucs(recipe, data, arm, seeds) for arm in (NoneConfig(), TextConfig())}
                base["ceiling"] = test_aucs(recipe, told(recipe, data, database), CeilingConfig(), seeds)
            row = found[f"{pool} {truth}"] = dict(base)
            for arm in arms:
                row[arm.type] = test_aucs(recipe, data, arm, seeds)
                if truth == 1:
                    for control in controls:
                        other = _control(control, data, folder, settings, changes)
                        row[f"{arm.type} {control}"] = test_aucs(recipe, other, arm, seeds)
    return found


def _control(
    name: str, data: TaskData, folder: Path, settings: Sequence[str], changes: Sequence[str]
) -> TaskData:  # fmt: skip
    if name == "random":
        return prepare(folder, *settings, *changes, "match.search=random")[1]
    return {"shuffled": shuffled, "mean": mean_text}[name](data)


def draw(found: dict[str, dict[str, list[float]]], file: Path) -> None:
    """AUC against the truth of the texts, one panel per size of the pool, bars of one standard deviation."""
    from matplotlib.figure import Figure

    pools = sorted({at.split()[0] for at in found}, key=float)
    figure = Figure(figsize=(4.6 * len(pools), 3.6), dpi=110, layout="constrained")
    for axes, pool in zip(figure.subplots(1, len(pools), sharey=True, squeeze=False)[0], pools, strict=True):
        truths = sorted(float(at.split()[1]) for at in found if at.split()[0] == pool)
        for arm in found[f"{pool} {truths[-1]}"]:
            rows = [(truth, found[f"{pool} {truth}"][arm]) for truth in truths if arm in found[f"{pool} {truth}"]]
            means, spreads = ([of(aucs) for _, aucs in rows] for of in (statistics.mean, _spread))
            style = {"marker": "x", "linestyle": "none"} if len(rows) < len(truths) else {"marker": "o"}
            if arm in ("none", "text", "ceiling"):
                style = {"linestyle": "--"}
            axes.errorbar([truth for truth, _ in rows], means, spreads, label=arm, capsize=2, markersize=5, **style)
        axes.set(title=f"examples: {float(pool):.0%} of the train rows", xlabel="truth of the texts")
    figure.axes[0].set_ylabel("test AUC")
    figure.axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file)


def _spread(aucs: Sequence[float]) -> float:
    return statistics.stdev(aucs) if len(aucs) > 1 else 0.0


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="truth 0 and 1 with half of the train rows, readout only")
    parser.add_argument("--world", type=int, default=1, help="seed of the world")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of training")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    truths, pools = ((0.0, 1.0), (0.5,)) if options.quick else ((0.0, 0.5, 0.8, 1.0), (0.1, 0.5))
    controls = ("shuffled",) if options.quick else ("shuffled", "mean", "random")
    arms = (ReadoutConfig(),) if options.quick else (ICTConfig(), ReadoutConfig())
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.world, options.seeds, truths, pools, controls, arms)

    print(f"{'pool':>5}{'truth':>7}  {'arm':<18}{'AUC':>16}{'gap closed':>12}")
    for at, row in found.items():
        pool, truth = at.split()
        for arm, aucs in row.items():
            shown = f"{statistics.mean(aucs):.4f} ± {_spread(aucs):.4f}"
            print(f"{pool:>5}{truth:>7}  {arm:<18}{shown:>16}{closed(aucs, row['text'], row['ceiling']):>12.0%}")
    if options.plot:
        draw(found, options.plot)
    best = found["0.5 1.0"]
    ratio = closed(best["readout"], best["text"], best["ceiling"])
    result = {"name": "power", "ratio": round(ratio, 3), "target": TARGET, "ok": ratio >= TARGET}
    print(json.dumps({**result, "detail": {"world": options.world, "seeds": options.seeds, "auc": found}}))
    sys.exit(0 if ratio >= TARGET else 1)


if __name__ == "__main__":
    main()
