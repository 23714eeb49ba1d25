"""Settings of the sources: where the raw tables are and what their columns mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from llmcf_cli.core.types import Broken, ComponentConfig, Config, Distinct, FilePath, FileRef, rule

Columns = Annotated[tuple[str, ...], Distinct()]
OptionalFilePath = Annotated[str | None, FileRef()]


class RecBoleColumns(Config):
    """Columns of RecBole's atomic files, by meaning."""

    user: str = "user_id"
    """User id, in `.inter` and `.user`."""
    item: str = "item_id"
    """Item id, in `.inter` and `.item`."""
    rating: str = "rating"
    """Rating; without such a column the data are implicit."""
    time: str = "timestamp"
    """Time of the interaction."""


class RecBoleConfig(ComponentConfig):
    """RecBole atomic files: `NAME.inter` and, if there are any, `NAME.item` and `NAME.user` in one folder."""

    type: Literal["recbole"] = "recbole"
    path: FilePath
    """The folder, or `asset:NAME`."""
    columns: RecBoleColumns = RecBoleColumns()
    """What the columns are called."""
    multi: Columns = ()
    """Columns that hold several values, e.g. `[class]`. A `token_seq` not named here (a title) stays one text."""
    separator: str = Field(default=" ", min_length=1)
    """What separates the values of a `multi` column."""
    item_features: Columns | None = None
    """Item columns to keep; none given: all of them."""
    user_features: Columns | None = None
    """User columns to keep; none given: all of them."""


class TableColumns(Config):
    """Columns of the interaction table, by meaning. Exactly one of `time` and `position` orders the events."""

    user: str = "user_id"
    """User id."""
    item: str = "item_id"
    """Item id."""
    rating: str | None = None
    """Rating, if there is one."""
    time: str | None = None
    """Time on a clock all users share: whole numbers (epoch seconds), timestamps or ISO dates."""
    position: str | None = None
    """Order within the user, for data without a shared clock."""

    @rule("time", "position")
    def _one_order(self) -> Iterator[Broken]:
        if (self.time is None) == (self.position is None):
            yield Broken("give either time or position: the column that orders a user's events")


class TablesConfig(ComponentConfig):
    """What Parquet and CSV tables have in common."""

    interactions: FilePath
    """Table with one row per interaction: a file, a folder of files, or `asset:NAME`."""
    items: OptionalFilePath = None
    """Table with one row per item."""
    users: OptionalFilePath = None
    """Table with one row per user."""
    columns: TableColumns
    """What the columns of `interactions` mean."""
    item_key: str | None = None
    """Id column of `items`; none given: the same name as in `interactions`."""
    user_key: str | None = None
    """Id column of `users`; none given: the same name as in `interactions`."""
    item_features: Columns | None = None
    """Item columns to keep; none given: all of them."""
    user_features: Columns | None = None
    """User columns to keep; none given: all of them."""
    multi: Columns = ()
    """Text columns that hold several values. List columns hold several anyway."""
    separator: str = Field(default="|", min_length=1)
    """What separates the values of a `multi` column."""


class ParquetConfig(TablesConfig):
    """Parquet tables."""

    type: Literal["parquet"] = "parquet"


class CsvConfig(TablesConfig):
    """CSV or TSV tables, all in one dialect. A first line with column names is expected unless `names` are given."""

    type: Literal["csv"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=4)
    """Between two columns; up to four characters, e.g. `::`."""
    quote: str = Field(default='"', max_length=1)
    """Around values that contain the delimiter; empty: quotes are ordinary characters."""
    encoding: Literal["utf-8", "latin-1", "utf-16"] = "utf-8"
    """Character encoding."""
    names: dict[Literal["interactions", "items", "users"], tuple[str, ...]] = Field(default_factory=dict)
    """Column names of the tables that have no header line."""


class Amazon2014Config(ComponentConfig):
    """Amazon reviews 2014 as published: JSON lines, gzipped or not."""

    type: Literal["amazon2014"] = "amazon2014"
    reviews: FilePath
    """Reviews: `reviewerID`, `asin`, `overall` (rating), `unixReviewTime`."""
    metadata: OptionalFilePath = None
    """Items: `asin`, `title`, `brand`, `categories`; strict JSON or Python literals, line by line."""
