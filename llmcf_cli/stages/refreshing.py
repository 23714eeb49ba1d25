"""A refresh: a recipe derived from the user's, with more of `dataset.added`, and `refresh`.

Derived recipes lie beside the recipe that they extend (of a library recipe, in the current folder), numbered, and carry
on what was added before. One is written once its rows are read and some are new, so a refused one leaves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.core.files import kind_of
from llmcf_cli.core.hashing import digest_file
from llmcf_cli.core.permissions import Permissions
from llmcf_cli.core.progress import Progress
from llmcf_cli.core.types import Config
from llmcf_cli.core.yamlfile import dump_yaml
from llmcf_cli.data.cut import Cuts
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.data.report import Added, IngestReport
from llmcf_cli.recipe.library import is_installed
from llmcf_cli.recipe.load import EXTENDS, LoadedRecipe, load_recipe
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import RefreshLevel, RefreshSection
from llmcf_cli.stages.engine.base import Context, Stage
from llmcf_cli.stages.engine.run import Step, execute, plan, reached
from llmcf_cli.stages.pipeline import open_context, targets
from llmcf_cli.stages.share.own import extending
from llmcf_cli.stages.steps.evaluate import Comparison
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.refresh import Refresh, Trained
from llmcf_cli.stages.steps.train_rec import TrainRec
from llmcf_cli.store.artifacts import Manifest, write_atomic
from llmcf_cli.store.locks import held

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


@contextmanager
def alone(context: Context) -> Iterator[None]:
    """Be the only refresh of a recipe in an artifact folder.

    Raises:
        StoreError: Another process refreshes it.
    """
    folder = context.store.root / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / f"refresh.{context.recipe.name}.lock", what=f"refresh of {context.recipe.name}"):
        yield


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
        LlmcfError: A file is not there; or nothing says which arm.
        StoreError: The recipe's own additions are others than at its last refresh.
    """
    if own_key := next((key for change in overrides for key in _OWN if change.startswith(key)), None):
        raise LlmcfError(
            f"a refresh sets {own_key} itself", code="option-conflict", where="--set", hint="write it into the recipe"
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
    if state is not None and len(added) == before and _up_to_date(state, level, before):
        return Derived(files[max(files)], None, tuple(known), 0)
    file = folder / f"{loaded.path.stem}.refresh-{max(files, default=0) + 1}.yaml"
    first = {"additions": len(own), "recut": _plain(loaded.recipe.dataset.recut)}
    learned = [first] if state is None else [one.model_dump(mode="json") for one in state.learned]
    if level != "items":
        learned = [*learned, {"additions": len(added), "recut": _UNDECIDED}]
    if level == "full":
        learned = learned[-1:]
    if level == "finetune":
        learned[-1]["finetune"] = _plain((loaded.recipe.refresh or RefreshSection()).finetune)
    learned = [{key: value for key, value in one.items() if value is not None} for one in learned]
    recut = {"recut": learned[-1]["recut"]} if "recut" in learned[-1] else {}
    content = {
        EXTENDS: extending(loaded, file), "dataset": {"added": [_without_none(one) for one in added], **recut},
        "refresh": {"level": level, "arm": arm, "seed": seed, "learned": learned},
    }  # fmt: skip
    return Derived(file, content, tuple(known), len(added) - before, level != "items")


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
    node = plan(_before_cuts(context), [Ingest()])[-1].node
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


@contextmanager
def drafted(derived: Derived) -> Iterator[Path]:
    """The derived recipe as a file that is gone after the block, unless it was there before or is kept (`keep`).

    Files that the user named for it may be read, wherever they lie.
    """
    if derived.content is None:
        yield derived.file
        return
    draft = _draft(derived)
    write_atomic(draft, _text(derived))
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def keep(derived: Derived) -> None:
    """Let the derived recipe be there from now on, in one step."""
    if derived.content is not None:
        write_atomic(derived.file, _text(derived))


def allow(derived: Derived, given: Sequence[Addition]) -> list[Path]:
    """Let the recipes of the derived one's folder read the given files from now on; those that they could not."""
    folder, permissions = derived.file.parent.resolve(), Permissions()
    files = [file for one in given for file in (one.interactions, one.items, one.users) if file is not None]
    outside = [file.resolve() for file in files if not file.resolve().is_relative_to(folder)]
    for file in outside:
        permissions.allow_read(folder, file)
    return outside


def target_of(recipe: Recipe) -> Stage:
    """What makes the model that a derived recipe asks for."""
    wanted = recipe.refresh
    assert wanted is not None
    assert wanted.arm is not None
    assert wanted.seed is not None
    return TrainRec(wanted.arm, wanted.seed) if wanted.level == "full" else Refresh.of(recipe)[0]


def steps_of(context: Context) -> list[Step]:
    """What a refresh runs and reads. The model that it begins from is never trained for it.

    Raises:
        StoreError: The model is not there, or the recipe is another than it was trained by.
    """
    steps = reached(plan(context, [target_of(context.recipe)]))
    for step in steps:
        if isinstance(step.node.stage, Trained) and step.runs:
            raise StoreError(
                f"there is no trained model to bring up to date ({step.reason})", code="refresh-untrained",
                where=step.node.label, hint="llmcf run RECIPE",
            )  # fmt: skip
    return steps


def settle(
    derived: Derived, loaded: LoadedRecipe, opened: Callable[[Path], Context], progress: Progress, *,
    on_start: Callable[[Step], None], on_end: Callable[[Step, Manifest], None], overrides: Sequence[str] = (),
) -> tuple[bool, int]:  # fmt: skip
    """Read what a derived recipe adds, choose its cuts, and keep it if there is something new.

    Args:
        derived: The derived recipe.
        loaded: The user's recipe.
        opened: Recipe file → the context that it runs in.
        progress: Where to report.
        on_start: Called before a step.
        on_end: Called after it.
        overrides: Changes that the recipe was loaded with.

    Returns:
        Whether it is there now, and how many rows were there already.

    Raises:
        LlmcfError: The rows, or cuts among them, are refused; nothing is kept.
    """
    known = 0
    if derived.new:
        with drafted(derived) as draft:
            found = read_rows(opened(draft), derived.new, progress, on_start=on_start, on_end=on_end)
        known = sum(added.known for added in found)
        if not any(map(is_new, found)):
            return False, known
    if derived.undecided:
        with drafted(derived) as draft:
            context = opened(draft)
            if not derived.new:
                read_rows(context, 0, progress, on_start=on_start, on_end=on_end)
            derived = decided(derived, loaded, context, overrides)
        with drafted(derived) as draft:
            split_rows(opened(draft), progress, on_start=on_start, on_end=on_end)
    keep(derived)
    return True, known


def read_rows(
    context: Context, additions: int, progress: Progress, *, on_start: Callable[[Step], None],
    on_end: Callable[[Step, Manifest], None],
) -> list[Added]:  # fmt: skip
    """Ingest what a derived recipe adds; what was found in the last few additions.

    Raises:
        LlmcfError: As `append`.
    """
    steps = plan(_before_cuts(context), [Ingest()])
    execute(reached(steps), progress, on_start=on_start, on_end=on_end)
    reports: list[IngestReport] = [step.node.require() for step in steps[len(steps) - additions :]]
    return [report.added for report in reports if report.added is not None]


def split_rows(
    context: Context, progress: Progress, *, on_start: Callable[[Step], None], on_end: Callable[[Step, Manifest], None]
) -> None:
    """Ingest by the cuts of a derived recipe.

    Raises:
        LimitError: They leave a split too few samples.
    """
    execute(reached(plan(context, [Ingest()])), progress, on_start=on_start, on_end=on_end)


def _before_cuts(context: Context) -> Context:
    """The same without `dataset.recut`: its ingest reads the rows, and knows where cuts may be."""
    dataset = context.recipe.dataset.model_copy(update={"recut": None})
    return replace(context, recipe=context.recipe.model_copy(update={"dataset": dataset}))


def is_new(added: Added) -> bool:
    """Whether an addition changes anything."""
    return any((added.users, added.items, added.interactions, added.changed_users, added.changed_items))


def refreshes_of(file: Path) -> list[Path]:
    """The recipes of the refreshes of the recipe in a file, oldest first."""
    return [path for _, path in sorted(_earlier(_folder(file), file.stem).items())]


def _up_to_date(state: RefreshSection, level: RefreshLevel, additions: int) -> bool:
    """Whether a model that knows all rows has also learned from them as a level does."""
    if level == "items":
        return True
    last = state.learned[-1]
    return last.additions == additions and (level == "finetune" or last.finetune is None)


def _draft(derived: Derived) -> Path:
    return derived.file.with_name(f".{derived.file.name}")


def _text(derived: Derived) -> str:
    assert derived.content is not None
    stem = derived.file.name.rpartition(".refresh-")[0]
    return f"# Written by llmcf refresh {stem}.yaml\n{dump_yaml(dict(derived.content))}"


def _plain(section: Config | None) -> Any:
    return None if section is None else section.model_dump(mode="json")


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
            "the comparison that chooses an arm is not made", code="option-conflict", where="--arm",
            allowed=tuple(arms), hint="name the arm, or first: llmcf run RECIPE",
        )  # fmt: skip
    return chosen, recipe.seeds[0]
