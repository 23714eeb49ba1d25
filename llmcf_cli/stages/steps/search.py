"""`search`: tune one arm on the validation split, with the trials and the space that every arm gets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import SearchRange
from llmcf_cli.stages.engine.base import ArmStage, Job, Stage
from llmcf_cli.stages.steps.task_data import arm_model, arm_needs, arm_stages, task_data, trained_sections
from llmcf_cli.store.layout import File, Output


class SearchOutput(Output):
    """What was tried, and the best of it."""

    trials = File("trials.json", "every trial: its settings and its measure")
    best = File("best.json", "key path → value of the best trial")


@dataclass(frozen=True)
class SearchReport:
    """The outcome of a search.

    Attributes:
        arm: Name of the arm.
        trials: How many.
        best: Settings of the best, by key path.
        value: The measure that they reach on validation.
        start: That of the recipe's own settings; None where they failed.
        monitor: Name of the measure.
        monitor_title: What tables call it.
    """

    arm: str
    trials: int
    best: dict[str, Any]
    value: float
    start: float | None
    monitor: str
    monitor_title: str


@dataclass(frozen=True)
class Search(ArmStage):
    """Finds an arm's settings; the test split is not read."""

    name = "search"
    version = 1
    report = SearchReport
    output = SearchOutput

    @classmethod
    def of(cls, recipe: Recipe) -> Sequence[Self]:
        return [cls(arm) for arm in recipe.arms] if recipe.search else []

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed, "search": recipe.search, **trained_sections(recipe)}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return arm_stages(recipe)

    def run(self, job: Job) -> SearchReport:
        from llmcf_cli.rec.train.fit import fit
        from llmcf_cli.rec.train.search import search

        recipe, section = job.recipe, job.recipe.search
        assert section is not None
        data = task_data(recipe, job.inputs, arm_needs(recipe))
        monitor = data.task.measure(recipe.rec.monitor)

        def judge(settings: Mapping[str, Any], work: Path) -> float:
            tried = recipe.with_changes(settings)
            epochs = min(section.epochs or tried.rec.fit.epochs, tried.rec.fit.epochs)
            model = arm_model(tried, data, recipe.seed)
            limited = tried.rec.fit.model_copy(update={"epochs": epochs})
            return fit(model, data, limited, seed=recipe.seed, work=work).best[monitor.name]

        space = own_space(recipe, section.space)
        trials = search(
            judge, space, trials=section.trials if space else 1, start={path: recipe.value_at(path) for path in space},
            monitor=monitor, seed=recipe.seed, work=job.work, progress=job.progress,
        )  # fmt: skip
        out = SearchOutput(job.out)
        out.trials.write_text(json.dumps(trials.rows, indent=1) + "\n")
        out.best.write_text(json.dumps(trials.best, indent=1) + "\n")
        return SearchReport(
            arm=self.arm, trials=len(trials.rows), best=trials.best, value=trials.value, start=trials.rows[0]["value"],
            monitor=monitor.name, monitor_title=monitor.title,
        )  # fmt: skip


def best_settings(folder: Path) -> dict[str, Any]:
    """Key path → value, as a search found them."""
    found: dict[str, Any] = json.loads(SearchOutput(folder).best.read_text())
    return found


def own_space(recipe: Recipe, space: Mapping[str, SearchRange]) -> dict[str, SearchRange]:
    """The part of the space that the arm's components have settings for."""
    return {path: values for path, values in space.items() if recipe.value_at(path) is not None}
