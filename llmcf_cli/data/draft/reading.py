"""What a recipe says of the columns of items and users: texts, features and lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmcf_cli.data.draft.asking import Decisions
from llmcf_cli.data.draft.columns import Profile
from llmcf_cli.data.draft.words import LISTS, TITLE, words
from llmcf_cli.data.raw import Entity

_SEPARATED = 0.2
"""Share of values with a separator from which on a column holds several values."""
_LONG = 120
"""Mean characters past which a column is no part of a short text."""
_KINDS = 1_000
"""Different values past which a text is no category."""
_NUMBERS = 20
"""Different numbers past which a column is a quantity and no category."""
_MOST_TEXTS, _MOST_FEATURES = 3, 12


@dataclass(frozen=True)
class Chosen:
    """Columns of a table of items or users.

    Attributes:
        text: Those that its text is made of, in order.
        features: Column → its kind, as the recipe has it.
        multi: Columns of texts that hold several values.
        separator: Between these; None: there are none, or they are written as lists.
    """

    text: tuple[str, ...]
    features: Mapping[str, object]
    multi: tuple[str, ...]
    separator: str | None


def choose(entity: Entity, profiles: Mapping[str, Profile], key: str, decisions: Decisions) -> Chosen:
    """Choose what models read of a table."""
    may = {c: p for c, p in profiles.items() if c != key and p.present and p.links < _SEPARATED and _is_simple(c)}
    several = {c: mark for c, p in may.items() if (mark := _separator(c, p)) is not None}
    marks = [mark for mark in several.values() if mark]
    separator = max(dict.fromkeys(marks), key=marks.count) if marks else None
    multi = tuple(c for c, mark in several.items() if not mark or mark == separator)
    texts = tuple(sorted(
        (c for c, p in may.items() if c not in multi and not p.is_list and _reads(c, p)), key=_first
    ))[:1]  # fmt: skip
    lists = [c for c, p in may.items() if p.is_list or c in multi]
    kinds = {c: kind for c, p in may.items() if c not in texts and (kind := _kind(c, p, c in lists))}
    labels = [c for c, kind in kinds.items() if kind in ("categorical", "multi") and not may[c].numeric]
    text = (*texts, *labels[: _MOST_TEXTS - len(texts)])
    features = dict(list(kinds.items())[:_MOST_FEATURES])
    where = f"dataset.text.{entity}"
    if entity == "item":
        why = "a title, and columns with values that few items share" if texts else "values that few items share"
        decisions.note("item text", ", ".join(text) or "none", why if text else "no column has short texts", where)
    if features:
        shown = ", ".join(f"{c} ({kind if isinstance(kind, str) else 'numeric'})" for c, kind in features.items())
        decisions.note(f"{entity} features", shown, f"at most {_KINDS:,} different values, or numbers",
                       f"dataset.features.{entity}")  # fmt: skip
    if multi:
        how = f"separated by {separator!r}" if separator else "written as lists"
        decisions.note("several values", ", ".join(multi), how, "dataset.source.multi")
    return Chosen(text, features, multi, separator)


def _is_simple(column: str) -> bool:
    """Whether a template can name it."""
    return all(sign.isalnum() or sign in "_ -" for sign in column) and column == column.strip()


def _first(column: str) -> int:
    found = words(column)
    return min((place for place, word in enumerate(TITLE) if word in found), default=len(TITLE))


def _reads(column: str, profile: Profile) -> bool:
    """Whether values are short texts: titles, names."""
    if profile.numeric or profile.length > _LONG:
        return False
    return _first(column) < len(TITLE) or (profile.spaced > 0.5 and profile.distinct > _KINDS / 2)


def _separator(column: str, profile: Profile) -> str | None:
    """What stands between several values; empty: they are written as lists; None: there is one value."""
    if profile.is_list or profile.numeric:
        return None
    if profile.listed > _SEPARATED:
        return ""
    called = bool(LISTS & set(words(column)))
    for mark, share in profile.separated.items():
        if share >= _SEPARATED and (mark == "|" or called):
            return mark
    return None


def _kind(column: str, profile: Profile, several: bool) -> object:
    """A column's kind as a feature; None: it is none."""
    if several:
        return "multi"
    if profile.present < 0.5 * profile.rows or profile.distinct < 2:
        return None
    if profile.numeric and (profile.distinct > _NUMBERS or profile.fractions):
        if profile.numbers < profile.present or (profile.distinct >= 0.98 * profile.rows and profile.integral):
            return None  # other ids
        return {"kind": "numeric", "transform": "quantile"}
    if profile.distinct > min(_KINDS, 0.5 * profile.rows) or profile.length > _LONG:
        return None
    return "categorical"
