"""What an arm reads beyond its samples: which stages make it, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.types import ComponentConfig, FromRecipe, InputConfig, key_view
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.plugin import STAGE, registry
from llmcf_cli.rec.input.needs import closure, declaration
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Stage
from llmcf_cli.stages.steps.ingest import Ingest

if TYPE_CHECKING:
    from llmcf_cli.rec.config import BackboneConfig
    from llmcf_cli.rec.input.dataset import TaskData
    from llmcf_cli.rec.recommender import Recommender
    from llmcf_cli.rec.tasks.base import Task


def arm_stages(recipe: Recipe) -> list[Stage]:
    """The stages whose results the recipe's arm is trained on and evaluated with."""
    return component_stages(arm_needs(recipe))


def arm_needs(recipe: Recipe) -> frozenset[str]:
    """The inputs that the recipe's arm, its task and its objectives name."""
    return served_needs(recipe).union(*(o.needs for o in arm_objectives(recipe)))


def served_needs(recipe: Recipe) -> frozenset[str]:
    """The inputs among them that a trained model reads."""
    return recipe.rec.augment.needs | recipe.rec.task.needs


def component_stages(needs: frozenset[str]) -> list[Stage]:
    """The stages to read for components with these needs, `ingest` first.

    Raises:
        UnknownNameError: There is no such input, or no stage that makes it.
    """
    kinds: list[type[Stage]] = [Ingest]
    for name in closure(needs):
        for stage in declaration(name).made_by:
            kinds.append(registry().get(STAGE, stage, where=f"input {name}").load())
    return [kind() for kind in dict.fromkeys(kinds)]


def arm_objectives(recipe: Recipe) -> tuple[ComponentConfig, ...]:
    """The recipe's objectives that its augmenter has the inputs for."""
    own = {c.name for c in registry().of_kind("input") if declaration(c.name).for_losses}
    return tuple(o for o in recipe.rec.objectives if o.needs - own <= recipe.rec.augment.needs)


def trained_sections(recipe: Recipe) -> dict[str, Any]:
    """The parts of the recipe that determine an arm's training, its seed aside."""
    rec = recipe.rec
    return {
        "rec.task": rec.task, "rec.backbone": rec.backbone, "rec.augment": rec.augment,
        "rec.objectives": arm_objectives(recipe), "rec.fit": rec.fit.model_copy(update={"monitor": rec.monitor}),
        "rec.cot": rec.cot if "examples" in rec.augment.needs else "own", **foreign_inputs(recipe, arm_needs(recipe)),
    }  # fmt: skip


def foreign_inputs(recipe: Recipe, needs: frozenset[str]) -> dict[str, Any]:
    """Key material: settings of inputs that plugins bring. Of built-in ones the stages that make them say it all."""
    configs = input_configs(recipe, needs)
    foreign = [c for c in configs if registry().get("input", c.type).origin != "built-in"]
    return {"inputs": foreign} if foreign else {}


def input_configs(
    recipe: Recipe, needs: frozenset[str], digest: Callable[[str], str] | None = None
) -> list[InputConfig]:  # fmt: skip
    """Settings of the inputs that components with these needs read, each after what it is made of.

    Args:
        recipe: What their fields are taken from.
        needs: Names of inputs.
        digest: Content digest of a file or asset; None: fields that want one keep their default.
    """
    found = []
    for name in closure(needs):
        cls = declaration(name)
        values = {}
        for field, info in cls.model_fields.items():
            mark = next((mark for mark in info.metadata if isinstance(mark, FromRecipe)), None)
            value = None if mark is None else recipe.value_at(mark.path)
            if mark is not None and value is not None and (digest or not mark.digest):
                values[field] = _digested(value, digest) if digest and mark.digest else value
        found.append(cls.model_validate({"type": name, **values}))
    return found


def _digested(value: str | ComponentConfig, digest: Callable[[str], str]) -> str:
    return digest(value) if isinstance(value, str) else digest_json(key_view(value, digest))


def arm_model(recipe: Recipe, data: TaskData, seed: int) -> Recommender:
    """The untrained model of the recipe's arm."""
    from llmcf_cli.rec.recommender import build

    rec, backbone = recipe.rec, cast("BackboneConfig", recipe.rec.backbone)
    return build(rec.task, data.resources, backbone, rec.augment, arm_objectives(recipe), seed=seed)


def task_of(recipe: Recipe) -> Task:
    """The recipe's task."""
    from llmcf_cli.rec.tasks.base import TASK

    return registry().build(TASK, recipe.rec.task)


def task_data(recipe: Recipe, folders: Mapping[str, Path], needs: frozenset[str] = frozenset()) -> TaskData:
    """Samples, catalogue, and the inputs that components with these needs read.

    Args:
        recipe: For the task, the history's length and the inputs' settings.
        folders: Stage → folder; those of `component_stages`.
        needs: Names of inputs.
    """
    from llmcf_cli.rec.input.dataset import load_task_data

    return load_task_data(
        IngestOutput(folders[Ingest.name]).database, task_of(recipe), history_length=recipe.dataset.history.max_length,
        inputs=input_configs(recipe, needs), folders=folders,
    )  # fmt: skip
