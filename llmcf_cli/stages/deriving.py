"""The recipe of a refresh: what it says, and by which cuts a model learns.

It extends the user's recipe, with more of `dataset.added`, and `refresh`. Such recipes lie beside the recipe that they
extend (of a library recipe, in the current folder), numbered, and carry on what was added before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.core.files import kind_of
from llmcf_cli.core.hashing import digest_file
from llmcf_cli.core.permissions import Permissions
from llmcf_cli.core.types import Config
from llmcf_cli.data.cut import Cuts
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.data.report import IngestReport
from llmcf_cli.recipe.library import is_installed
from llmcf_cli.recipe.load import EXTENDS, LoadedRecipe, load_recipe
from llmcf_cli.recipe.refresh import LearnedSection, RefreshLevel, RefreshSection
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Context
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.pipeline import open_context, targets
from llmcf_cli.stages.share.own import extending
from llmcf_cli.stages.steps.evaluate import Comparison
from llmcf_cli.stages.steps.growing import growing_stages
from llmcf_cli.stages.steps.ingest import Ingest

_OWN = ("dataset.added", "dataset.recut", "refresh.level", "refresh.arm", "refresh.seed", "refresh.learned")
_UNDECIDED = Cuts(253_370_764_800_000_000, 253_370_851_200_000_000).written()
"""Cuts of a plan that is made before the rows are read: in the year 9999."""


@dataclass(frozen=True)
class Addition:
    """Files with later rows, as `dataset.added` has them.

    Attributes:
        interactions: Interactions.
        items: Table of new items; None: none.
        users: Table of new users; None: none.
    """

    interactions: Path
    items: Path | None = None
    users: Path | None = None


@dataclass(frozen=True)
class Derived:
    """The recipe of a refresh.

    Attributes:
        file: Where it is, or is to be.
        content: What is to be written there; None: it is there.
        known: Given files that an earlier addition has already.
        new: Additions that no earlier refresh has.
        undecided: Whether the cuts by which the model learns follow from rows that are yet to be read.
    """

    file: Path
    content: Mapping[str, Any] | None
    known: tuple[Path, ...]
    new: int
    undecided: bool = False


def derive(
    loaded: LoadedRecipe, context: Context, given: Sequence[Addition], level: RefreshLevel, arm: str | None,
    overrides: Sequence[str] = (),
) -> Derived | None:  # fmt: skip
    """The recipe of a refresh: that of the last one, if the model is up to date by it, else one after it.

    Args:
        loaded: The user's recipe.
        context: What it runs in.
        given: Additions, oldest first.
        level: What is made anew.
        arm: Arm of the model; None: that of the last refresh, else the one that the comparison says to serve.
        overrides: Changes that the recipe was loaded with.

    Returns:
        None where nothing was ever added, and nothing is given.

    Raises:
        LlmcfError: A file is not there; nothing says which arm; or the level is `examples`, and the model reads none.
        StoreError: The recipe's own additions are others than at its last refresh.
    """
    if own_key := next((key for change in overrides for key in _OWN if change.startswith(key)), None):
        raise LlmcfError(
            f"{own_key} is set by the refresh itself",
            code="option-conflict",
            where="--set",
            hint="write it into the recipe instead",
        )
    folder, own = _folder(loaded.path), [one.model_dump() for one in loaded.recipe.dataset.added]
    files = _earlier(folder, loaded.path.stem)
    last = load_recipe(files[max(files)], overrides) if files else None
    added = own if last is None else [one.model_dump() for one in last.recipe.dataset.added]
    if added[: len(own)] != own:
        raise StoreError(
            f"dataset.added of {loaded.path.name} has changed since", code="refresh-changed",
            where=str(files[max(files)]), hint="remove the recipes of earlier refreshes and add their files again",
        )  # fmt: skip
    there = _digests(last or loaded, context)
    known = [one.interactions for one in given if digest_file(_file(one.interactions)) in there]
    before, added = len(added), added + [_entry(one, folder) for one in given if one.interactions not in known]
    if len(added) == len(own):
        return None
    arm, seed = _model(context, last.recipe if last else None, arm)
    state = None if last is None else last.recipe.refresh
    if state is not None and (state.arm, state.seed) != (arm, seed):
        state = None  # what another model learned says nothing of this one
    if level == "examples":
        require_texts(loaded.recipe, arm)
    if state is not None and len(added) == before and _up_to_date(state, level, before):
        return Derived(files[max(files)], None, tuple(known), 0)
    file = folder / f"{loaded.path.stem}.refresh-{max(files, default=0) + 1}.yaml"
    first = _plain(LearnedSection(additions=len(own), recut=loaded.recipe.dataset.recut))
    learned = [first] if state is None else [_plain(one) for one in state.learned]
    if level != "items":
        again = level != "full" and learned[-1]["additions"] == len(added)  # another level has learned from these rows
        learned = [*learned, {"additions": len(added), "recut": learned[-1]["recut"] if again else _UNDECIDED}]
    if level == "full":
        learned = learned[-1:]
    if level in ("examples", "finetune"):
        learned[-1][level] = _plain(getattr(loaded.recipe.refresh or RefreshSection(), level))
    recut = {"recut": learned[-1]["recut"]} if "recut" in learned[-1] else {}
    content = {
        EXTENDS: extending(loaded, file), "dataset": {"added": [_without_none(one) for one in added], **recut},
        "refresh": {"level": level, "arm": arm, "seed": seed, "learned": learned},
    }  # fmt: skip
    undecided = level != "items" and learned[-1]["recut"] == _UNDECIDED
    return Derived(file, content, tuple(known), len(added) - before, undecided)


def decided(
    derived: Derived, loaded: LoadedRecipe, context: Context, overrides: Sequence[str] = ()
) -> Derived:  # fmt: skip
    """A derived recipe with its cuts: the newest of the rows that no model has learned from are validation and test.

    Args:
        derived: With cuts that are undecided.
        loaded: The user's recipe.
        context: What the derived one runs in; its rows are read (`read_rows`).
        overrides: Changes that the recipe was loaded with.

    Raises:
        DataError: There are too few rows to learn from.
    """
    from llmcf_cli.data.recut import newest_cuts

    assert derived.content is not None
    node = plan(before_cuts(context), [Ingest()])[-1].node
    report: IngestReport = node.require()
    assert report.cuts is not None
    files = _earlier(derived.file.parent, loaded.path.stem)
    last = load_recipe(files[max(files)], overrides).recipe if files else loaded.recipe
    moved, wanted = last.dataset.recut, context.recipe.refresh or RefreshSection()
    since = report.cuts.validation_from if moved is None else Cuts.of_written(moved.model_dump()).validation_from
    cuts = newest_cuts(IngestOutput(node.folder).database, since, wanted.validation, wanted.test).written()
    refresh = derived.content["refresh"]
    learned = [*refresh["learned"][:-1], {**refresh["learned"][-1], "recut": cuts}]
    content = {
        **derived.content, "dataset": {**derived.content["dataset"], "recut": cuts},
        "refresh": {**refresh, "learned": learned},
    }  # fmt: skip
    return replace(derived, content=content, undecided=False)


def reads_texts(recipe: Recipe, arm: str) -> bool:
    """Whether an arm's model reads texts that the level `examples` adds to."""
    return bool(growing_stages(recipe.arms.get(arm, recipe), (LearnedSection(additions=0),)))


def require_texts(recipe: Recipe, arm: str) -> None:
    """Refuse the level `examples` where there is nothing to write.

    Raises:
        LlmcfError: The arm's model reads no texts of a language model.
    """
    if not reads_texts(recipe, arm):
        raise LlmcfError(
            f"the model of arm {arm} does not read a language model's texts, so there are none to write",
            code="option-conflict",
            where="--level", allowed=("items", "finetune", "full"), hint="choose another level or --arm",
        )  # fmt: skip


def allow(derived: Derived, given: Sequence[Addition]) -> list[Path]:
    """Let the recipes of the derived one's folder read the given files from now on; those that they could not."""
    folder, permissions = derived.file.parent.resolve(), Permissions()
    files = [file for one in given for file in (one.interactions, one.items, one.users) if file is not None]
    outside = [file.resolve() for file in files if not file.resolve().is_relative_to(folder)]
    for file in outside:
        permissions.allow_read(folder, file)
    return outside


def before_cuts(context: Context) -> Context:
    """The same without `dataset.recut`: its ingest reads the rows, and knows where cuts may be."""
    dataset = context.recipe.dataset.model_copy(update={"recut": None})
    return replace(context, recipe=context.recipe.model_copy(update={"dataset": dataset}))


def refreshes_of(file: Path) -> list[Path]:
    """The recipes of the refreshes of the recipe in a file, oldest first."""
    return [path for _, path in sorted(_earlier(_folder(file), file.stem).items())]


def _up_to_date(state: RefreshSection, level: RefreshLevel, additions: int) -> bool:
    """Whether a model that knows all rows has also learned from them as a level does."""
    of_all = {one.level for one in state.learned if one.additions == additions}
    return level == "items" or "full" in of_all or level in of_all


def _plain(section: Config | None) -> Any:
    return None if section is None else section.model_dump(mode="json", exclude_none=True)


def _folder(file: Path) -> Path:
    """Where derived recipes of the recipe in a file are."""
    path = file.resolve()
    return Path.cwd() if is_installed(path) else path.parent


def _earlier(folder: Path, stem: str) -> dict[int, Path]:
    """Number → derived recipe."""
    pattern = re.compile(re.escape(stem) + r"\.refresh-([1-9][0-9]*)\.yaml")
    found = ((pattern.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in found if match}


def _digests(loaded: LoadedRecipe, context: Context) -> set[str]:
    """Content of all files of interactions that a recipe has added."""
    if not loaded.recipe.dataset.added:
        return set()
    locate = open_context(loaded, context.store.root).locate
    return {digest_file(locate.path(one.interactions)) for one in loaded.recipe.dataset.added}


def _entry(one: Addition, folder: Path) -> dict[str, str | None]:
    """An addition as a recipe in a folder names it: by the path from there, or else the whole path."""

    def named(file: Path | None) -> str | None:
        if file is None:
            return None
        whole = _file(file).resolve()
        return str(whole.relative_to(folder) if whole.is_relative_to(folder) else whole)

    return {"interactions": named(one.interactions), "items": named(one.items), "users": named(one.users)}


def _file(path: Path) -> Path:
    if kind_of(path) != "file":
        raise LlmcfError("no such file", code="path-missing", where=str(path))
    return path


def _without_none(entry: dict[str, str | None]) -> dict[str, str]:
    return {role: file for role, file in entry.items() if file is not None}


def _model(context: Context, last: Recipe | None, arm: str | None) -> tuple[str, int]:
    """Arm and seed of the model to bring up to date."""
    recipe = context.recipe
    there = None if last is None else last.refresh
    if arm is None and there is not None and there.arm is not None and there.seed is not None:
        return there.arm, there.seed
    node = plan(context, targets(recipe, "evaluate"))[-1].node
    if node.made:
        compared: Comparison = node.require()
        if compared.served is not None and arm in (None, compared.served.arm):
            return compared.served.arm, compared.served.seed
    arms = [*recipe.arms]
    chosen = arm or recipe.serve.arm or (arms[0] if len(arms) == 1 else None)
    if chosen is None:
        raise LlmcfError(
            "the comparison that chooses the arm has not been made", code="option-conflict", where="--arm",
            allowed=tuple(arms), hint="give the arm, or first: llmcf run RECIPE",
        )  # fmt: skip
    return chosen, recipe.seeds[0]
