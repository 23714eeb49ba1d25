"""Which columns of users and items are features: without arrays, so that checking a recipe loads none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Entity = Literal["user", "item"]
ENTITIES: tuple[Entity, Entity] = ("user", "item")

MAX_VALUES = 128
"""Values kept of a field that may have several, where the recipe does not say how many."""


@dataclass(frozen=True)
class Choice:
    """A column that is a feature, as the recipe has it.

    Attributes:
        entity: Whose column it is.
        name: The column.
        kind: One value, several values, or a number.
        max_values: Of `multi`: values kept per entity, the first of the list.
        transform: Of `numeric`: `standard` keeps it a number, `quantile` makes a categorical field of it.
        buckets: Of `quantile`: buckets of about as many entities each.
    """

    entity: Entity
    name: str
    kind: Literal["categorical", "multi", "numeric"]
    max_values: int = MAX_VALUES
    transform: Literal["standard", "quantile"] = "standard"
    buckets: int = 10
