"""`train-rec`: train one arm (a backbone with an augmenter) with one seed, and bundle it for serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmcf_cli.plugin import registry
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, SeededArmStage, Stage
from llmcf_cli.stages.steps.search import Search, best_settings
from llmcf_cli.stages.steps.task_data import arm_model, arm_stages, task_data, trained_sections
from llmcf_cli.store.open import read_clock

BUNDLE = "bundle"
"""Folder of the model to serve, inside the stage's folder."""


@dataclass(frozen=True)
class TrainRec(SeededArmStage):
    """Fits an arm on the train split, stopping by validation; the test split is not read."""

    name = "train-rec"
    version = 3

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": self.seed, "serve.histories": recipe.serve.histories, **trained_sections(recipe)}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        search = [Search(self.arm)] if recipe.search else []
        return [*arm_stages(recipe), *search]

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.rec.bundle.bundle import save_bundle
        from llmcf_cli.rec.train.fit import fit

        recipe = job.recipe
        if recipe.search:
            recipe = recipe.with_changes(best_settings(job.inputs[Search.name]))
        data = task_data(recipe, job.inputs)
        if not recipe.serve.histories:
            data = replace(data, resources=replace(data.resources, histories=None))
        model = arm_model(recipe, data, self.seed)
        report = fit(model, data, recipe.rec.fit, seed=self.seed, work=job.work, progress=job.progress)
        clock = read_clock(job.database)
        save_bundle(job.out / BUNDLE, model, task=recipe.rec.task, recipe=recipe.model_dump(mode="json"), clock=clock)
        meaning = registry().get("augmenter", recipe.rec.augment.type).summary
        return {"arm": self.arm, "seed": self.seed, "meaning": meaning, **report.to_json()}
