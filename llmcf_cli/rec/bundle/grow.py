"""A trained model with more rows than it was trained on: the same weights, a longer catalogue, later histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from llmcf_cli.core.errors import StoreError
from llmcf_cli.features.batch import Catalog, EntityTable, encode_entities
from llmcf_cli.features.choice import ENTITIES, Entity
from llmcf_cli.features.histories import Histories
from llmcf_cli.features.spec import UNKNOWN
from llmcf_cli.rec.bundle.bundle import Bundle
from llmcf_cli.rec.bundle.reports import UnknownValues
from llmcf_cli.rec.input.base import REQUEST, Input, Made, default_inputs, forgetful
from llmcf_cli.rec.input.examples import EXAMPLES
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.recommender import Recommender
from llmcf_cli.store.open import connect_read


@dataclass(frozen=True)
class Refreshed:
    """A model that knows later rows.

    Attributes:
        model: Of the bundle's weights.
        users: New users. They have no embedding of their own.
        items: New items, likewise.
        unknown: Features that new users or items have values of which the vocabulary lacks.
        without_text: New items without a text vector; 0 where the model reads none.
        examples: New examples.
    """

    model: Recommender
    users: int
    items: int
    unknown: tuple[UnknownValues, ...]
    without_text: int
    examples: int


def grown(
    model: Recommender, inputs: Mapping[str, Input], longer: Resources, held: Callable[[Input, Resources], Any]
) -> Recommender:
    """The same weights over a longer catalogue. The given model stays as it is.

    Args:
        model: A trained model.
        inputs: Name → input that it reads, each after those it is made of.
        longer: With the longer catalogue.
        held: What an input holds for it, given what those before it hold.
    """
    for name, one in inputs.items():
        if one.holds:
            longer = longer.holding(**{name: held(one, longer)})
    return model.with_items(_with_new_rows(longer))


def _with_new_rows(resources: Resources) -> Resources:
    """Resources whose new examples, too, bring the values of inputs that belong to a row itself.

    What these inputs were fitted on has no new row, so the values are those of a request.
    """
    bank = resources.get(EXAMPLES)
    short = {} if bank is None else {n: values for n, values in bank.rows.items() if len(values) < len(bank)}
    if not short:
        return resources
    inputs, rows = default_inputs(short), dict(bank.rows)
    for name, values in short.items():
        more = inputs[name].values(resources, bank.samples.take(slice(len(values), None)), REQUEST)
        rows[name] = np.concatenate([values, cast("Any", more)])
    return resources.holding(**{EXAMPLES: replace(bank, rows=rows)})


def refreshed(bundle: Bundle, database: Path, folders: Mapping[str, Path]) -> Refreshed:
    """A bundle's model with the users, items and events of an ingest that extends the one it was trained on.

    Args:
        bundle: A trained bundle. Where it keeps no histories, neither does the result.
        database: DuckDB file of the longer ingest.
        folders: Stage → folder, of the stages that the inputs' declarations `follow`, and of those by which they
            `grow`.

    Raises:
        StoreError: The ingest does not extend the one that the bundle was trained on.
    """
    resources = bundle.model.resources
    with connect_read(database) as connection:
        users, items = (connection.sql(f'SELECT * FROM "{e}" ORDER BY {e}_row').to_arrow_table() for e in ENTITIES)
        kept = connection.sql("SELECT * FROM history ORDER BY user_row").to_arrow_table()
    tables = {"user": users, "item": items}
    catalog = Catalog(*(encode_entities(tables[e], e, resources.spec, resources.vocab) for e in ENTITIES))
    before = {"user": resources.catalog.users, "item": resources.catalog.items}
    after = {"user": catalog.users, "item": catalog.items}
    for entity in ENTITIES:
        _check_extends(before[entity], after[entity], database)
    longer = replace(resources, catalog=catalog, histories=Histories.from_arrow(kept))
    new_items = items.slice(len(before["item"].ids))

    def held(one: Input, now: Resources) -> Any:
        return one.refreshed(resources.get(one.name), Made(database, folders, {}, now), new_items)

    model = grown(bundle.model, bundle.inputs, longer, held)
    if resources.histories is None:
        model = model.with_items(forgetful(model.resources))
    unknown = [found for e in ENTITIES for found in _unknown(bundle, e, before[e], after[e])]
    text_IT = model.resources.get("text") if "text" in bundle.inputs else None
    blank = 0 if text_IT is None else int((~text_IT[len(before["item"].ids) + 1 :].any(1)).sum())
    more = sum(sign * len(of.get(EXAMPLES) or ()) for sign, of in ((1, model.resources), (-1, resources)))
    return Refreshed(model, users.num_rows - len(before["user"].ids), new_items.num_rows, tuple(unknown), blank, more)


def _check_extends(before: EntityTable, after: EntityTable, database: Path) -> None:
    """Rows that a model was trained on must be the rows of the same users and items still."""
    if not after.ids.slice(0, len(before.ids)).equals(before.ids.cast(pa.string())):
        raise StoreError(
            f"its {before.entity}s are not those of the bundle followed by new ones",
            code="base-other", where=str(database), hint="llmcf run RECIPE",
        )  # fmt: skip


def _unknown(bundle: Bundle, entity: Entity, before: EntityTable, after: EntityTable) -> list[UnknownValues]:
    found = []
    for field in bundle.model.resources.spec.fields:
        if field.entity != entity or field.is_number or field.name == f"{entity}_id":
            continue
        new_R = after.columns[field.name][len(before.ids) + 1 :]
        rows = int(np.count_nonzero((new_R == UNKNOWN).any(tuple(range(1, new_R.ndim)))))
        if rows:
            found.append(UnknownValues(field.key, rows))
    return found
