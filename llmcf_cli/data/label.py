"""Labels: `event` → `labelled(user_row, item_row, label, time, place, split)`, the samples without their histories.

`place` is the event's, NULL for a drawn negative, which is none.
"""

from __future__ import annotations

from typing import Any, Protocol

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.data.config import ImplicitLabelConfig, RatingLabelConfig
from llmcf_cli.data.negatives import Catalogue, insert_negatives
from llmcf_cli.data.raw import scalar
from llmcf_cli.plugin import Kind
from llmcf_cli.recipe.dataset import Repeats


class Label(Protocol):
    """A way to label: built with its configuration.

    Attributes:
        needs_rating: Whether interactions without a rating are unusable.
    """

    needs_rating: bool

    def label(self, con: Any, repeats: Repeats, seed: int) -> str:
        """Create `labelled` from `event` and `catalogue`; a positive sample always is an event.

        A sample follows from the seed and its user's events up to its own time, so later rows change no label.

        Args:
            repeats: Whether `event` holds a user's later events with an item.

        Returns:
            One line for the report.
        """

    def require_both(self, con: Any) -> None:
        """Check `labelled`.

        Raises:
            DataError: Some label occurs nowhere.
        """


LABEL: Kind[Label] = Kind("label")


class RatingLabel:
    """label = 1 if rating ≥ `positive_from`, else 0."""

    needs_rating = True

    def __init__(self, config: RatingLabelConfig) -> None:
        self._config = config

    def label(self, con: Any, repeats: Repeats, seed: int) -> str:
        """See `Label.label`."""
        threshold = self._config.positive_from
        con.execute(
            "CREATE OR REPLACE TABLE labelled AS SELECT user_row, item_row, "
            f"(rating >= {threshold!r})::TINYINT AS label, time, place, split FROM event"
        )
        positive = scalar(con, "SELECT coalesce(avg(label), 0) FROM labelled")
        return f"rating ≥ {threshold:g} is positive: {positive:.1%} of the samples"

    def require_both(self, con: Any) -> None:
        """See `Label.require_both`."""
        threshold = self._config.positive_from
        least, most = con.execute("SELECT min(rating), max(rating) FROM event").fetchone()
        positive = scalar(con, "SELECT avg(label) FROM labelled")
        if positive in (0, 1):
            raise DataError(
                f"ratings range from {least:g} to {most:g}, so positive_from: {threshold:g} labels every sample "
                f"{'positive' if positive else 'negative'}",
                code="label-one-class", where="dataset.label", hint="change dataset.label.positive_from",
            )  # fmt: skip


class ImplicitLabel:
    """Events are positive; negatives are drawn beside each, from what the user has not taken by then (`negatives`)."""

    needs_rating = False

    def __init__(self, config: ImplicitLabelConfig) -> None:
        self._config = config

    def label(self, con: Any, repeats: Repeats, seed: int) -> str:
        """See `Label.label`."""
        config = self._config
        con.execute(
            "CREATE OR REPLACE TABLE labelled AS "
            "SELECT user_row, item_row, 1::TINYINT AS label, time, place, split FROM event"
        )
        catalogue = Catalogue.read(con, config.negatives)
        drawn, short = insert_negatives(con, catalogue, config.per_positive, repeats, derive_seed(seed, "negatives"))
        lack = f"; {short:,} fewer than asked, because some users have taken nearly every item" if short else ""
        return f"{config.per_positive} negatives per positive, {config.negatives.type}: {drawn:,} drawn{lack}"

    def require_both(self, con: Any) -> None:
        """See `Label.require_both`."""
        if not scalar(con, "SELECT count(*) FROM labelled WHERE label = 0"):
            raise DataError(
                "no negatives to draw: every user has taken every item",
                code="negatives-none", where="dataset.label",
                hint="use `negatives: uniform`, or `label: {type: rating}` if there are ratings",
            )  # fmt: skip
