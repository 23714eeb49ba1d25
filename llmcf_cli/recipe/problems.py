"""pydantic's validation errors → problems with file, line, key path, what was found and what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llmcf_cli.core.errors import SHOWN_PROBLEMS, LlmcfError, closest
from llmcf_cli.core.place import KeyPath, Place
from llmcf_cli.core.tree import Node, nearest, plain, text_origin
from llmcf_cli.core.types import BROKEN
from llmcf_cli.recipe.component import UNKNOWN_TYPE
from llmcf_cli.recipe.rules import hidden_errors
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.walk import known_keys, meaning_at

_WORDS = {
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
}


def problems_of(error: ValidationError, written: Node) -> list[LlmcfError]:
    """One problem per error, in the order of the file, with the rules that are broken beside wrong fields.

    Args:
        error: From validating `plain(written)` as a recipe.
        written: The recipe with the place of each value.

    Returns:
        At most `SHOWN_PROBLEMS`, and one that counts the others: a broken file may have any number.
    """
    data = plain(written)
    items = own_errors(error)
    if len(items) <= SHOWN_PROBLEMS:
        items += hidden_errors(Recipe, data, items)
    items.sort(key=lambda item: nearest(written, tuple(item["loc"])).origin.line)
    told, untold = items[:SHOWN_PROBLEMS], items[SHOWN_PROBLEMS:]
    counted = [LlmcfError(f"and {len(untold):,} more problems from here on", where=_where(untold[0], written))
               for _ in range(bool(untold))]  # fmt: skip
    return [*(_problem(item, written, data) for item in told), *counted]


def own_errors(error: ValidationError) -> list[ErrorDetails]:
    """The errors without those that follow from others.

    A list with a wrong entry is reported as too short as well; the entry's own error says enough.
    """
    items = error.errors()
    outer = {tuple(item["loc"])[:length] for item in items for length in range(len(item["loc"]))}
    return [item for item in items if item["type"] != "too_short" or tuple(item["loc"]) not in outer]


def in_order(problems: Sequence[LlmcfError]) -> list[LlmcfError]:
    """Problems by line, file by file in the order in which the files occur; those without a line first."""
    files: dict[str, int] = {}

    def place(problem: LlmcfError) -> tuple[int, int]:
        where = problem.where
        return files.setdefault(where.file, len(files)) if where.line else -1, where.line

    return sorted(problems, key=place)


def worded(item: ErrorDetails, where: Place, known: Sequence[str], meaning: str) -> LlmcfError:
    """An error of pydantic in our words.

    Args:
        item: The error.
        where: Its place.
        known: Keys allowed there, if a key is unknown.
        meaning: What a key that is missing or must have a form is for; empty where that is not known.
    """
    context: Mapping[str, Any] = item.get("ctx") or {}
    kind, last = item["type"], item["loc"][-1] if item["loc"] else ""
    if kind == "extra_forbidden":
        near = closest(str(last), known)
        suggestion = f"; did you mean `{near}`?" if near else ""
        return LlmcfError(f"unknown key `{last}`{suggestion}", code="key-unknown", where=where, allowed=known)
    if kind == "missing":
        hint = f"add `{last}:` ({meaning.rstrip('.')})" if meaning else ""
        return LlmcfError(f"missing key `{last}`", code="key-missing", where=where, hint=hint)
    if kind == UNKNOWN_TYPE:
        return LlmcfError(context["message"], code="type-unknown", where=where, allowed=context["known"])
    if kind in ("literal_error", "enum"):
        return _not_allowed(item["input"], str(context["expected"]), where)
    if kind == BROKEN:
        return LlmcfError(context["what"], code="rule-broken", where=where, allowed=context["allowed"])
    if kind == "value_error":
        return LlmcfError(str(context["error"]), code="value-invalid", where=where)
    if kind in _WORDS:
        wanted = _WORDS[kind].format(**{key: _plain(bound) for key, bound in context.items()})
        wanted = wanted.replace(" 1 entries", " 1 entry").replace(" 1 characters", " 1 character")
        found = f"{wanted}, found {_short(item['input'])}"
        about = f" ({meaning.rstrip('.')})" if meaning and kind == "string_pattern_mismatch" else ""
        return LlmcfError(found + about, code="value-invalid", where=where)
    message = item["msg"]
    code = "type-missing" if kind == "missing_type" else "value-invalid"
    return LlmcfError(message[:1].lower() + message[1:], code=code, where=where)


def _problem(item: ErrorDetails, written: Node, data: Any) -> LlmcfError:
    path: KeyPath = tuple(item["loc"])
    where = _where(item, written)
    known = known_keys(path[:-1], data) if item["type"] == "extra_forbidden" else ()
    explained = item["type"] in ("missing", "string_pattern_mismatch")
    return worded(item, where, known, meaning_at(path, data) if explained else "")


def _where(item: ErrorDetails, written: Node) -> Place:
    path: KeyPath = tuple(item["loc"])
    origin = nearest(written, path).origin
    line = (item.get("ctx") or {}).get("line") if item["type"] == BROKEN else None
    if line:
        origin = text_origin(origin, item["input"], line)
    return origin.place(*path)


def _not_allowed(found: Any, expected: str, where: Place) -> LlmcfError:
    allowed = re.findall(r"'([^']*)'", expected) or [expected]
    near = closest(str(found), allowed)
    suggestion = f"; did you mean `{near}`?" if near else ""
    return LlmcfError(f"cannot be {_short(found)}{suggestion}", code="value-invalid", where=where, allowed=allowed)


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(bound: Any) -> Any:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound
