"""People's verdicts on chains of thought: a table that outlives a run, since a verdict is on a text, not on a row."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import DataError, StoreError
from llmcf_cli.core.files import kind_of
from llmcf_cli.llm.writing.cots import SCORES, CoTOutput
from llmcf_cli.store.open import connect_read, write_parquet
from llmcf_cli.store.tables import COT_REVIEW
from llmcf_cli.tabular.parquet import check_size

if TYPE_CHECKING:
    from llmcf_cli.llm.writing.cots import Written

MAX_REVIEWS = 1_000_000
"""Rows of a table of reviews."""
MAX_NOTE = 2_000
"""Characters of a note."""

_SHOWN = f"""
SELECT sample_id, u.user_id, i.item_id, s.label, u.text AS user, i.text AS item, c.text, c.kept, c.reason,
       {", ".join(f"c.{name}" for name in SCORES)}
FROM (
    SELECT sample_id, text, true AS kept, '' AS reason, {", ".join(SCORES)} FROM read_parquet($cots)
    UNION ALL
    SELECT sample_id, arg_max(text, score), false, arg_max(reason, score),
           {", ".join(f"arg_max({name}, score)" for name in SCORES)}
    FROM read_parquet($candidates) WHERE sample_id NOT IN (SELECT sample_id FROM read_parquet($cots))
    GROUP BY sample_id
) c JOIN sample s USING (sample_id) JOIN item i USING (item_row) JOIN "user" u USING (user_row)
ORDER BY sample_id
"""


class Verdict(StrEnum):
    """What somebody says of a chain of thought."""

    keep = "keep"
    drop = "drop"


@dataclass(frozen=True)
class Review:
    """A verdict on a text.

    Attributes:
        text_sha256: Of the text, UTF-8.
        verdict: Whether it may be an example's.
        note: Why.
        reviewed: When, UTC, in ISO 8601.
        sample_id: The sample that it was shown with.
    """

    text_sha256: str
    verdict: Verdict
    note: str
    reviewed: str
    sample_id: int

    @classmethod
    def now(cls, row: Mapping[str, Any], verdict: Verdict, note: str = "") -> Review:
        """A verdict on what is shown, made now."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(digest_of(row["text"]), verdict, note[:MAX_NOTE], when, row["sample_id"])


@dataclass(frozen=True)
class Agreement:
    """How people and judge agree on texts that both have seen.

    Attributes:
        both_keep: Texts that both keep.
        both_drop: Texts that neither keeps.
        people_keep: Texts that the judge dropped and people keep.
        people_drop: Texts that the judge kept and people drop.
    """

    both_keep: int
    both_drop: int
    people_keep: int
    people_drop: int

    @property
    def texts(self) -> int:
        """How many there are."""
        return self.both_keep + self.both_drop + self.people_keep + self.people_drop

    @property
    def share(self) -> float | None:
        """Share of the texts on which they agree; None: there is none."""
        return (self.both_keep + self.both_drop) / self.texts if self.texts else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa (1960): agreement beyond chance; None where one of them always says the same."""
        people, judge = self.both_keep + self.people_keep, self.both_keep + self.people_drop
        chance = (people * judge + (self.texts - people) * (self.texts - judge)) / max(self.texts, 1) ** 2
        if self.share is None or people in (0, self.texts) or judge in (0, self.texts):
            return None
        return (self.share - chance) / (1 - chance)


def digest_of(text: str) -> str:
    """What a verdict knows a text by."""
    return sha256(text.encode()).hexdigest()


def to_review(written: Written) -> list[Mapping[str, Any]]:
    """One text of each sample that was written about, with its sample, scores, and whether the judge kept it.

    Of a sample whose texts were all dropped, the one of the highest score.
    """
    output = CoTOutput(written.folder)
    files = {"cots": str(output.cots), "candidates": str(output.candidates)}
    with connect_read(written.data) as connection:
        rows: list[Mapping[str, Any]] = connection.sql(_SHOWN, params=files).to_arrow_table().to_pylist()
    return rows


def agreement(rows: Iterable[Mapping[str, Any]], reviews: Mapping[str, Review]) -> Agreement:
    """How verdicts agree with the judge's, on the texts that have one."""
    found = [
        (reviews[digest].verdict is Verdict.keep, bool(row["kept"]))
        for row in rows if (digest := digest_of(row["text"])) in reviews
    ]  # fmt: skip
    return Agreement(
        found.count((True, True)), found.count((False, False)), found.count((True, False)), found.count((False, True))
    )


def read_reviews(file: Path) -> dict[str, Review]:
    """Digest of a text → the verdict on it.

    Raises:
        DataError: The file is no table of reviews, or a row of it is not as it should be.
    """
    if kind_of(file) != "file":
        raise DataError("no such file", code="path-missing", where=str(file), hint="llmcf review RECIPE --out FILE")
    check_size(file)
    try:
        with pq.ParquetFile(file) as opened:
            have = opened.schema_arrow
            if have.names != COT_REVIEW.schema.names or have.types != COT_REVIEW.schema.types:
                raise DataError("contains no reviews", code="reviews-format", where=str(file),
                                hint="write them with: llmcf review RECIPE --out FILE")  # fmt: skip
            if opened.metadata.num_rows > MAX_REVIEWS:
                raise DataError(f"has more than {MAX_REVIEWS:,} reviews", code="file-limit", where=str(file))
            rows = opened.read().to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {str(error).splitlines()[0]}"
        raise DataError(what, code="file-format", where=str(file)) from error
    found: dict[str, Review] = {}
    for row in rows:
        if row["verdict"] not in set(Verdict):
            raise DataError(f"has the unknown verdict {row['verdict']!r}", code="reviews-format", where=str(file),
                            allowed=tuple(Verdict))  # fmt: skip
        found[row["text_sha256"]] = Review(**{**row, "verdict": Verdict(row["verdict"])})
    return found


def write_reviews(reviews: Sequence[Review], file: Path) -> None:
    """Write verdicts; the file is replaced only by a complete one.

    Raises:
        StoreError: It cannot be written.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    columns = {field.name: [getattr(review, field.name) for review in reviews] for field in fields(Review)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(pa.table(columns, schema=COT_REVIEW.schema), COT_REVIEW, partial)
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"cannot be written: {error.strerror}", code="store-unwritable", where=str(file)) from error


def without_dropped(cots: pa.Table, file: Path) -> tuple[pa.Table, int, int]:
    """The chains of thought that nobody dropped; how many somebody did, and how many reviews are of other texts.

    Args:
        cots: Rows with the column `text`.
        file: Table of reviews.

    Raises:
        DataError: The file is no table of reviews, or all are dropped.
    """
    reviews = read_reviews(file)
    digests = [digest_of(text) for text in cots["text"].to_pylist()]
    stays = [digest not in reviews or reviews[digest].verdict is Verdict.keep for digest in digests]
    if cots.num_rows and not any(stays):
        raise DataError(f"all {cots.num_rows:,} chains of thought are dropped", code="reviews-none-left",
                        where=str(file), hint="keep some (llmcf review RECIPE --again) or omit cot.review")  # fmt: skip
    return cots.filter(pa.array(stays, pa.bool_())), stays.count(False), len(set(reviews) - set(digests))
