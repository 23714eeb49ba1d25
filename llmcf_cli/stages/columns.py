"""Whether a data set has the columns that a recipe names, as far as the beginnings of its files show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.place import Place
from llmcf_cli.core.tree import Node, nearest, plain, text_origin
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.data.features import feature_problem
from llmcf_cli.data.preview import look
from llmcf_cli.data.raw import Entity, Locate
from llmcf_cli.data.shape import reshape
from llmcf_cli.recipe.features import DeriveSection, FilterSection
from llmcf_cli.recipe.template import template_problems


def column_problems(
    root: Node, config: ComponentConfig, derive: DeriveSection, kept: FilterSection, locate: Locate
) -> tuple[list[LlmcfError], list[LlmcfError]]:
    """What is wrong, and what a user may not expect.

    Args:
        root: The recipe as written.
        config: Its source, whose files are all here.
        derive: Its derived columns.
        kept: Its filters.
        locate: File or folder of a reference.
    """
    written = plain(root)["dataset"]
    text = written.get("text")
    texts: dict[str, Any] = text if isinstance(text, dict) else {}

    def of_expression(role: str, column: str | None) -> Place:
        return _place(root, "filter", role) if column is None else _place(root, "derive", role, column)

    seen = look(config, locate, lambda con, raw: reshape(con, raw, derive, kept, place=of_expression))
    for entity, columns in seen.columns.items():
        if seen.whole[entity]:
            seen.wrong += _text_problems(root, entity, texts.get(entity), columns)
            seen.wrong += _feature_problems(root, entity, written.get("features"), columns)
    return seen.wrong, seen.notes


def _text_problems(root: Node, entity: Entity, template: Any, columns: Sequence[str]) -> Iterator[LlmcfError]:
    """Unknown variables of a text; its form is the recipe's own matter."""
    if not isinstance(template, str):
        return
    origin = nearest(root, ("dataset", "text", entity)).origin
    for problem in template_problems(template, columns):
        if problem.name:
            where = text_origin(origin, template, problem.line).place("dataset", "text", entity)
            hint = "" if columns else f"the data set has no columns of {entity}s"
            yield LlmcfError(problem.what, code="text-template", where=where, allowed=problem.allowed, hint=hint)


def _feature_problems(root: Node, entity: Entity, features: Any, columns: Sequence[str]) -> Iterator[LlmcfError]:
    """Features that are no columns."""
    chosen = features.get(entity) if isinstance(features, dict) else None
    for column in chosen if isinstance(chosen, dict) else ():
        problem = feature_problem(str(column), columns, entity, _place(root, "features", entity, column))
        if problem is not None:
            yield problem


def _place(root: Node, *path: str) -> Place:
    """File, line and key path of a setting of the data set."""
    return nearest(root, ("dataset", *path)).origin.place("dataset", *path)
