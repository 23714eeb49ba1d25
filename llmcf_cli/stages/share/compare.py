"""How a lock and a recipe here, or two recipes or locks, differ, with both values; and what each difference reruns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import LlmcfError, RecipeError
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.tree import shown
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.base import Node
from llmcf_cli.stages.engine.run import Step
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.share.lock import Lock, flat, is_lock, lock_now, read_lock, steps_of

_VARIANT = re.compile(r"^rec\.variants\.\d+\.set\.")
ABSENT = "(none)"
"""Stands for a value that one of the two does not have."""


@dataclass(frozen=True)
class _Kind:
    """A kind of difference, and the code of the error about one."""

    name: str
    code: str


_KINDS = (
    _Kind("setting", code="lock-setting"), _Kind("file", code="lock-file"), _Kind("content", code="lock-content"),
    _Kind("plugin", code="lock-plugin"), _Kind("version", code="lock-version"), _Kind("stage", code="lock-stage"),
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """Something that two recipes, or a lock and what is here, do not share.

    Attributes:
        kind: `setting`, `file`, `content`, `plugin`, `version` or `stage`.
        name: Key path, file, reference, component, library or stage.
        before: Value in the first, or in the lock.
        after: Value in the second, or here.
        origin_before: Where the first value was written.
        origin_after: Where the second one was.
        reruns: Stages whose results it changes.
    """

    kind: str
    name: str
    before: Any
    after: Any
    origin_before: str = ""
    origin_after: str = ""
    reruns: tuple[str, ...] = ()


def lock_differences(lock: Lock, here: Lock, *, but: Sequence[str] = ()) -> list[Difference]:
    """All that differs between a lock and the same recipe here; a stage's key only where nothing else explains it.

    Args:
        lock: The lock.
        here: What a lock of the recipe would say now.
        but: Kinds of differences that do not count.
    """
    kinds = (
        ("setting", flat(lock.resolved), flat(here.resolved)),
        ("file", lock.files, here.files),
        ("content", lock.contents, here.contents),
        ("plugin", lock.plugins, here.plugins),
        ("version", _releases(lock.versions), _releases(here.versions)),
    )
    found = [one for kind, before, after in kinds for one in _differences(kind, before, after)]
    if not [one for one in found if one.kind not in ("file", "version")]:
        found += _differences("stage", lock.stages, here.stages)
    return [one for one in found if one.kind not in but]


def refuse_differences(found: Sequence[Difference], lock: Path) -> None:
    """Refuse a run that would not be the locked one.

    Raises:
        RecipeError: There are differences; each is a problem with both values.
    """
    if not found:
        return
    codes = {kind.name: kind.code for kind in _KINDS}
    problems = [
        LlmcfError(f"{one.kind} {one.name} is {short(one.after)} here, but {short(one.before)} in the lock",
                   code=codes[one.kind], where=shown(lock))
        for one in found
    ]  # fmt: skip
    only = {one.kind for one in found}
    hint = "run without --locked, or restore what the lock names"
    if only == {"version"}:
        hint = "install these versions, or add --other-versions: results may then differ by more than rounding"
    raise RecipeError(problems, hint=hint)


@dataclass(frozen=True)
class Side:
    """A recipe or a lock, to be compared.

    Attributes:
        name: As the command line names it.
        resolved: The recipe's leaves by key path.
        origins: Key path → where it was written.
        contents: What it names → digest.
        versions: Of libraries; empty of a recipe.
        plugins: Component → origin.
        steps: Its comparison, as planned.
    """

    name: str
    resolved: Mapping[str, Any]
    origins: Mapping[str, str]
    contents: Mapping[str, str]
    versions: Mapping[str, str]
    plugins: Mapping[str, str]
    steps: Sequence[Step]


def side_of(name: str, artifacts: Path | None = None) -> Side:
    """Read a recipe or, by its name, a lock.

    Raises:
        RecipeError: It cannot be read, or names what is not there.
    """
    if is_lock(name):
        lock = read_lock(Path(name))
        resolved = flat(lock.resolved)
        origins = dict.fromkeys(resolved, shown(Path(name)))
        return Side(name, resolved, origins, lock.contents, lock.versions, lock.plugins, steps_of(lock))
    loaded = load_recipe(name)
    now = lock_now(loaded, open_context(loaded, artifacts), "")
    origins = {path: str(origin) for path, origin in loaded.origins.items()}
    return Side(name, flat(now.lock.resolved), origins, now.lock.contents, {}, now.lock.plugins, now.steps)


def side_differences(first: Side, second: Side) -> list[Difference]:
    """What differs between two recipes or locks, with origins, and the stages that each difference reruns."""
    before, after = ({step.node.label: step.node for step in side.steps} for side in (first, second))
    touched = {label: _touched(before[label], after[label]) for label in before.keys() & after.keys()}
    found = []
    for one in _differences("setting", first.resolved, second.resolved):
        name = _VARIANT.sub("", one.name)
        own = [label for label, paths in touched.items() if any(_same_branch(path, name) for path in paths)]
        found.append(
            Difference("setting", one.name, one.before, one.after, first.origins.get(one.name, ""),
                       second.origins.get(one.name, ""), _with_readers(own, second.steps))
        )  # fmt: skip
    contents = _differences("content", first.contents, second.contents)
    for one in (one for one in contents if ABSENT not in (one.before, one.after)):
        own = [label for label in touched if one.before in _digests(before[label]) - _digests(after[label])]
        found.append(Difference("content", one.name, one.before, one.after, reruns=_with_readers(own, second.steps)))
    found += _differences("plugin", first.plugins, second.plugins)
    if first.versions and second.versions:
        found += _differences("version", _releases(first.versions), _releases(second.versions))
    return found


def stage_changes(first: Side, second: Side) -> tuple[list[str], list[str], list[str]]:
    """Stages of the second that have another key than in the first, only the second has, and only the first has."""
    before, after = ({step.node.label: step.node.key for step in side.steps} for side in (first, second))
    changed = [label for label, key in after.items() if label in before and before[label] != key]
    return changed, [label for label in after if label not in before], [name for name in before if name not in after]


def short(value: Any) -> str:
    """A value for one line: digests by their first twelve digits."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) == len(digest_json("")) and all(sign in "0123456789abcdef" for sign in text):
        return f"{text[:12]}…"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _differences(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    names = [*before, *(name for name in after if name not in before)]
    return [
        Difference(kind, name, before.get(name, ABSENT), after.get(name, ABSENT))
        for name in names
        if not _equal(before.get(name, ABSENT), after.get(name, ABSENT))
    ]


def _equal(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _releases(versions: Mapping[str, str]) -> dict[str, str]:
    """Versions as far as they matter: Python's third number mends faults and changes no result."""
    return {
        name: ".".join(version.split(".")[:2]) if name == "python" else version for name, version in versions.items()
    }


def _touched(before: Node, after: Node) -> set[str]:
    """Key paths of the material that differ; inputs are left out, as they differ by what is told of their stages."""
    a, b = (flat({**node.material, "inputs": {}, "plugins": {}}) for node in (before, after))
    return {path for path in a.keys() | b.keys() if a.get(path, ABSENT) != b.get(path, ABSENT)}


def _same_branch(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.") or name.startswith(f"{path}.")


def _digests(node: Node) -> set[str]:
    return {value for value in flat({**node.material, "inputs": {}}).values() if isinstance(value, str)}


def _with_readers(own: Sequence[str], steps: Sequence[Step]) -> tuple[str, ...]:
    """Stages, and all that reads their results, in running order."""
    found = set(own)

    def reads() -> Iterator[str]:
        for step in steps:
            if step.node.label in found or any(need.label in found for need in step.node.needs.values()):
                found.add(step.node.label)
                yield step.node.label

    return tuple(reads())
