"""`baseline`: fit a simple model of another library and score the test split with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.steps.predict import PredictOutput, write_predictions
from llmcf_cli.stages.steps.task_data import component_stages, foreign_inputs, task_data
from llmcf_cli.stages.steps.train_rec import ArmReport


@dataclass(frozen=True, kw_only=True)
class BaselineReport(ArmReport):
    """How a baseline did.

    Attributes:
        seconds: Time of fitting.
    """

    seconds: float


@dataclass(frozen=True)
class FitBaseline(Stage):
    """Fits a baseline on the train split (what it tunes, on validation) and scores the test split once.

    Attributes:
        config: Settings of a registered baseline.
        seed: Its seed.
    """

    config: ComponentConfig
    seed: int

    name = "baseline"
    version = 2
    report = BaselineReport
    output = PredictOutput

    @classmethod
    def of(cls, recipe: Recipe) -> Sequence[Self]:
        return [cls(config, recipe.seeds[0]) for config in recipe.rec.baselines]

    @property
    def arm(self) -> str:
        """Name of the arm in tables."""
        return self.config.type

    @property
    def owner(self) -> str:
        return self.arm

    @property
    def variant(self) -> str:
        return f"{self.arm} seed={self.seed}"

    @property
    def role(self) -> str:
        return self.label

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        own = foreign_inputs(recipe, self.config.needs | recipe.rec.task.needs)
        return {"seed": self.seed, "baseline": self.config, "rec.task": recipe.rec.task, **own}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return component_stages(self.config.needs | recipe.rec.task.needs)

    def run(self, job: Job) -> BaselineReport:
        from llmcf_cli.rec.baselines.base import BASELINE
        from llmcf_cli.rec.measure.base import measured

        data = task_data(job.recipe, job.inputs, self.config.needs | job.recipe.rec.task.needs)
        model = registry().build(BASELINE, self.config)
        meaning = registry().get(BASELINE, self.config.type).summary
        started = time.perf_counter()
        with job.progress.task("baseline", 3, "steps") as task:
            model.fit(data, seed=self.seed)
            seconds = time.perf_counter() - started
            task.advance()
            validation = measured(data.task.measures, model.score(data, "validation"), data.truth("validation"))
            task.advance()
            write_predictions(data, model.score(data, "test"), PredictOutput(job.out).predictions)
            task.advance()
        main = data.task.main
        return BaselineReport(
            arm=self.arm, seed=self.seed, meaning=meaning, best=validation, monitor=main.name,
            monitor_title=main.title, seconds=seconds,
        )  # fmt: skip
