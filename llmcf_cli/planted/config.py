"""Settings of the planted world: a data set made by rule, in which what texts say is known to matter."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from llmcf_cli.core.types import Broken, ComponentConfig, rule

Share = Annotated[float, Field(ge=0, le=1)]


class PlantedConfig(ComponentConfig):
    """A made-up book shop, generated from a seed: ratings depend on hidden attributes of books that no column has.

    Readers and books arrive over time. A book has a genre, named by its text and a column, and hidden attributes (pace,
    mood, …), some of which its text states. A reader likes a book for its genre and attributes: partly as all readers
    do, partly as the reader's circle does, which a column names for most readers. There are no other columns.
    """

    type: Literal["planted"] = "planted"
    """Registered name."""
    users: Annotated[int, Field(ge=10, le=1_000_000)] = 1500
    """Number of readers."""
    items: Annotated[int, Field(ge=10, le=100_000)] = 2400
    """Number of books."""
    ratings: Annotated[int, Field(ge=100, le=50_000_000)] = 16_000
    """Number of ratings."""
    attributes: Annotated[int, Field(ge=1, le=6)] = 4
    """Number of hidden attributes per book."""
    values: Annotated[int, Field(ge=2, le=8)] = 8
    """Number of values that each attribute may have."""
    in_text: Share = 0.25
    """Share of a book's hidden attributes that its own text states."""
    cold_items: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    """Share of the books that come out in the last fifth of the time, from which validation and test are taken."""
    repeats: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the ratings whose reader has rated the same book before."""
    strength: Annotated[float, Field(ge=0)] = 2.0
    """Standard deviation, in logits, of the effect of hidden attributes on liking. Genre, reader and book have 0.5
    each."""
    shared: Share = 0.8
    """Share of the variance of these tastes that all readers have in common; the rest is their circle's."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed that determines the world."""

    @rule("users", "items", "ratings")
    def _not_more_than_pairs(self) -> Iterator[Broken]:
        if self.ratings > self.users * self.items // 4:
            most = self.users * self.items // 4
            yield Broken(f"{self.ratings:,} ratings are more than a quarter of all pairs ({most:,})", ("ratings",))
