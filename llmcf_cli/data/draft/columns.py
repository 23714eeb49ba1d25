"""What the values of columns say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmcf_cli.data.draft.files import File
from llmcf_cli.tabular.sql import name, text
from llmcf_cli.tabular.values import as_id, as_number, is_list, is_structure, is_text, present

SEPARATORS = ("|", ";", ",")
SHARE = 0.99
"""Share of a column's values that must be of a kind for the column to be: the others are faults, and are counted."""
_TOGETHER = 16  # columns of one query


@dataclass(frozen=True)
class Profile:
    """A column's values.

    Attributes:
        column: Its name.
        kind: Its DuckDB type.
        rows: Rows of the table.
        present: Those with a value.
        distinct: Different values, as ids.
        numbers: Values that are numbers.
        whole: Those that are whole ones.
        low, high: 1 % and 99 % of the numbers lie below; None where there are none.
        least, most: Least and greatest of them.
        length: Median number of characters.
        spaced: Share of values with white space within.
        links: Share of values that begin as addresses of pages do.
        separated: Separator → share of values that contain it.
        listed: Share of values that are written as a list.
        example: One of the values.
    """

    column: str
    kind: str
    rows: int
    present: int
    distinct: int
    numbers: int
    whole: int
    low: float | None
    high: float | None
    least: float | None
    most: float | None
    length: float
    spaced: float
    links: float
    separated: Mapping[str, float]
    listed: float
    example: str

    @property
    def numeric(self) -> bool:
        """Whether (nearly) all values are numbers."""
        return self.present > 0 and self.numbers >= SHARE * self.present

    @property
    def integral(self) -> bool:
        """Whether (nearly) all values are whole numbers."""
        return self.present > 0 and self.whole >= SHARE * self.present

    @property
    def is_list(self) -> bool:
        """Whether it is a column of lists by its type."""
        return is_list(self.kind)

    @property
    def fractions(self) -> bool:
        """Whether values are numbers with digits after the point, which no id is."""
        return self.numeric and self.whole < self.numbers


def profiles(con: Any, file: File) -> dict[str, Profile]:
    """Column → what its values say; without columns of objects and bytes."""
    kinds = {c: k for c, k in file.kinds.items() if not is_structure(k) and k != "BLOB" and c not in file.table.objects}
    found: dict[str, Profile] = {}
    columns = list(kinds)
    for start in range(0, len(columns), _TOGETHER):
        some = columns[start : start + _TOGETHER]
        asked = [sql for column in some for sql in _asked(name(column), kinds[column])]
        ((rows, *values),) = con.execute(f"SELECT count(*), {', '.join(asked)} FROM {file.rows}").fetchall()
        size = len(asked) // len(some)
        for place, column in enumerate(some):
            found[column] = _profile(column, kinds[column], rows, values[place * size : (place + 1) * size])
    return found


def _asked(sql: str, kind: str) -> list[str]:
    shown = present(sql, kind)
    number = as_number(sql, kind)
    whole = f"count(*) FILTER ({number} = trunc({number}))"
    listed = f"regexp_matches({shown}, '^\\[.*\\]$')" if is_text(kind) else "false"
    distinct = as_id(sql, kind) if not is_list(kind) else shown
    return [
        f"count({shown})", f"count(DISTINCT {distinct})", f"count({number})", whole,
        f"quantile_cont({number}, 0.01)", f"quantile_cont({number}, 0.99)", f"min({number})", f"max({number})",
        f"median(len({shown}))", *(f"count(*) FILTER ({test})" for test in (
            f"regexp_matches({shown}, '\\S\\s+\\S')", f"regexp_matches({shown}, '^https?://')",
            *(f"contains({shown}, {text(mark)})" for mark in SEPARATORS), listed,
        )), f"any_value({shown})",
    ]  # fmt: skip


def _profile(column: str, kind: str, rows: int, values: list[Any]) -> Profile:
    given, distinct, numbers, whole, low, high, least, most, length, spaced, links, *rest = values
    *separated, listed, example = rest
    share = {mark: count / max(given, 1) for mark, count in zip(SEPARATORS, separated, strict=True)}
    return Profile(
        column, kind, rows, given, distinct, numbers, whole, low, high, least, most, length or 0.0,
        spaced / max(given, 1), links / max(given, 1), share, listed / max(given, 1), str(example or ""),
    )  # fmt: skip
