"""What a source hands over: tables as their files have them, and which columns mean what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from llmcf_cli.core.types import Clock
from llmcf_cli.plugin import Kind
from llmcf_cli.tabular.files import first_sentence, reading
from llmcf_cli.tabular.sql import columns_of, name, scalar, text
from llmcf_cli.tabular.table import Table
from llmcf_cli.tabular.times import TimeFormat

__all__ = [
    "Entity", "Locate", "Meaning", "RawData", "Role", "Source", "columns_of", "first_sentence", "name", "reading",
    "scalar", "text",
]  # fmt: skip

Entity = Literal["item", "user"]
Role = Literal["interactions", "items", "users"]
Locate = Callable[[str], Path]
TABLES: Mapping[Entity, Role] = {"item": "items", "user": "users"}


@dataclass(frozen=True)
class Meaning:
    """What the columns of a source's tables mean.

    Attributes:
        user, item: Id columns of the interactions.
        rating: Their rating; None: there is none.
        time: Their time on a clock that all users share; None: there is none.
        position: Their place in the user's order, where there is no such clock.
        times: How times are written.
        keys: Id column of the tables of items and users.
        multi: Columns of items and users that hold lists.
        separator: Between the values of a text that is such a list.
        settings: Where the recipe sets these columns and the form of times, e.g. `dataset.source.columns`; empty: the
            source fixes them.
    """

    user: str
    item: str
    rating: str | None
    time: str | None
    position: str | None = None
    times: TimeFormat = TimeFormat()
    keys: Mapping[Entity, str] = field(default_factory=dict)
    multi: tuple[str, ...] = ()
    separator: str = "|"
    settings: str = ""

    @property
    def clock(self) -> Clock:
        """`global` if a clock is shared by all users, `per_user` if only the order within a user is known."""
        return "per_user" if self.time is None else "global"

    @property
    def order(self) -> str:
        """The column that orders events."""
        found = self.position if self.time is None else self.time
        assert found is not None, "one of time and position"
        return found


@dataclass(frozen=True)
class RawData:
    """A data set as it was read. Columns get their meaning only when `checks` reads them.

    Attributes:
        tables: The interactions, and items and users where there are such tables.
        meaning: What their columns mean.
        kept: Conditions by which the recipe's filter has left out rows of these tables.
    """

    tables: Mapping[Role, Table]
    meaning: Meaning
    kept: Mapping[Role, str] = field(default_factory=dict)

    def reshaped(self, change: Callable[[Role, Table], Table]) -> RawData:
        """The data with each table changed, e.g. to a relation with derived columns or fewer rows."""
        return replace(self, tables={role: change(role, table) for role, table in self.tables.items()})


class Source(Protocol):
    """A source: built with its configuration, asked once.

    Attributes:
        times: How its times are written; requests to a model of its data write them so too.
    """

    @property
    def times(self) -> TimeFormat: ...

    def load(self, con: Any, locate: Locate, rows: int | None = None) -> RawData:
        """Read the files into relations of `con`, with all their columns.

        Args:
            con: DuckDB connection on a scratch database.
            locate: File or folder of a reference in the configuration.
            rows: Read so many rows of each table and no more, to look at the data; None: all.

        Raises:
            DataError: A file is missing or cannot be read.
        """


SOURCE: Kind[Source] = Kind("source")
