"""The stages in order, and the context a recipe runs in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import LlmcfError, RecipeError, UnknownNameError
from llmcf_cli.core.permissions import Permissions
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.types import file_refs, servers
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.load import LoadedRecipe
from llmcf_cli.recipe.problems import in_order
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import GENERATIONS, ComparingStage, Context, Stage
from llmcf_cli.stages.engine.run import Cause, Step, examined, execute, plan
from llmcf_cli.stages.engine.tracking import check_trackers
from llmcf_cli.stages.files import file_problems, locator_of
from llmcf_cli.store.artifacts import ArtifactStore, Manifest
from llmcf_cli.store.assets import cache_dir
from llmcf_cli.store.layout import Output

ARTIFACTS_VARIABLE = "LLMCF_ARTIFACTS"


def stage_names() -> list[str]:
    """Names of the stages, in running order; those of plugins last."""
    return [component.name for component in registry().stages()]


def stage_class(name: str) -> type[Stage]:
    """The stage of that name, imported now.

    Raises:
        UnknownNameError: No stage is called so.
        LlmcfError: What is registered under the name is no stage, or lacks a part of its declaration.
    """
    component = next((found for found in registry().stages() if found.name == name), None)
    if component is None:
        raise UnknownNameError("stage", name, stage_names())
    found: Any = component.load()
    if faults := list(_faults(found, name)):
        raise LlmcfError(
            f"{component.target} {faults[0]}", code="plugin-target", where=f"stage {name} of {component.origin}"
        )
    stage: type[Stage] = found
    return stage


def targets(recipe: Recipe, name: str) -> Sequence[Stage]:
    """All that the stage of that name makes of a recipe: of some stages one per arm (and seed).

    Raises:
        UnknownNameError: No stage is called so.
    """
    return stage_class(name).of(recipe)


def _faults(found: Any, name: str) -> Iterator[str]:
    """What a stage's declaration lacks."""
    if not (isinstance(found, type) and issubclass(found, Stage)):
        yield "is not a subclass of Stage"
        return
    if missing := sorted(found.__abstractmethods__):
        yield f"does not define {', '.join(missing)}"
    if getattr(found, "name", None) != name:
        yield f"has `name` {getattr(found, 'name', None)!r}, but is registered as {name!r}"
    if not isinstance(getattr(found, "version", None), int):
        yield "has no `version` (a whole number)"
    if not is_dataclass(getattr(found, "report", None)):
        yield "has no `report` (a dataclass)"
    output = getattr(found, "output", None)
    if not (isinstance(output, type) and issubclass(output, Output)):
        yield "has no `output` (a subclass of Output)"


def run_steps(
    context: Context,
    steps: Sequence[Step],
    progress: Progress,
    *,
    on_start: Callable[[Step], None],
    on_end: Callable[[Step, Manifest], None],
    on_failure: Callable[[Step, LlmcfError], None],
) -> list[Step]:
    """Run a plan. Where it ends in a comparison and some arms or points fail, the others are compared and it says so.

    Returns:
        The steps as they were run: with what is damaged made again, and with the comparison of what is left, if
        something failed.

    Raises:
        LlmcfError: What failed is the comparison itself, or stands before all that is compared, or nothing is left.
        AccessError: A step would send prompts to a host that the user has not allowed.
    """
    steps = examined(steps, progress)
    if any(step.runs for step in steps):
        check_trackers(context.recipe)
    for step in steps:
        if step.runs:
            check_servers(step.node.stage.sections(step.node.context.recipe))
    last = steps[-1].node.stage
    if not isinstance(last, ComparingStage):
        execute(steps, progress, on_start=on_start, on_end=on_end)
        return steps
    failed = execute(steps, progress, on_start=on_start, on_end=on_end, on_failure=on_failure)
    if not failed:
        return steps
    needs = steps[-1].node.needs
    compared = [(name, stage.role) for name, stage in last.compared(context.recipe)]
    lost = {name: failed[needs[role].label] for name, role in compared if needs[role].label in failed}
    shared = needs.keys() - {role for _, role in compared}
    if not lost or len(lost) == len(dict(compared)) or any(needs[role].label in failed for role in shared):
        raise next(iter(failed.values()))
    reasons = tuple((name, "; ".join(map(str.strip, str(error).splitlines()))) for name, error in lost.items())
    # An earlier comparison of the same arms is none of what was made anew for this one.
    force = [last.name] if steps[-1].cause in (Cause.FORCED, Cause.FOLLOWS) else []
    rest = plan(context, [type(last)(reasons)], force)
    execute(rest[-1:], progress, on_start=on_start, on_end=on_end)  # all before it is done
    return rest


def check_servers(value: Any) -> None:
    """Check that the user allowed every server that a configuration sends prompts to.

    Raises:
        AccessError: One is neither this machine nor allowed.
    """
    for address in servers(value):
        Permissions().key_for(address)


def artifact_root(folder: Path | None) -> Path:
    """The artifact folder: as given, else `LLMCF_ARTIFACTS`, else `artifacts` here."""
    return (folder or Path(os.environ.get(ARTIFACTS_VARIABLE) or "artifacts")).absolute()


def generations(root: Path) -> Path:
    """The file of generated texts in an artifact folder."""
    return root / GENERATIONS


def open_context(loaded: LoadedRecipe, artifacts: Path | None = None, progress: Progress = SILENT) -> Context:
    """Everything a recipe needs to be planned and run.

    Args:
        loaded: The recipe.
        artifacts: Artifact folder, see `artifact_root`.
        progress: Told about assets that are fetched on the way.

    Raises:
        RecipeError: The recipe names assets that no catalogue has, files that do not exist, prompts that are wrong or
            columns that the data set does not have; all of them.
    """
    locate = locator_of(loaded, progress)
    found = file_problems(loaded.root, locate)
    problems = in_order([*found.wrong, *found.missing])
    if problems := problems or locate.check(file_refs(loaded.recipe)):  # what defaults name is written nowhere
        raise RecipeError(problems)
    return Context(
        recipe=loaded.recipe,
        store=ArtifactStore(artifact_root(artifacts)),
        locate=locate,
        models=cache_dir().parent / "models",
    )
