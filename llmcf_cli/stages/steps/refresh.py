"""`refresh`: a trained model with later rows, as `refresh` in the recipe says. Level `full` trains by `train-rec`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.plugin import STAGE, registry
from llmcf_cli.rec.bundle.reports import UnknownValues
from llmcf_cli.rec.input.needs import closure, declaration
from llmcf_cli.recipe.refresh import LearnedSection, RefreshLevel
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, SeededArmStage, Stage
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.stages.steps.growing import Learned, NewCoT, as_learned, growing_stages, new_since, recall_of
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.task_data import served_needs
from llmcf_cli.stages.steps.train_rec import TrainRec, TrainRecOutput, shows_reasoning, texts_of
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
        validation: Samples that it was measured on; 0 in results of earlier versions.
    """

    new: int
    replayed: int
    values: int
    epochs: int
    epoch: int
    monitor: str
    before: float
    after: float
    validation: int = 0


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
        examples: New examples.
        recall: What an approximate search finds of the exact one among all examples, where new ones came.
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
    examples: int = 0
    recall: dict[str, Any] | None = None


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


@dataclass(frozen=True)
class Refresh(SeededArmStage):
    """Brings the model of one arm and seed up to date.

    Attributes:
        learned: When the model learned; the last of them is to come, unless the level is `items`.
        level: What is made anew.
    """

    name = "refresh"
    version = 1
    report = RefreshReport
    output = RefreshOutput

    learned: Learned
    level: RefreshLevel = "items"

    @classmethod
    def of(cls, recipe: Recipe) -> Sequence[Self]:
        wanted = recipe.refresh
        if wanted is None or wanted.arm is None or wanted.seed is None or wanted.level == "full":
            return ()
        return (cls(wanted.arm, wanted.seed, wanted.learned, wanted.level),)

    @property
    def trained(self) -> Stage:
        """The model that it brings up to date."""
        known = self.learned if self.level == "items" else self.learned[:-1]
        if len(known) == 1:
            return Trained(self.arm, self.seed, known[-1])
        return Earlier(self.arm, self.seed, known, known[-1].level)

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        if self.level != "finetune":
            return {"refresh.level": self.level}
        fit = recipe.rec.fit.model_copy(update={"monitor": recipe.rec.monitor})
        tune = self.learned[-1].finetune
        return {"refresh.level": "finetune", "refresh.finetune": tune, "rec.fit": fit, "seed": self.seed}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        followed = [stage for name in closure(served_needs(recipe)) for stage in declaration(name).follows]
        kinds: list[type[Stage]] = [registry().get(STAGE, stage).load() for stage in dict.fromkeys(followed)]
        more: list[Stage] = []
        if self.level == "examples":
            more = growing_stages(recipe, self.learned)
            if shows_reasoning(recipe):
                more.append(NewCoT(self.learned))
        return [Ingest(), *(kind() for kind in kinds), *more, self.trained]

    def run(self, job: Job) -> RefreshReport:
        from llmcf_cli.rec.bundle.bundle import bundle_digest, load_bundle, save_bundle
        from llmcf_cli.rec.bundle.grow import refreshed

        base = load_bundle(TrainRecOutput(job.inputs[TRAINED]).bundle, verify=False)  # the engine has compared them
        found = refreshed(base, job.database, job.inputs)
        model, learned, recall = found.model, None, None
        if self.level == "finetune":
            model, learned = self._finetune(job, base, model)
        if self.level == "examples":
            recall = recall_of(job, base, model)
        out = RefreshOutput(job.out).bundle
        save_bundle(
            out, model, task=base.task.config, recipe=job.recipe.model_dump(mode="json"), clock=base.clock,
            times=base.times, inputs=[one.config for one in base.inputs.values()],
            reasoning=_reasoning(job, base, model),
        )  # fmt: skip
        return RefreshReport(
            level=self.level, arm=self.arm, seed=self.seed, base=base.digest, bundle=bundle_digest(out),
            users=found.users, items=found.items, without_text=found.without_text, unknown=list(found.unknown),
            learned=learned, examples=found.examples, recall=recall,
        )  # fmt: skip

    def _finetune(self, job: Job, base: Bundle, longer: Recommender) -> tuple[Recommender, LearnedReport]:
        from llmcf_cli.rec.bundle.warm import finetuned

        tune = self.learned[-1].finetune
        assert tune is not None
        done = finetuned(
            base, longer, job.database, new_since(self.learned, "finetune", job.database), tune, job.recipe.rec.fit,
            seed=self.seed, work=job.work, progress=job.progress,
        )  # fmt: skip
        name = done.report.monitor
        return done.model, LearnedReport(
            new=done.new, replayed=done.replayed, values=done.values, epochs=len(done.report.epochs),
            epoch=done.epoch, monitor=name, before=done.before[name], after=done.after[name],
            validation=done.validation,
        )  # fmt: skip


@dataclass(frozen=True)
class Earlier(Refresh):
    """The model as an earlier refresh made it: the very artifact of that."""

    @property
    def variant(self) -> str:
        return f"{super().variant}, {self.level} as of addition {self.learned[-1].additions}"

    @property
    def role(self) -> str:
        return TRAINED

    def view(self, recipe: Recipe) -> Recipe:
        return as_learned(super().view(recipe), self.learned[-1])


def _reasoning(job: Job, base: Bundle, model: Recommender) -> list[str] | None:
    """The texts of the examples' chains of thought, if the bundle has them; those of new ones last."""
    if base.reasoning_E is None:
        return None
    texts: list[str] = base.reasoning_E.to_pylist()
    if GenCoT.name not in job.inputs:
        return texts
    new_n = model.resources.get("examples").samples.sample_id_N[len(texts) :]
    return texts + texts_of(CoTOutput(job.inputs[GenCoT.name]).cots, new_n.tolist())
