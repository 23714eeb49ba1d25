"""`refresh`: a trained model with later rows, as `refresh` in the recipe says. Level `full` trains by `train-rec`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from llmcf_cli.plugin import STAGE, registry
from llmcf_cli.rec.bundle.reports import UnknownValues
from llmcf_cli.rec.input.needs import closure, declaration
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import LearnedSection
from llmcf_cli.stages.engine.base import Job, SeededArmStage, Stage
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.task_data import served_needs
from llmcf_cli.stages.steps.train_rec import TrainRec, TrainRecOutput
from llmcf_cli.store.layout import File, Output

TRAINED = "trained"
"""Role of the model that is brought up to date."""


class RefreshOutput(Output):
    """The model with later rows."""

    bundle = File("bundle", "the model to serve")


@dataclass(frozen=True, kw_only=True)
class RefreshReport:
    """What a refresh made.

    Attributes:
        level: What was made anew.
        arm: Arm of the model.
        seed: Its seed.
        base: Digest of the bundle that it was made from.
        bundle: Digest of the new one.
        users: New users; they have no embedding of their own.
        items: New items, likewise.
        without_text: New items without a text, where the model reads texts.
        unknown: Features with values that the vocabulary lacks.
    """

    level: str
    arm: str
    seed: int
    base: str
    bundle: str
    users: int
    items: int
    without_text: int
    unknown: list[UnknownValues]


@dataclass(frozen=True)
class Trained(TrainRec):
    """The model as it was trained: its recipe knows nothing of what has been added since, so it is the very artifact.

    Attributes:
        learned: What it was trained with.
    """

    learned: LearnedSection

    @property
    def variant(self) -> str:
        return f"{super().variant}, as trained"

    @property
    def role(self) -> str:
        return TRAINED

    def view(self, recipe: Recipe) -> Recipe:
        return as_learned(super().view(recipe), self.learned)


def as_learned(recipe: Recipe, learned: LearnedSection) -> Recipe:
    """The recipe as it was when a model learned."""
    added = recipe.model_dump(mode="json")["dataset"]["added"][: learned.additions]
    cuts = None if learned.recut is None else learned.recut.model_dump()
    return recipe.with_changes({"dataset.recut": None}).with_changes({"dataset.added": added, "dataset.recut": cuts})


@dataclass(frozen=True)
class Refresh(SeededArmStage):
    """Brings the model of one arm and seed up to date.

    Attributes:
        learned: When the model learned.
    """

    name = "refresh"
    version = 1
    report = RefreshReport
    output = RefreshOutput

    learned: tuple[LearnedSection, ...]

    @classmethod
    def of(cls, recipe: Recipe) -> Sequence[Self]:
        wanted = recipe.refresh
        if wanted is None or wanted.arm is None or wanted.seed is None or wanted.level == "full":
            return ()
        return (cls(wanted.arm, wanted.seed, wanted.learned),)

    @property
    def trained(self) -> Trained:
        """The model that it brings up to date."""
        return Trained(self.arm, self.seed, self.learned[-1])

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"refresh.level": "items"}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        followed = [stage for name in closure(served_needs(recipe)) for stage in declaration(name).follows]
        kinds: list[type[Stage]] = [registry().get(STAGE, stage).load() for stage in dict.fromkeys(followed)]
        return [Ingest(), *(kind() for kind in kinds), self.trained]

    def run(self, job: Job) -> RefreshReport:
        from llmcf_cli.rec.bundle.bundle import bundle_digest, load_bundle, save_bundle
        from llmcf_cli.rec.bundle.grow import refreshed

        base = load_bundle(TrainRecOutput(job.inputs[TRAINED]).bundle)
        found = refreshed(base, job.database, job.inputs)
        out = RefreshOutput(job.out).bundle
        save_bundle(
            out, found.model, task=base.task.config, recipe=job.recipe.model_dump(mode="json"), clock=base.clock,
            times=base.times, inputs=[one.config for one in base.inputs.values()],
            reasoning=None if base.reasoning_E is None else base.reasoning_E.to_pylist(),
        )  # fmt: skip
        return RefreshReport(
            level="items", arm=self.arm, seed=self.seed, base=base.digest, bundle=bundle_digest(out),
            users=found.users, items=found.items, without_text=found.without_text,
            unknown=list(found.unknown),
        )  # fmt: skip
