"""What an arm reads beyond its samples: which stages make it, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmcf_cli.core.errors import UnknownNameError
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Stage
from llmcf_cli.stages.steps.collab import Collab, read_collaborative
from llmcf_cli.stages.steps.embed import Embed, EmbedOutput, Examples, ExamplesOutput
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.knowledge import Knowledge, KnowledgeOutput
from llmcf_cli.stages.steps.match import Match, MatchOutput
from llmcf_cli.stages.steps.teacher import Teacher, TeacherOutput
from llmcf_cli.store.open import read_lance, read_parquet

if TYPE_CHECKING:
    from llmcf_cli.rec.config import BackboneConfig
    from llmcf_cli.rec.input.dataset import TaskData
    from llmcf_cli.rec.model import RecModel
    from llmcf_cli.rec.tasks.base import Task

MADE_BY: Mapping[str, tuple[type[Stage], ...]] = {
    "text": (Embed,),
    "collaborative": (Collab,),
    "signals": (Embed, Collab),
    "examples": (Embed, Examples, Match),
    "knowledge": (Knowledge,),
    "teacher": (Teacher,),
}
"""What a component may name in `needs` → the stages whose results are read for it."""
TARGETS = frozenset({"teacher"})
"""Needs of objectives alone, beside the label; an augmenter never reads them."""


def arm_stages(recipe: Recipe) -> list[Stage]:
    """The stages whose results the recipe's arm is trained on and evaluated with."""
    needs = recipe.rec.augment.needs.union(*(o.needs for o in arm_objectives(recipe)))
    return component_stages(needs)


def component_stages(needs: frozenset[str]) -> list[Stage]:
    """The stages to read for components with these needs, `ingest` first.

    Raises:
        UnknownNameError: No stage makes what a component needs.
    """
    unknown = sorted(needs - MADE_BY.keys())
    if unknown:
        raise UnknownNameError("input", unknown[0], MADE_BY, hint="mend `needs` of the component's configuration")
    kinds: list[type[Stage]] = [Ingest]
    for need, made_by in MADE_BY.items():
        kinds += made_by if need in needs else ()
    return [kind() for kind in dict.fromkeys(kinds)]


def arm_objectives(recipe: Recipe) -> tuple[ComponentConfig, ...]:
    """The recipe's objectives that its augmenter has the inputs for."""
    return tuple(o for o in recipe.rec.objectives if o.needs - TARGETS <= recipe.rec.augment.needs)


def trained_sections(recipe: Recipe) -> dict[str, Any]:
    """The parts of the recipe that determine an arm's training, its seed aside."""
    rec = recipe.rec
    return {
        "rec.task": rec.task, "rec.backbone": rec.backbone, "rec.augment": rec.augment,
        "rec.objectives": arm_objectives(recipe), "rec.fit": rec.fit.model_copy(update={"monitor": rec.monitor}),
        "rec.cot": rec.cot if "examples" in rec.augment.needs else "own",
    }  # fmt: skip


def arm_model(recipe: Recipe, data: TaskData, seed: int) -> RecModel:
    """The untrained model of the recipe's arm."""
    from llmcf_cli.rec.model import RecModel

    backbone = cast("BackboneConfig", recipe.rec.backbone)
    return RecModel(data.resources, backbone, recipe.rec.augment, arm_objectives(recipe), seed=seed)


def task_of(recipe: Recipe) -> Task:
    """The recipe's task."""
    from llmcf_cli.rec.tasks.base import TASK

    return registry().build(TASK, recipe.rec.task)


def task_data(recipe: Recipe, folders: Mapping[str, Path]) -> TaskData:
    """Samples, catalogue and whatever else the stages among the folders made.

    Args:
        recipe: For the task and the history's length.
        folders: Stage → folder; those of `component_stages`.
    """
    from llmcf_cli.rec.input.dataset import load_task_data, shuffle_cot

    item_text = examples = matches = knowledge = teacher = None
    if Embed.name in folders:
        item_text = read_lance(EmbedOutput(folders[Embed.name]).lance, "item_text")
    if Match.name in folders:
        examples = read_lance(ExamplesOutput(folders[Examples.name]).lance, "cot_example")
        matches = read_parquet(MatchOutput(folders[Match.name]).matches)
        if recipe.rec.cot == "shuffled":
            examples = shuffle_cot(examples, recipe.seed)
    if Knowledge.name in folders:
        knowledge = read_lance(KnowledgeOutput(folders[Knowledge.name]).lance, "knowledge")
    if Teacher.name in folders:
        teacher = read_parquet(TeacherOutput(folders[Teacher.name]).scores)
    return load_task_data(
        IngestOutput(folders[Ingest.name]).database,
        task_of(recipe),
        history_length=recipe.dataset.history.max_length,
        item_text=item_text,
        examples=examples,
        matches=matches,
        teacher=teacher,
        knowledge=knowledge,
        collaborative=read_collaborative(folders),
    )
