"""Two cuts in time, the same for all users: where they are, and how a recipe writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.store.splits import split_sql
from llmcf_cli.tabular.sql import text
from llmcf_cli.tabular.times import TimeFormat, shown_time, with_times

_META = ("cut.validation_from", "cut.test_from")


@dataclass(frozen=True)
class Cuts:
    """Train before `validation_from`, validation before `test_from`, test from there on.

    Attributes:
        validation_from, test_from: Microseconds since 1970 in UTC.
    """

    validation_from: int
    test_from: int

    def split(self, time: str = "time") -> str:
        """SQL of the split of a time in microseconds."""
        return split_sql(self.validation_from, self.test_from, time)

    def meta(self) -> dict[str, str]:
        """Entries of the table `meta`; `from_meta` is the inverse."""
        return dict(zip(_META, map(str, (self.validation_from, self.test_from)), strict=True))

    @classmethod
    def from_meta(cls, meta: Mapping[str, str]) -> Cuts | None:
        """The cuts of an ingest; None where its split has none."""
        return cls(*(int(meta[key]) for key in _META)) if all(key in meta for key in _META) else None

    def written(self) -> dict[str, str]:
        """As a recipe writes them: ISO 8601 in UTC, to the microsecond; `of_written` is the inverse."""
        start = datetime(1970, 1, 1, tzinfo=UTC)
        times = {"validation_from": self.validation_from, "test_from": self.test_from}
        return {name: (start + timedelta(microseconds=time)).isoformat() for name, time in times.items()}

    @classmethod
    def of_written(cls, written: Mapping[str, str]) -> Cuts:
        """The cuts that `written` wrote."""
        start, unit = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
        return cls(**{name: (datetime.fromisoformat(time) - start) // unit for name, time in written.items()})

    def __str__(self) -> str:
        return f"validation from {shown_time(self.validation_from)}, test from {shown_time(self.test_from)} (UTC)"


def read_cuts(con: Any, written: Mapping[str, str | float], form: TimeFormat, where: str) -> Cuts:
    """Two cuts that a recipe names.

    Args:
        con: DuckDB connection.
        written: `validation_from` and `test_from`.
        form: How the data's times are written.
        where: Key path of the section that has them.

    Raises:
        DataError: One cannot be read, or the second is not later than the first.
    """
    cuts = Cuts(**{key: read_moment(con, value, form, f"{where}.{key}") for key, value in written.items()})
    if cuts.test_from <= cuts.validation_from:
        raise DataError(
            f"test_from is {shown_time(cuts.test_from)}, not later than validation_from, "
            f"{shown_time(cuts.validation_from)} (UTC)",
            code="cut-order", where=f"{where}.test_from", hint="set a later time",
        )  # fmt: skip
    return cuts


def read_moment(con: Any, written: str | float, form: TimeFormat, where: str) -> int:
    """A time that a recipe names, in microseconds since 1970 in UTC.

    Args:
        con: DuckDB connection.
        written: As the data's times are written, or in ISO 8601.
        form: How the data's times are written.
        where: Key path, for the error.

    Raises:
        DataError: It is neither, or has digits below the microsecond.
    """
    for tried in (form, TimeFormat(zone=form.zone)):
        given = f"(SELECT {text(str(written))} AS written)"
        time, cut, twice = con.execute(
            f"SELECT time, time_cut, time_twice FROM {with_times(con, given, 'written', 'VARCHAR', tried)}"
        ).fetchone()
        if time is not None and cut:
            raise DataError(
                f"{written} has digits below the microsecond",
                code="cut-invalid",
                where=where,
                hint="write at most six digits after the point",
            )
        if time is not None and twice:
            raise DataError(
                f"{written} occurs twice in {form.zone} (clock change)", code="cut-invalid", where=where,
                hint="add the offset, as in 2024-10-27T02:30:00+01:00",
            )  # fmt: skip
        if time is not None:
            return int(time)
    raise DataError(
        f"{written!r} cannot be read as a time", code="cut-invalid", where=where,
        allowed=("2024-06-01", "2024-06-01T12:00:00+02:00", "1717200000"),
        hint="write it in ISO 8601, or in the format of the data's times (dataset.source)",
    )  # fmt: skip
