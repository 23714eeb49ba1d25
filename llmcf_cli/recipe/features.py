"""Sections of a recipe about columns: which are features, which are made of others, and which rows count."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from llmcf_cli.core.types import Broken, Config, rule
from llmcf_cli.recipe.kinds import Expression

_OF_KIND = {"multi": ("max_values",), "numeric": ("transform", "buckets"), "categorical": ()}


Kind = Literal["categorical", "multi", "numeric"]


class FeatureSection(Config):
    """One column as a feature. Its kind alone is enough: `year: categorical`."""

    kind: Kind
    """`categorical`: one of several values; `multi`: a list of values; `numeric`: a number."""
    max_values: Annotated[int, Field(ge=1, le=1024)] | None = None
    """For `multi`: maximum number of values per user or item; the first in the list are kept, and the others are
    counted. If not set: 128."""
    transform: Literal["standard", "quantile"] | None = None
    """For `numeric`. `standard` (the default): subtract the mean and divide by the standard deviation over the users or
    items of the train split. `quantile`: make a categorical feature of buckets. Both treat missing numbers
    separately."""
    buckets: Annotated[int, Field(ge=2, le=1000)] | None = None
    """For `quantile`: number of buckets, each with about equally many users or items of the train split. If not set:
    10."""

    @rule("kind", "max_values", "transform", "buckets")
    def _options_fit_the_kind(self) -> Iterator[Broken]:
        for kind, options in _OF_KIND.items():
            for option in options:
                if kind != self.kind and getattr(self, option) is not None:
                    yield Broken(f"applies only to {kind} features; this one is {self.kind}", (option,))
        if self.kind == "numeric" and self.buckets is not None and self.transform != "quantile":
            yield Broken("applies only to `transform: quantile`", ("buckets",))


def _by_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _declared(value: Any) -> Any:
    return {column: kind for column, kind in value.items() if kind is not None} if isinstance(value, Mapping) else value


Feature = Annotated[FeatureSection, BeforeValidator(_by_kind, json_schema_input_type=FeatureSection | Kind)]
Features = Annotated[
    dict[str, Feature], BeforeValidator(_declared, json_schema_input_type=dict[str, FeatureSection | Kind | None])
]


class FeaturesSection(Config):
    """Columns that models read in addition to the ids: column → kind, or `{kind: …}` with settings.

    `null` removes a column that the extended recipe declares.
    """

    item: Features = Field(default_factory=dict)
    """Item columns, for example `{brand: categorical, genres: multi, price: {kind: numeric, transform: quantile}}`."""
    user: Features = Field(default_factory=dict)
    """User columns, likewise."""


Definitions = dict[str, Annotated[str, Expression()]]
Condition = Annotated[str, Expression()] | None


class DeriveSection(Config):
    """New columns, computed by expressions over a table's columns before any column gets its role; see docs/data.md.

    A new column with the name of an existing one replaces it.
    """

    interactions: Definitions = Field(default_factory=dict)
    """Column → expression, for example `{amount: number(quantity) * number(price)}`."""
    items: Definitions = Field(default_factory=dict)
    """Likewise for the item table."""
    users: Definitions = Field(default_factory=dict)
    """Likewise for the user table."""


class FilterSection(Config):
    """Conditions for keeping a row, over the table's own and derived columns; see docs/data.md."""

    interactions: Condition = None
    """For example `number(quantity) > 0 and not starts_with(invoice, "C")`. If not set: all rows."""
    items: Condition = None
    """Likewise for the item table."""
    users: Condition = None
    """Likewise for the user table."""
