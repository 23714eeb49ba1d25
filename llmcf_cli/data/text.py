"""Texts of items and users: a Mustache template over their columns, or all columns joined by commas."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from llmcf_cli.core.errors import LlmcfError, RecipeError
from llmcf_cli.data.raw import Entity, columns_of, name
from llmcf_cli.recipe.template import template_problems

_BATCH_ROWS = 10_000
_HOLE = "\0"  # stands for an empty value until the separators around it are gone
_SEPARATORS = r"[\s,;:|/·–-]*"
_TIDY = (
    (re.compile(rf"\s*(?:\([\s{_HOLE}]*\)|\[[\s{_HOLE}]*\]|\"[\s{_HOLE}]*\"|'[\s{_HOLE}]*')"), _HOLE),
    (re.compile(rf"^(?:\s*{_HOLE}{_SEPARATORS})+"), ""),
    (re.compile(rf"{_SEPARATORS}{_HOLE}(?=[\s,.;:|/)\]{_HOLE}]|$)"), ""),
    (re.compile(_HOLE), ""),
)

Render = Callable[[Mapping[str, "str | Several"]], str]


class Several(list[str]):
    """The values of a multi-valued column: a list for `{{#column}}`, joined by ", " for `{{column}}`."""

    def __str__(self) -> str:
        return ", ".join(self)


def compile_template(template: str, columns: Sequence[str], where: str) -> Render:
    """A function from a row's values to its text.

    Args:
        template: Mustache with variables and sections; empty: all columns, joined by ", ".
        columns: The variables it may use.
        where: Its place in the recipe, for errors.

    Returns:
        A function that takes the value of every column ("" or an empty list where there is none). Nothing is escaped,
        and an empty value takes the brackets around it or the separator before it along.

    Raises:
        RecipeError: A variable is no column, or the template is malformed or uses partials or other delimiters.
    """
    if not template:
        return lambda row: ", ".join(str(value).strip() for value in row.values() if value)
    problems = template_problems(template, columns)
    if problems:
        raise RecipeError([LlmcfError(p.what, code="text-template", where=where, allowed=p.allowed) for p in problems])
    import pystache

    parsed = pystache.parse(template)
    renderer = pystache.Renderer(escape=lambda value: value or _HOLE, partials={}, missing_tags="strict")
    return lambda row: _tidy(renderer.render(parsed, row))


def _tidy(text: str) -> str:
    """Take out empty values together with the separators and brackets that were meant for them."""
    if _HOLE in text:
        for pattern, replacement in _TIDY:
            text = pattern.sub(replacement, text)
    return text.strip()


def render_texts(con: Any, entity: Entity, template: str, numeric: Collection[str] = ()) -> None:
    """Create `item_text(item_row, text)` or `user_text(user_row, text)` for every numbered item or user.

    Rows are streamed, so memory is bounded by the batch.

    Args:
        con: DuckDB connection.
        entity: Which of the two.
        template: Mustache; empty: all columns, joined by ", ".
        numeric: Columns that are no part of the text of an empty template.

    Raises:
        RecipeError: See `compile_template`.
    """
    key = f"{entity}_id"
    kinds = {c: kind for c, kind in columns_of(con, f"{entity}_feature").items() if c != key}
    if not template:
        kinds = {c: kind for c, kind in kinds.items() if c not in numeric}
    render = compile_template(template, list(kinds), f"dataset.text.{entity}")
    con.execute(f"CREATE OR REPLACE TABLE {entity}_text ({entity}_row INTEGER, text VARCHAR)")
    reader = con.cursor()
    selected = ", ".join([f"{entity}_row", *map(name, kinds)])
    rows = reader.execute(f"SELECT {selected} FROM {entity}_number LEFT JOIN {entity}_feature USING ({key})")
    while batch := rows.fetchmany(_BATCH_ROWS):
        texts = [render(dict(zip(kinds, map(_value, row[1:]), strict=True))) for row in batch]
        con.register("text_batch", pa.table({"row": [row[0] for row in batch], "text": pa.array(texts, pa.string())}))
        con.execute(f"INSERT INTO {entity}_text SELECT row, text FROM text_batch")
        con.unregister("text_batch")
    reader.close()


def _value(cell: str | list[str] | None) -> str | Several:
    return Several(cell) if isinstance(cell, list) else cell or ""
