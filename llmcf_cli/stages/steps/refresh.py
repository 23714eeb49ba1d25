"""`refresh`: a trained model with later rows, as `refresh` in the recipe says. Level `full` trains by `train-rec`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from llmcf_cli.data.cut import Cuts
from llmcf_cli.plugin import STAGE, registry
from llmcf_cli.rec.bundle.reports import UnknownValues
from llmcf_cli.rec.input.needs import closure, declaration
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import FinetuneSection, LearnedSection
from llmcf_cli.stages.engine.base import Job, SeededArmStage, Stage
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.task_data import served_needs
from llmcf_cli.stages.steps.train_rec import TrainRec, TrainRecOutput
from llmcf_cli.store.layout import File, Output

if TYPE_CHECKING:
    from llmcf_cli.rec.bundle.bundle import Bundle
    from llmcf_cli.rec.recommender import Recommender

TRAINED = "trained"
"""Role of the model that is brought up to date."""


class RefreshOutput(Output):
    """The model with later rows."""

    bundle = File("bundle", "the model to serve")


@dataclass(frozen=True, kw_only=True)
class LearnedReport:
    """How a model learned on.

    Attributes:
        new: Train rows that it did not know.
        replayed: Rows that it saw again.
        values: New values of features, ids among them, that have an embedding now.
        epochs: Passes over these rows.
        epoch: The pass whose weights were kept; 0: none was better than the weights of before.
        monitor: Validation measure that chose.
        before: Its value of the weights of before.
        after: Its value of those that were kept.
    """

    new: int
    replayed: int
    values: int
    epochs: int
    epoch: int
    monitor: str
    before: float
    after: float


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
        unknown: Features of which new users or items had values that the vocabulary lacked.
        learned: What the model learned; None: its weights are those of before.
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
    learned: LearnedReport | None = None


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
        learned: When the model learned; the last of them is to come, if this is to learn.
        learns: How, or not at all.
    """

    name = "refresh"
    version = 1
    report = RefreshReport
    output = RefreshOutput

    learned: tuple[LearnedSection, ...]
    learns: FinetuneSection | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> Sequence[Self]:
        wanted = recipe.refresh
        if wanted is None or wanted.arm is None or wanted.seed is None or wanted.level == "full":
            return ()
        learns = wanted.learned[-1].finetune if wanted.level == "finetune" else None
        return (cls(wanted.arm, wanted.seed, wanted.learned, learns),)

    @property
    def trained(self) -> Stage:
        """The model that it brings up to date."""
        known = self.learned if self.learns is None else self.learned[:-1]
        if known[-1].finetune is None:
            return Trained(self.arm, self.seed, known[-1])
        return Finetuned(self.arm, self.seed, known, known[-1].finetune)

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        if self.learns is None:
            return {"refresh.level": "items"}
        fit = recipe.rec.fit.model_copy(update={"monitor": recipe.rec.monitor})
        return {"refresh.level": "finetune", "refresh.finetune": self.learns, "rec.fit": fit, "seed": self.seed}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        followed = [stage for name in closure(served_needs(recipe)) for stage in declaration(name).follows]
        kinds: list[type[Stage]] = [registry().get(STAGE, stage).load() for stage in dict.fromkeys(followed)]
        return [Ingest(), *(kind() for kind in kinds), self.trained]

    def run(self, job: Job) -> RefreshReport:
        from llmcf_cli.rec.bundle.bundle import bundle_digest, load_bundle, save_bundle
        from llmcf_cli.rec.bundle.grow import refreshed

        base = load_bundle(TrainRecOutput(job.inputs[TRAINED]).bundle)
        found = refreshed(base, job.database, job.inputs)
        model, learned = found.model, None
        if self.learns is not None:
            model, learned = self._finetune(job, base, model, self.learns)
        out = RefreshOutput(job.out).bundle
        save_bundle(
            out, model, task=base.task.config, recipe=job.recipe.model_dump(mode="json"), clock=base.clock,
            times=base.times, inputs=[one.config for one in base.inputs.values()],
            reasoning=None if base.reasoning_E is None else base.reasoning_E.to_pylist(),
        )  # fmt: skip
        return RefreshReport(
            level="items" if learned is None else "finetune", arm=self.arm, seed=self.seed, base=base.digest,
            bundle=bundle_digest(out), users=found.users, items=found.items, without_text=found.without_text,
            unknown=list(found.unknown), learned=learned,
        )  # fmt: skip

    def _finetune(
        self, job: Job, base: Bundle, longer: Recommender, tune: FinetuneSection
    ) -> tuple[Recommender, LearnedReport]:
        from llmcf_cli.data.recut import OWN
        from llmcf_cli.rec.bundle.warm import finetuned
        from llmcf_cli.store.open import connect_read
        from llmcf_cli.tabular.sql import scalar

        moved = self.learned[-2].recut
        if moved is not None:
            since = Cuts.of_written(moved.model_dump()).validation_from
        else:
            with connect_read(job.database) as con:
                since = int(scalar(con, f"SELECT value FROM meta WHERE key = '{OWN}'"))
        done = finetuned(
            base, longer, job.database, since, tune, job.recipe.rec.fit, seed=self.seed, work=job.work,
            progress=job.progress,
        )  # fmt: skip
        name = done.report.monitor
        return done.model, LearnedReport(
            new=done.new, replayed=done.replayed, values=done.values, epochs=len(done.report.epochs),
            epoch=done.epoch, monitor=name, before=done.before[name], after=done.after[name],
        )  # fmt: skip


@dataclass(frozen=True)
class Finetuned(Refresh):
    """The model as it learned on in an earlier refresh: the very artifact of that."""

    @property
    def variant(self) -> str:
        return f"{super().variant}, as of addition {self.learned[-1].additions}"

    @property
    def role(self) -> str:
        return TRAINED

    def view(self, recipe: Recipe) -> Recipe:
        return as_learned(super().view(recipe), self.learned[-1])
