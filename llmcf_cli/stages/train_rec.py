"""`train-rec`: train one arm (a backbone with an augmenter) with one seed, and bundle it for serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llmcf_cli.core.errors import UnknownNameError
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Job, Stage
from llmcf_cli.stages.collab import Collab
from llmcf_cli.stages.embed import Embed
from llmcf_cli.stages.ingest import Ingest
from llmcf_cli.stages.match import Match
from llmcf_cli.store.open import read_meta

if TYPE_CHECKING:
    from llmcf_cli.rec.config import BackboneConfig

BUNDLE = "bundle"
"""Folder of the model to serve, inside the stage's folder."""
_MAKERS: Mapping[str, tuple[type[Stage], ...]] = {
    "text": (Embed,), "examples": (Embed, Match), "collaborative": (Collab,), "signals": (Embed, Collab),
}  # fmt: skip
"""Input that a component needs → the stages that make it."""


@dataclass(frozen=True)
class TrainRec(Stage):
    """Fits an arm on the train split, stopping by validation; the test split is not read.

    Attributes:
        augment: The arm's augmenter.
        seed: Seed of initialisation and batch order.
        arm: Name of the arm in tables.
    """

    augment: ComponentConfig
    seed: int
    arm: str

    name = "train-rec"
    version = 1

    @property
    def variant(self) -> str:
        return f"{self.arm} seed={self.seed}"

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        rec = recipe.rec
        return {
            "seed": self.seed, "rec.task": rec.task, "rec.backbone": rec.backbone, "rec.augment": self.augment,
            "rec.objectives": self._objectives(recipe), "rec.fit": rec.fit,
        }  # fmt: skip

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        unknown = sorted(self.augment.needs - _MAKERS.keys())
        if unknown:
            raise UnknownNameError("input", unknown[0], _MAKERS, where=self.label)
        makers = dict.fromkeys(maker for need in sorted(self.augment.needs) for maker in _MAKERS[need])
        return (Ingest(), *(maker() for maker in makers))

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.rec.bundle import save_bundle
        from llmcf_cli.rec.fit import fit
        from llmcf_cli.rec.model import RecModel
        from llmcf_cli.stages.ranking_data import ranking_data

        recipe = job.recipe
        data = ranking_data(recipe, job.inputs)
        backbone = cast("BackboneConfig", recipe.rec.backbone)
        model = RecModel(data.resources, backbone, self.augment, self._objectives(recipe), seed=self.seed)
        report = fit(model, data, recipe.rec.fit, seed=self.seed, work=job.work, progress=job.progress)
        clock = read_meta(job.database)["clock"]
        save_bundle(job.out / BUNDLE, model, recipe=recipe.model_dump(mode="json"), clock=clock)
        meaning = registry().get("augmenter", self.augment.type).summary
        return {"arm": self.arm, "seed": self.seed, "meaning": meaning, **report.to_json()}

    def _objectives(self, recipe: Recipe) -> tuple[ComponentConfig, ...]:
        """The recipe's objectives that this arm has the inputs for."""
        return tuple(o for o in recipe.rec.objectives if o.needs <= self.augment.needs)


def train_rec_runs(recipe: Recipe) -> list[TrainRec]:
    """One `TrainRec` per arm and seed: the arms of `rec.compare` in order, and `rec.augment` if it is not in it."""
    arms = list(recipe.rec.compare)
    if recipe.rec.augment not in arms:
        arms.append(recipe.rec.augment)
    arms = list(dict.fromkeys(arms))
    seeds = recipe.rec.seeds or (recipe.seed,)
    return [TrainRec(arm, seed, arm_name(arm)) for arm in arms for seed in seeds]


def arm_name(augment: ComponentConfig) -> str:
    """The augmenter's type, followed by the settings that differ from its defaults."""
    changed = augment.model_dump(exclude_defaults=True, exclude={"type"})
    return " ".join([augment.type, *(f"{name}={value}" for name, value in changed.items())])
