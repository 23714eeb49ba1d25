"""Lists: columns of lists, texts that a separator splits, and texts in which a list is written as in JSON or Python."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from llmcf_cli.tabular.sql import name, text
from llmcf_cli.tabular.values import (
    MISSING,
    WHITE,
    as_id,
    as_varchar,
    is_list,
    is_structure,
    is_text,
    present,
    stripped,
    whole_text,
)  # fmt: skip

NESTED = " > "
"""Between the parts of a list within a list, e.g. a path of categories."""
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<mark>[\[\],])|(?P<bare>[^\s,\[\]{}"'()]+))\s*""",
    re.DOTALL,
)
_NOTHING = ("None", "null", "NULL", "nan", "NaN", "NA", "<NA>")
_BATCH = 10_000


def parse_list(written: str) -> list[str] | None:
    """The parts of a list that is written as JSON or Python write it, or `[a, b]`; None where it is none.

    Lists within it are joined by `NESTED`; parts that are null are left out. Objects, and parts that no comma parts (as
    numpy prints arrays), are no such notation.
    """
    tokens = []
    place = 0
    while place < len(written):
        match = _TOKEN.match(written, place)
        if match is None:
            return None
        tokens.append((match.lastgroup or "", match.group(match.lastgroup or 0)))
        place = match.end()
    try:
        parts, end = _parts(tokens, 0)
    except (IndexError, ValueError, SyntaxError):
        return None
    return parts if end == len(tokens) else None


def _parts(tokens: list[tuple[str, str]], place: int) -> tuple[list[str], int]:
    """The parts of the list that opens at a token, and the token after it."""
    if tokens[place] != ("mark", "["):
        raise ValueError("a list must start with a bracket")
    place += 1
    parts: list[str] = []
    while tokens[place] != ("mark", "]"):
        kind, token = tokens[place]
        if kind == "mark":
            inner, place = _parts(tokens, place)
            parts.append(NESTED.join(inner))
        else:
            place += 1
            if kind == "string":
                parts.append(_string(token))
            elif token not in _NOTHING:
                parts.append(token)
        if tokens[place] == ("mark", ","):
            place += 1
        elif tokens[place] != ("mark", "]"):
            raise ValueError("separate values by commas")
    return parts, place + 1


def _string(token: str) -> str:
    """What a quoted string says, in JSON's notation or else in Python's."""
    if token[0] == '"':
        try:
            found = json.loads(token, strict=False)
            found.encode()
            return str(found)
        except ValueError:
            pass
    value = ast.literal_eval(token.replace("\n", "\\n").replace("\r", "\\r"))
    value.encode()
    return str(value)


def parse_lists(con: Any, relation: str, column: str, into: str) -> None:
    """Create the table `into(written, parts)`: the different texts in brackets of a column, and the lists they are.

    `parts` is NULL where a text is no list. Texts are parsed in batches, so memory is bounded.
    """
    written = stripped(name(column), "VARCHAR")
    con.execute(
        f"CREATE OR REPLACE TABLE {name(into + '_written')} AS SELECT row_number() OVER () AS number, written FROM "
        f"(SELECT DISTINCT {written} AS written FROM {relation} WHERE {_in_brackets(written)})"
    )
    con.execute(f"CREATE OR REPLACE TABLE {name(into)} (written VARCHAR PRIMARY KEY, parts VARCHAR[])")
    start = 0
    while batch := con.execute(
        f"SELECT written FROM {name(into + '_written')} WHERE number > {start} AND number <= {start + _BATCH}"
    ).fetchall():
        import pyarrow as pa  # takes long, and few data sets have such texts

        parts = pa.array([parse_list(value) for (value,) in batch], pa.list_(pa.string()))
        con.register("list_batch", pa.table({"written": [value for (value,) in batch], "parts": parts}))
        con.execute(f"INSERT INTO {name(into)} SELECT written, parts FROM list_batch")
        con.unregister("list_batch")
        start += _BATCH
    con.execute(f"DROP TABLE {name(into + '_written')}")


def as_list(sql: str, kind: str, separator: str | None, parsed: str | None = None) -> str:
    """A value as a list of ids (VARCHAR[]), each as `as_id` has it; blanks and NaN are left out of it.

    What is missing is the empty list; NULL stands for what is there and no list.

    Args:
        sql: The value.
        kind: Its DuckDB type.
        separator: Between the parts of a text that is not in brackets; None: such a text is no list.
        parsed: Table of `parse_lists` for a column of texts; None: it has no texts in brackets.
    """
    if is_list(kind):
        return _ids(sql, _element(kind))
    if not is_text(kind):
        return f"CASE WHEN {sql} IS NULL THEN CAST([] AS VARCHAR[]) END"
    written = stripped(sql, kind)
    split = f"string_split({written}, {text(separator)})" if separator is not None else "CAST(NULL AS VARCHAR[])"
    if parsed is None:
        found = _ids(split, "VARCHAR") if separator is not None else split
    else:
        looked_up = f"(SELECT parts FROM {name(parsed)} AS p WHERE p.written = {written})"
        parts = f"CASE WHEN {_in_brackets(written)} THEN {looked_up} ELSE {split} END"
        found = f"CASE WHEN {parts} IS NOT NULL THEN {_ids(parts, 'VARCHAR')} END"
    return f"CASE WHEN {present(sql, kind)} IS NULL THEN CAST([] AS VARCHAR[]) ELSE {found} END"


def _in_brackets(written: str) -> str:
    return f"({written} LIKE '[%' AND {written} LIKE '%]')"


def _element(kind: str) -> str:
    return kind[: kind.rindex("[")]


def _ids(sql: str, kind: str) -> str:
    """A list, of elements of a DuckDB type, as a list of ids; NULL if they are structures."""
    if is_structure(kind):
        return f"CASE WHEN {sql} IS NULL OR len({sql}) = 0 THEN CAST([] AS VARCHAR[]) END"
    if is_list(kind):
        inner = f"list_transform({sql}, lambda v: array_to_string({_ids('v', _element(kind))}, {text(NESTED)}))"
        return _ids(inner, "VARCHAR")
    if not is_text(kind):
        made = f"list_transform(coalesce({sql}, []), lambda v: {as_id('v', kind)})"
    else:  # one step after the other: a lambda computes what it names twice, twice
        made = f"list_transform(coalesce({sql}, []), lambda v: trim({as_varchar('v', kind)}, {text(WHITE)}))"
        missing = ", ".join(map(text, ("", *MISSING)))
        made = f"list_transform(list_filter({made}, lambda v: v NOT IN ({missing})), lambda v: {whole_text('v')})"
    return f"list_filter({made}, lambda v: v IS NOT NULL)"
