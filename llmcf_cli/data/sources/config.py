"""Settings of the sources: where the tables are and what their columns mean."""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmcf_cli.core.types import Broken, ComponentConfig, Config, Distinct, FilePath, FileRef, rule
from llmcf_cli.tabular.times import format_problem, zone_problem

Columns = Annotated[tuple[str, ...], Distinct()]
OptionalFilePath = Annotated[str | None, FileRef()]
Encoding = Literal[
    "utf-8", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "iso8859-2", "iso8859-15", "cp1250", "cp1251",
    "cp1253", "cp1254", "cp437", "cp850", "koi8-r", "mac-roman", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr",
]  # fmt: skip


class Times(Config):
    """How a column of times is written."""

    time_format: str | None = None
    """How times are written. If not set: ISO 8601 with or without a zone, timestamps, or numbers of seconds since 1970.
    Otherwise `seconds`, `milliseconds`, `microseconds` or `nanoseconds` for numbers in that unit; `day_first` or
    `month_first` for dates like 12/01/2009 or 12.1.2009 8:26 PM; or a strptime pattern, e.g. `%d %b %Y`."""
    time_zone: str | None = None
    """Zone of times that name none, e.g. `Europe/Berlin`. If not set: UTC."""

    @rule("time_format")
    def _format_is_known(self) -> Iterator[Broken]:
        problem = None if self.time_format is None else format_problem(self.time_format)
        if problem:
            yield Broken(problem, ("time_format",))

    @rule("time_zone")
    def _zone_is_known(self) -> Iterator[Broken]:
        problem = None if self.time_zone is None else zone_problem(self.time_zone)
        if problem:
            yield Broken(problem, ("time_zone",))


class RecBoleColumns(Times):
    """Columns of RecBole's atomic files, by meaning."""

    user: str = "user_id"
    """User id, in `.inter` and `.user`."""
    item: str = "item_id"
    """Item id, in `.inter` and `.item`."""
    rating: str = "rating"
    """Rating. Without such a column, the data are implicit."""
    time: str = "timestamp"
    """Time of the interaction."""


class RecBoleConfig(ComponentConfig):
    """RecBole atomic files: `NAME.inter` and, if there are any, `NAME.item` and `NAME.user` in one folder."""

    roles: ClassVar[Mapping[str, str]] = {"interactions": "path"}
    """Table → the setting that names its file."""
    type: Literal["recbole"] = "recbole"
    path: Annotated[str, FileRef(beside=(".item", ".user"))]
    """The folder, `asset:NAME`, or the `.inter` file itself if a folder has several."""
    columns: RecBoleColumns = RecBoleColumns()
    """Names of the columns."""
    multi: Columns = ()
    """Columns that hold several values, e.g. `[class]`. A `token_seq` that is not listed here, such as a title, stays
    one text."""
    separator: str = Field(default=" ", min_length=1)
    """Separator of the values in a `multi` column."""
    encoding: Encoding = "utf-8"
    """Character encoding."""


class TableColumns(Times):
    """Columns of the interaction table, by meaning. Set exactly one of `time` and `position`; it orders the events."""

    user: str = "user_id"
    """User id."""
    item: str = "item_id"
    """Item id."""
    rating: str | None = None
    """Rating, if there is one."""
    time: str | None = None
    """Time, on a clock that all users share."""
    position: str | None = None
    """Order of a user's events, as whole numbers, for data without a shared clock."""

    @rule("time", "position")
    def _one_order(self) -> Iterator[Broken]:
        if (self.time is None) == (self.position is None):
            yield Broken("give either time or position: the column that orders a user's events")

    @rule("position", "time_format", "time_zone")
    def _positions_have_no_form(self) -> Iterator[Broken]:
        for setting in ("time_format", "time_zone"):
            if self.position is not None and getattr(self, setting) is not None:
                yield Broken("is for times; a position is a whole number", (setting,))


class TablesConfig(ComponentConfig):
    """What Parquet, CSV and JSON tables have in common."""

    roles: ClassVar[Mapping[str, str]] = {"interactions": "interactions", "items": "items", "users": "users"}
    """Table → the setting that names its file."""
    interactions: FilePath
    """Table with one row per interaction: a file or `asset:NAME`; for Parquet, also a folder of files."""
    items: OptionalFilePath = None
    """Table with one row per item."""
    users: OptionalFilePath = None
    """Table with one row per user."""
    columns: TableColumns
    """Which column of `interactions` means what."""
    item_key: str | None = None
    """Id column of `items`. If not set: the same name as in `interactions`."""
    user_key: str | None = None
    """Id column of `users`. If not set: the same name as in `interactions`."""
    multi: Columns = ()
    """Text columns that hold several values, either separated or written as a JSON or Python list. List columns hold
    several values anyway."""
    separator: str = Field(default="|", min_length=1)
    """Separator of the values in a `multi` column."""


class ParquetConfig(TablesConfig):
    """Parquet tables."""

    type: Literal["parquet"] = "parquet"


class JsonlConfig(TablesConfig):
    """Tables of JSON objects, one per line or all in one array; `.gz` and `.zst` are unpacked."""

    type: Literal["jsonl"] = "jsonl"


class CsvConfig(TablesConfig):
    """CSV or TSV tables, all in one dialect. A first line with column names is expected unless `names` are given."""

    type: Literal["csv"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=4)
    """Separator between columns, up to four characters, e.g. `::`."""
    quote: str = Field(default='"', max_length=1)
    """Quote character around values that contain the delimiter. Empty: quotes are ordinary characters."""
    encoding: Encoding = "utf-8"
    """Character encoding."""
    names: dict[Literal["interactions", "items", "users"], tuple[str, ...]] = Field(default_factory=dict)
    """Column names of tables without a header line."""


class TableFormat(Config):
    """Format of one table's file. What is not set follows from the ending of the file's name."""

    format: Literal["csv", "jsonl", "parquet"] | None = None
    """If not set, by the ending: `.csv`, `.txt`; `.tsv`; `.jsonl`, `.json`, `.ndjson`; `.parquet`, or a folder."""
    delimiter: Annotated[str, Field(min_length=1, max_length=4)] | None = None
    """For CSV, as in the source `csv`. If not set: a tab for `.tsv`, otherwise a comma."""
    quote: str = Field(default='"', max_length=1)
    """For CSV, as in the source `csv`."""
    encoding: Encoding = "utf-8"
    """For CSV: character encoding."""
    names: Columns = ()
    """For CSV: column names, if the file has no header line."""


class MixedConfig(TablesConfig):
    """Tables in different formats: CSV, TSV, JSON lines or Parquet, by the endings of their names or as `formats`
    says."""

    type: Literal["tables"] = "tables"
    formats: dict[Literal["interactions", "items", "users"], TableFormat] = Field(default_factory=dict)
    """How each file is written, e.g. `{interactions: {delimiter: ";", encoding: cp1252}}`."""


class AmazonConfig(ComponentConfig):
    """Amazon reviews as published in 2014, 2018 or 2023: JSON lines, gzipped or not."""

    roles: ClassVar[Mapping[str, str]] = {"interactions": "reviews", "items": "metadata"}
    """Table → the setting that names its file."""
    type: Literal["amazon"] = "amazon"
    year: Literal[2014, 2018, 2023]
    """Year of the release, which determines the names of the fields."""
    reviews: FilePath
    """Reviews: who gave which item how many stars, and when."""
    metadata: OptionalFilePath = None
    """Items: title, brand (2023: `store`), categories and any other fields."""


class Amazon2014Config(ComponentConfig):
    """Amazon reviews as published in 2014; the same as `{type: amazon, year: 2014}`."""

    roles: ClassVar[Mapping[str, str]] = {"interactions": "reviews", "items": "metadata"}
    """Table → the setting that names its file."""
    type: Literal["amazon2014"] = "amazon2014"
    reviews: FilePath
    """Reviews: `reviewerID`, `asin`, `overall` (rating), `unixReviewTime`."""
    metadata: OptionalFilePath = None
    """Items: `asin`, `title`, `brand`, `categories`; each line is strict JSON or a Python literal."""
