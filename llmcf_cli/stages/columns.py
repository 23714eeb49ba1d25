"""Whether a data set has the columns that a recipe names, as far as the beginnings of its files show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from llmcf_cli.core.errors import LlmcfError, RecipeError
from llmcf_cli.core.place import Place
from llmcf_cli.core.tree import Node, nearest, text_origin
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.data.entities import RESERVED
from llmcf_cli.data.features import feature_problem, kind_problem
from llmcf_cli.data.preview import look
from llmcf_cli.data.raw import Entity, Locate, RawData, Role
from llmcf_cli.data.shape import reshape
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.recipe.features import DeriveSection, Feature, FilterSection
from llmcf_cli.recipe.template import template_problems


def column_problems(
    root: Node, written: Mapping[str, Any], config: ComponentConfig, times: bool, locate: Locate
) -> tuple[list[LlmcfError], list[LlmcfError]]:
    """What is wrong, and what a user may not expect.

    Args:
        root: The recipe as written.
        written: Its section of the data set, right or wrong.
        config: Its source, whose files are all here.
        times: Whether the source's settings of times are as written; wrong ones were left out.
        locate: File or folder of a reference.
    """
    text = written.get("text")
    texts: dict[str, Any] = text if isinstance(text, dict) else {}
    shape, derived = _shaping(root, written)
    limit = written.get("max_bad_rows")
    seen = look(
        config, locate, shape, derived=derived, times=times,
        max_bad_rows=limit if isinstance(limit, int | float) else DatasetSection.model_fields["max_bad_rows"].default,
    )  # fmt: skip
    for entity, columns in seen.columns.items():
        if seen.whole[entity]:
            seen.wrong += _text_problems(root, entity, texts.get(entity), columns)
            seen.wrong += _feature_problems(root, entity, written.get("features"), columns)
    return seen.wrong, seen.notes


def _shaping(
    root: Node, written: Mapping[str, Any]
) -> tuple[Callable[[Any, RawData], RawData], dict[Role, tuple[str, ...]]]:  # fmt: skip
    """What derives and filters as the recipe says, and the columns that it derives."""
    given = written.get("derive")
    named: dict[str, Any] = given if isinstance(given, dict) else {}
    derived: dict[Role, tuple[str, ...]] = {
        role: tuple(map(str, named[role])) for role in get_args(Role) if isinstance(named.get(role), dict)
    }
    try:
        derive = DeriveSection.model_validate(named)
        kept = FilterSection.model_validate(written.get("filter") or {})
    except ValidationError:  # of which the recipe's own check tells

        def nothing(con: Any, raw: RawData) -> RawData:
            raise RecipeError(())

        return nothing, derived

    def of_expression(role: str, column: str | None) -> Place:
        return _place(root, "filter", role) if column is None else _place(root, "derive", role, column)

    return lambda con, raw: reshape(con, raw, derive, kept, place=of_expression), derived


def _text_problems(root: Node, entity: Entity, template: Any, columns: Mapping[str, str]) -> Iterator[LlmcfError]:
    """Unknown variables of a text; its form is the recipe's own matter."""
    if not isinstance(template, str):
        return
    origin = nearest(root, ("dataset", "text", entity)).origin
    for problem in template_problems(template, list(columns)):
        if problem.name:
            where = text_origin(origin, template, problem.line).place("dataset", "text", entity)
            hint = "" if columns else f"the data set has no {entity} columns"
            yield LlmcfError(problem.what, code="text-template", where=where, allowed=problem.allowed, hint=hint)


def _feature_problems(
    root: Node, entity: Entity, features: Any, columns: Mapping[str, str]
) -> Iterator[LlmcfError]:  # fmt: skip
    """Features that are no columns, or not of their kind; their form is the recipe's own matter."""
    chosen = features.get(entity) if isinstance(features, dict) else None
    for column, feature in chosen.items() if isinstance(chosen, dict) else ():
        if feature is None:  # takes away what an extended recipe declares
            continue
        where, name = _place(root, "features", entity, column), str(column)
        name = f"{name}_" if name.lower() in RESERVED[entity] and f"{name}_" in columns else name
        try:
            meant = TypeAdapter(Feature).validate_python(feature)
        except ValidationError:
            problem = feature_problem(name, list(columns), entity, where)
        else:
            problem = kind_problem(entity, name, meant, columns, where)
        if problem is not None:
            yield problem


def _place(root: Node, *path: str) -> Place:
    """File, line and key path of a setting of the data set."""
    return nearest(root, ("dataset", *path)).origin.place("dataset", *path)
