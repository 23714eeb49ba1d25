"""Amazon reviews: a review or an item per line, as JSON or, in the metadata of 2014, as a Python literal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmcf_cli.data.raw import Locate, Meaning, RawData, Role
from llmcf_cli.data.sources.config import Amazon2014Config, AmazonConfig
from llmcf_cli.tabular.files import require_file
from llmcf_cli.tabular.jsonl import Parse, exact_json, literal_or_json, read_json
from llmcf_cli.tabular.table import Table
from llmcf_cli.tabular.times import TimeFormat

_LONG = ("reviewText", "text", "summary", "images", "image")
"""Of a review: what it says and shows, which no expression asks for and most of the file is."""


@dataclass(frozen=True)
class _Layout:
    """What the fields of a release are called.

    Attributes:
        user, item, rating, time: Of a review.
        unit: Of its time.
        key: Id of an item.
        described: Fields of an item that are read: the others are long texts, links and statistics.
        parse: How a line of metadata is read.
    """

    user: str
    item: str
    rating: str
    time: str
    unit: str
    key: str
    described: tuple[str, ...]
    parse: Parse


_LAYOUTS = {
    2014: _Layout("reviewerID", "asin", "overall", "unixReviewTime", "seconds", "asin",
                  ("title", "brand", "categories", "price"), literal_or_json),
    2018: _Layout("reviewerID", "asin", "overall", "unixReviewTime", "seconds", "asin",
                  ("title", "brand", "category", "main_cat", "price"), exact_json),
    2023: _Layout("user_id", "parent_asin", "rating", "timestamp", "milliseconds", "parent_asin",
                  ("title", "store", "main_category", "categories", "price"), exact_json),
}  # fmt: skip


class AmazonSource:
    """Reviews as McAuley et al. published them (SIGIR 2015; Ni et al., EMNLP 2019; Hou et al., 2024)."""

    def __init__(self, config: AmazonConfig | Amazon2014Config) -> None:
        self._config = config
        self._layout = _LAYOUTS[config.year if isinstance(config, AmazonConfig) else 2014]
        self.times = TimeFormat(self._layout.unit)

    def load(self, con: Any, locate: Locate, rows: int | None = None) -> RawData:
        """See `Source.load`."""
        layout, config = self._layout, self._config
        reviews = require_file(locate(config.reviews), "reviews", "correct dataset.source.reviews")
        tables: dict[Role, Table] = {"interactions": read_json(
            con, reviews, "file_interactions", rows, without=_LONG
        )}  # fmt: skip
        if config.metadata is not None:
            metadata = require_file(locate(config.metadata), "metadata", "correct dataset.source.metadata")
            tables["items"] = read_json(
                con, metadata, "file_items", rows, layout.parse, only=(layout.key, *layout.described)
            )  # fmt: skip
        return RawData(tables, Meaning(
            layout.user, layout.item, layout.rating, layout.time, times=self.times,
            keys={"item": layout.key, "user": layout.user},
        ))  # fmt: skip
