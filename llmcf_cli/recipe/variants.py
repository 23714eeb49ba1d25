"""The arms of a recipe as they are written, and what is wrong with each beside what is wrong with the recipe itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from llmcf_cli.core.errors import SHOWN_PROBLEMS, LlmcfError
from llmcf_cli.core.place import Place
from llmcf_cli.core.tree import Node, nearest, plain
from llmcf_cli.recipe.overrides import apply_overrides
from llmcf_cli.recipe.problems import problems_of
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import MAX_ARMS, RecSection, SearchSection
from llmcf_cli.recipe.walk import slot_at

MAX_TRIED = 10_000
"""Values of `search.space` that are checked, over all arms."""
_NO_ARM = "no arm of the comparison has this setting"


@dataclass(frozen=True)
class Variant:
    """An entry of `rec.variants`, applied.

    Attributes:
        where: Its place and name.
        changes: Its values as `--set` takes them.
        root: The recipe with these values.
        problems: Of applying them.
    """

    where: Place
    changes: tuple[str, ...]
    root: Node
    problems: tuple[LlmcfError, ...]

    def placed(self, where: Place) -> Place:
        """A place in the changed recipe, told where the variant is written."""
        if where.override in self.changes:
            where = Place(path=where.path) if where.path else Place(where.override)
        return replace(self.where, below=where)


_last: tuple[Node, tuple[Variant, ...]] | None = None
"""The variants of the recipe that was asked for last: every check asks for them."""


def variants_of(root: Node) -> tuple[Variant, ...]:
    """Every entry of `rec.variants` that is written as one, whatever else is wrong with the recipe."""
    global _last
    if _last is None or _last[0] is not root:
        _last = root, tuple(_variants(root))
    return _last[1]


def _variants(root: Node) -> Iterator[Variant]:
    rec = plain(root).get("rec")
    entries = rec.get("variants") if isinstance(rec, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_ARMS:
        return
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("set"), dict):
            continue
        changes = [f"{path}={json.dumps(value)}" for path, value in entry["set"].items()]
        changes.append("rec.references=[]")  # they are arms of the whole comparison
        changed, found = apply_overrides(root, changes)
        name = f"arm {entry['name']!r}" if isinstance(entry.get("name"), str) else f"rec.variants.{place}"
        where = nearest(root, ("rec", "variants", place)).origin.place()
        yield Variant(replace(where, text=name), tuple(changes), changed, tuple(found))


def variant_problems(root: Node, known: Sequence[LlmcfError]) -> list[LlmcfError]:
    """What is wrong with the recipe of each `rec.variants`, told where the variant is written.

    Args:
        root: The recipe.
        known: What is wrong with the recipe itself, which is not told again.
    """
    told = {(problem.where, problem.what) for problem in known}
    problems: list[LlmcfError] = []
    task = _task_of(root)
    for variant in variants_of(root):
        if len(problems) + len(known) > SHOWN_PROBLEMS:
            break
        found = [copy(problem) for problem in variant.problems]
        if _task_of(variant.root) != task:
            found.append(
                LlmcfError("all arms of a comparison must have the same task", code="arms-tasks", where="rec.task")
            )
        try:
            Recipe.model_validate(plain(variant.root))
        except ValidationError as error:
            found += problems_of(error, variant.root)
        for problem in found:
            if (problem.where, problem.what) not in told:
                problem.where = variant.placed(problem.where)
                problems.append(problem)
    return problems


def _task_of(root: Node) -> Any:
    rec = plain(root).get("rec")
    task = rec.get("task", RecSection.model_fields["task"].default) if isinstance(rec, dict) else None
    return {"type": task} if isinstance(task, str) else task


def search_problems(recipe: Recipe, root: Node) -> list[LlmcfError]:
    """Paths of `search.space` that no arm has, and values there that an arm having it cannot take."""
    problems: list[LlmcfError] = []
    space = recipe.search.space if recipe.search else {}
    refused: dict[str, str] = {}
    count = 0
    for path, values in space.items():
        where = _searched(root, path)
        having = {name: arm for name, arm in recipe.arms.items() if arm.value_at(path) is not None}
        if not having:
            problems.append(LlmcfError(_NO_ARM, code="setting-of-no-arm", where=where))
        section = path.rpartition(".")[0]
        for name, arm in having.items():
            settings = repr(arm.value_at(section))
            for value in values.choices or (values.low, values.high):
                count += 1
                if count > MAX_TRIED:
                    what = f"has more than {MAX_TRIED:,} values to try, over all arms"
                    hint = "use fewer choices or fewer arms"
                    return [
                        *problems,
                        LlmcfError(what, code="search-limit", where=replace(where, below=None), hint=hint),
                    ]
                case = f"{path}={value!r} in {settings}"  # arms mostly differ elsewhere
                if case not in refused:
                    refused[case] = _refusal(arm, path, value)
                if refused[case]:
                    problems.append(
                        LlmcfError(
                            f"arm {name!r} cannot take {value!r}: {refused[case]}",
                            code="search-value-refused",
                            where=where,
                        )
                    )
    return problems


def _refusal(arm: Recipe, path: str, value: Any) -> str:
    """Why an arm cannot take a value; empty if it can."""
    try:
        arm.try_value(path, value)
    except ValidationError as error:
        return error.errors()[0]["msg"]
    return ""


def unknown_settings(root: Node) -> list[LlmcfError]:
    """Paths of `search.space` that no arm has, by the schema alone: for a recipe that is wrong in other sections."""
    data = plain(root)
    try:
        rec, search = RecSection.model_validate(data.get("rec")), SearchSection.model_validate(data.get("search"))
    except ValidationError:
        return []
    arms = [{"rec": {**data["rec"], "augment": config.model_dump()}} for config in rec.compare or (rec.augment,)]
    arms += [plain(variant.root) for variant in variants_of(root)]
    return [
        LlmcfError(_NO_ARM, code="setting-of-no-arm", where=_searched(root, path))
        for path in search.space
        if all(slot_at(tuple(path.split(".")), arm) is None for arm in arms)
    ]


def _searched(root: Node, path: str) -> Place:
    where = nearest(root, ("search", "space", path)).origin.place("search", "space")
    return replace(where, below=Place(path))
