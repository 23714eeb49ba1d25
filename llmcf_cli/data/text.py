"""Texts of items and users: a Mustache template over their columns, or all columns joined by commas."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from llmcf_cli.core.errors import LlmcfError, UnknownNameError
from llmcf_cli.data.raw import Entity, columns_of, name

_BATCH_ROWS = 10_000
_TAG = re.compile(r"\{\{\{?\s*([#^/&!>=]?)\s*([^{}]*?)\s*\}\}")
_HOLE = "\0"  # stands for an empty value until the separators around it are gone
_SEPARATORS = r"[\s,;:|/·–-]*"
_TIDY = (
    (re.compile(rf"\s*(?:\([\s{_HOLE}]*\)|\[[\s{_HOLE}]*\]|\"[\s{_HOLE}]*\"|'[\s{_HOLE}]*')"), _HOLE),
    (re.compile(rf"^(?:\s*{_HOLE}{_SEPARATORS})+"), ""),
    (re.compile(rf"{_SEPARATORS}{_HOLE}(?=[\s,.;:|/)\]{_HOLE}]|$)"), ""),
    (re.compile(_HOLE), ""),
)

Render = Callable[[Mapping[str, str]], str]


def compile_template(template: str, columns: Sequence[str], where: str) -> Render:
    """A function from a row's texts to its text.

    Args:
        template: Mustache with variables and sections; empty: all columns, joined by ", ".
        columns: The variables it may use.
        where: Its place in the recipe, for errors.

    Raises:
        UnknownNameError: A variable is no column.
        LlmcfError: The template is malformed or uses partials or other delimiters, which recipes do not have.
    """
    if not template:
        return lambda row: ", ".join(value.strip() for value in row.values() if value)
    import pystache
    from pystache.parser import ParsingError

    for sigil, variable in _TAG.findall(template):
        if sigil in (">", "="):
            raise LlmcfError(
                f"the tag {{{{{sigil}{variable}}}}} is not supported", where=where,
                allowed=("{{column}}", "{{#column}}…{{/column}}", "{{^column}}…{{/column}}"),
            )  # fmt: skip
        if sigil != "!" and variable not in columns:
            raise UnknownNameError("column", variable, columns, where=where)
    try:
        parsed = pystache.parse(template)
    except ParsingError as error:
        raise LlmcfError(f"malformed template: {error}", where=where) from error
    renderer = pystache.Renderer(escape=lambda value: value or _HOLE, partials={}, missing_tags="strict")
    return lambda row: _tidy(renderer.render(parsed, row))


def _tidy(text: str) -> str:
    """Take out empty values together with the separators and brackets that were meant for them."""
    if _HOLE in text:
        for pattern, replacement in _TIDY:
            text = pattern.sub(replacement, text)
    return text.strip()


def render_texts(con: Any, entity: Entity, template: str) -> int:
    """Create `item_text(item_row, text)` or `user_text(user_row, text)` for every numbered item or user.

    Rows are streamed, so memory is bounded by the batch. Several values of a column are joined by ", "; nothing is
    escaped or unescaped.

    Returns:
        Rows with an empty text.

    Raises:
        LlmcfError: See `compile_template`.
    """
    key = f"{entity}_id"
    kinds = {c: kind for c, kind in columns_of(con, f"{entity}_feature").items() if c != key}
    render = compile_template(template, list(kinds), f"dataset.text.{entity}")
    values = [
        f"coalesce({f'array_to_string({name(c)}, {_JOINER})' if kind.endswith('[]') else name(c)}, '') AS {name(c)}"
        for c, kind in kinds.items()
    ]
    con.execute(f"CREATE OR REPLACE TABLE {entity}_text ({entity}_row INTEGER, text VARCHAR)")
    reader = con.cursor()
    rows = reader.execute(
        f"SELECT {', '.join([f'{entity}_row', *values])} FROM {entity}_number LEFT JOIN {entity}_feature USING ({key})"
    )
    empty = 0
    while batch := rows.fetchmany(_BATCH_ROWS):
        texts = [render(dict(zip(kinds, row[1:], strict=True))) for row in batch]
        empty += texts.count("")
        con.register(
            "text_batch", pa.table({"row": [row[0] for row in batch], "text": pa.array(texts, pa.string())})
        )
        con.execute(f"INSERT INTO {entity}_text SELECT row, text FROM text_batch")
        con.unregister("text_batch")
    reader.close()
    return empty


_JOINER = "', '"
