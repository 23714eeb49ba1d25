"""`train-rec`: train one arm (a backbone with an augmenter) with one seed, and bundle it for serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.plugin import registry
from llmcf_cli.rec.input.needs import closure
from llmcf_cli.rec.train.reports import Epoch
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, SeededArmStage, Stage
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.stages.steps.search import Search, best_settings
from llmcf_cli.stages.steps.task_data import (
    arm_model,
    arm_needs,
    arm_stages,
    input_configs,
    served_needs,
    task_data,
    trained_sections,
)
from llmcf_cli.store.layout import File, Output
from llmcf_cli.store.open import read_clock, read_parquet

if TYPE_CHECKING:
    from llmcf_cli.rec.input.resources import Resources


class TrainRecOutput(Output):
    """The trained model."""

    bundle = File("bundle", "the model to serve")


@dataclass(frozen=True, kw_only=True)
class ArmReport:
    """How one arm and seed did on validation.

    Attributes:
        arm: Name of the arm.
        seed: Its seed.
        meaning: What the arm is, in a few words.
        best: Validation measures by name, at their best.
        monitor: Name of the measure that choices went by.
        monitor_title: What tables call it.
    """

    arm: str
    seed: int
    meaning: str
    best: dict[str, float]
    monitor: str
    monitor_title: str


@dataclass(frozen=True, kw_only=True)
class TrainRecReport(ArmReport):
    """How a training went.

    Attributes:
        epochs: Every epoch that was run.
        best_epoch: Number of the epoch whose weights were kept.
        num_parameters: Learned numbers of the model.
        num_samples: Rows of an epoch.
        peak_memory: Bytes that training added to the process at most.
        notes: What the augmenter could not tell of the examples there are.
        seconds_per_epoch: Median over the epochs.
        samples_per_second: Rows over that time.
    """

    epochs: list[Epoch]
    best_epoch: int
    num_parameters: int
    num_samples: int
    peak_memory: int
    notes: list[str] = field(default_factory=list)
    seconds_per_epoch: float
    samples_per_second: float


@dataclass(frozen=True)
class TrainRec(SeededArmStage):
    """Fits an arm on the train split, stopping by validation; the test split is not read."""

    name = "train-rec"
    version = 3
    report = TrainRecReport
    output = TrainRecOutput
    tracked = True

    @classmethod
    def of(cls, recipe: Recipe) -> Sequence[Self]:
        return [cls(arm, seed) for arm in recipe.arms for seed in recipe.seeds]

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        served: dict[str, Any] = {"serve.histories": recipe.serve.histories}
        if shows_reasoning(recipe):
            served["serve.reasoning"] = True
        return {"seed": self.seed, **served, **trained_sections(recipe)}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        search = [Search(self.arm)] if recipe.search else []
        shown = [GenCoT()] if shows_reasoning(recipe) else []
        return [*arm_stages(recipe), *shown, *search]

    def run(self, job: Job) -> TrainRecReport:
        from llmcf_cli.data.raw import SOURCE
        from llmcf_cli.rec.bundle.bundle import save_bundle
        from llmcf_cli.rec.input.base import forgetful
        from llmcf_cli.rec.train.fit import fit

        recipe = job.recipe
        if recipe.search:
            recipe = recipe.with_changes(best_settings(job.inputs[Search.name]))
        data = task_data(recipe, job.inputs, arm_needs(recipe))
        model = arm_model(recipe, data, self.seed)
        report = fit(model, data, recipe.rec.fit, seed=self.seed, work=job.work, progress=job.progress)
        bundle, clock = TrainRecOutput(job.out).bundle, read_clock(job.database)
        if not recipe.serve.histories:
            model = model.with_items(forgetful(model.resources))
        save_bundle(
            bundle, model, task=recipe.rec.task, recipe=recipe.model_dump(mode="json"), clock=clock,
            times=registry().build(SOURCE, recipe.dataset.source).times,
            inputs=input_configs(recipe, served_needs(recipe), job.context.locate.digest),
            reasoning=_reasoning(job, model.resources) if shows_reasoning(recipe) else None,
        )  # fmt: skip
        meaning = registry().get("augmenter", recipe.rec.augment.type).summary
        return TrainRecReport(
            arm=self.arm, seed=self.seed, meaning=meaning, best=report.best, **vars(report),
            seconds_per_epoch=report.seconds_per_epoch, samples_per_second=report.samples_per_second,
        )  # fmt: skip


def shows_reasoning(recipe: Recipe) -> bool:
    """Whether the arm's bundle holds the texts of its examples' chains of thought, each example its own."""
    return recipe.serve.reasoning and recipe.rec.cot == "own" and "examples" in closure(recipe.rec.augment.needs)


def _reasoning(job: Job, resources: Resources) -> list[str]:
    """The texts of the examples' chains of thought, in the order of the bank."""
    return texts_of(CoTOutput(job.inputs["gen-cot"]).cots, resources.get("examples").samples.sample_id_N.tolist())


def texts_of(cots: Path, samples: Sequence[int]) -> list[str]:
    """The chains of thought of some samples, of a table `cot`."""
    written = read_parquet(cots, ["sample_id", "text"])
    texts = dict(zip(written["sample_id"].to_pylist(), written["text"].to_pylist(), strict=True))
    return [texts[sample] for sample in samples]
