"""Sections of a recipe about columns: which are features, which are made of others, and which rows count."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from llmcf_cli.core.types import Broken, Config, rule
from llmcf_cli.recipe.kinds import Expression

_OF_KIND = {"multi": ("max_values",), "numeric": ("transform", "buckets"), "categorical": ()}


Kind = Literal["categorical", "multi", "numeric"]


class FeatureSection(Config):
    """A column as a feature. Its kind alone may be written for it: `year: categorical`."""

    kind: Kind
    """`categorical`: one value out of some; `multi`: a list of them; `numeric`: a number."""
    max_values: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Of `multi`: values kept per user or item, the first of its list; none: 128. What is cut is counted."""
    transform: Literal["standard", "quantile"] | None = None
    """Of `numeric`: `standard` (or none): less the mean, by the standard deviation, of the users or items in the train
    split; `quantile`: a categorical feature of buckets. Either knows missing numbers apart."""
    buckets: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Of `quantile`: buckets of about as many users or items of the train split each; none: 10."""

    @rule("kind", "max_values", "transform", "buckets")
    def _options_fit_the_kind(self) -> Iterator[Broken]:
        for kind, options in _OF_KIND.items():
            for option in options:
                if kind != self.kind and getattr(self, option) is not None:
                    yield Broken(f"is a setting of {kind} features, this one is {self.kind}", (option,))
        if self.kind == "numeric" and self.buckets is not None and self.transform != "quantile":
            yield Broken("is a setting of `transform: quantile`", ("buckets",))


def _by_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _declared(value: Any) -> Any:
    return {column: kind for column, kind in value.items() if kind is not None} if isinstance(value, Mapping) else value


Feature = Annotated[FeatureSection, BeforeValidator(_by_kind, json_schema_input_type=FeatureSection | Kind)]
Features = Annotated[
    dict[str, Feature], BeforeValidator(_declared, json_schema_input_type=dict[str, FeatureSection | Kind | None])
]


class FeaturesSection(Config):
    """Columns that models read beside the ids: column → kind, or `{kind: …}` with settings.

    `null` takes away what an extended recipe declares.
    """

    item: Features = Field(default_factory=dict)
    """Item columns, e.g. `{brand: categorical, genres: multi, price: {kind: numeric, transform: quantile}}`."""
    user: Features = Field(default_factory=dict)
    """User columns."""


Definitions = dict[str, Annotated[str, Expression()]]
Condition = Annotated[str, Expression()] | None


class DeriveSection(Config):
    """New columns by expressions over a table's columns, before the columns get their meaning; see docs/data.md.

    A name that the table has already is replaced.
    """

    interactions: Definitions = Field(default_factory=dict)
    """Column → expression, e.g. `{amount: number(quantity) * number(price)}`."""
    items: Definitions = Field(default_factory=dict)
    """Likewise for the item table."""
    users: Definitions = Field(default_factory=dict)
    """Likewise for the user table."""


class FilterSection(Config):
    """Conditions that a row must fulfil to be read, over the table's columns and the derived ones; see docs/data.md."""

    interactions: Condition = None
    """e.g. `number(quantity) > 0 and not starts_with(invoice, "C")`; none: all rows."""
    items: Condition = None
    """Likewise for the item table."""
    users: Condition = None
    """Likewise for the user table."""
