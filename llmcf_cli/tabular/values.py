"""Texts, ids and numbers out of values of any type: SQL that is exact or NULL, and SQL that says what is to be counted.

White space of every kind around a value is no part of it; what is left of a blank one is NULL. So is NaN, be it a
number or written out. Readers of different formats agree: a whole number in a column of floats (`12.0`) is that number
(`12`).
"""

from __future__ import annotations

from llmcf_cli.tabular.sql import text

WHITE = "".join(map(chr, [*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
                          0x202F, 0x205F, 0x3000, 0xFEFF]))  # fmt: skip
"""White space: what `str.strip` takes off, and the byte order mark."""
EXACT_FLOAT = {"DOUBLE": 1 << 53, "FLOAT": 1 << 24}
"""From here on not every whole number is a float of that type, so a float need not be the number that was meant."""
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
"""How a number is written."""
_WHOLE_FLOAT = r"[+-]?\d+\.0*"
MISSING = ("nan", "NaN")
"""Texts that are NaN written out."""
_FLOATS = tuple(EXACT_FLOAT)
_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
          "UHUGEINT", "BIGNUM")  # fmt: skip


def is_list(kind: str) -> bool:
    """Whether a DuckDB type is one of lists, of any or of one length."""
    return kind.endswith("]")


def is_structure(kind: str) -> bool:
    """Whether a DuckDB type holds objects, or lists of them."""
    return kind.startswith(("STRUCT", "MAP", "UNION", "VARIANT"))


def is_float(kind: str) -> bool:
    """Whether a DuckDB type is one of binary fractions."""
    return kind in _FLOATS


def is_number(kind: str) -> bool:
    """Whether a DuckDB type is one of numbers."""
    return kind in (*_FLOATS, *_WHOLE) or kind.startswith("DECIMAL")


def is_whole(kind: str) -> bool:
    """Whether a DuckDB type is one of whole numbers."""
    return kind in _WHOLE


def is_text(kind: str) -> bool:
    """Whether a DuckDB type is one of texts: bytes are, as some writers of Parquet mark texts so."""
    return kind in ("VARCHAR", "BLOB", "JSON") or kind.startswith("ENUM")


def as_varchar(sql: str, kind: str) -> str:
    """A value of a type of texts as VARCHAR; bytes that are not UTF-8 give NULL."""
    if kind == "VARCHAR":
        return sql
    return f"TRY(decode({sql}))" if kind == "BLOB" else f"CAST({sql} AS VARCHAR)"


def stripped(sql: str, kind: str) -> str:
    """A value as text without white space around it, NULL where nothing is left; NaN and infinity as text."""
    if is_list(kind) or is_structure(kind):
        return f"CAST(to_json({sql}) AS VARCHAR)"
    if is_text(kind):
        return f"nullif(trim({as_varchar(sql, kind)}, {text(WHITE)}), '')"
    return f"CAST({sql} AS VARCHAR)"


def present(sql: str, kind: str) -> str:
    """The value as text where there is one: neither NULL, blank nor NaN."""
    shown = stripped(sql, kind)
    if kind in _FLOATS:  # as text: over a Parquet file whose statistics leave NaN out, isnan() is false for NaN
        return f"nullif({shown}, 'nan')"
    if not is_text(kind):
        return shown
    return f"CASE WHEN {shown} NOT IN ({', '.join(map(text, MISSING))}) THEN {shown} END"


def as_id(sql: str, kind: str) -> str:
    """A value as an id: text, in which a whole float is the whole number.

    NULL for what is missing, for lists and structures, and for floats that are not finite, or so large that they may
    not be the number that was meant.
    """
    if is_list(kind) or is_structure(kind):
        return "CAST(NULL AS VARCHAR)"
    if kind in _FLOATS:
        whole = f"{sql} = trunc({sql})"
        return (
            f"CASE WHEN NOT isfinite({sql}) OR abs({sql}) >= {EXACT_FLOAT[kind]} THEN NULL "
            f"WHEN {whole} THEN CAST(CAST({sql} AS BIGINT) AS VARCHAR) ELSE CAST({sql} AS VARCHAR) END"
        )
    if kind.startswith("DECIMAL"):
        whole = f"CAST({sql} AS DECIMAL(38,0))"
        return f"CASE WHEN {sql} = trunc({sql}) THEN CAST({whole} AS VARCHAR) ELSE CAST({sql} AS VARCHAR) END"
    found = present(sql, kind)
    return whole_text(found) if is_text(kind) else found


def was_whole_float(sql: str, kind: str) -> str:
    """Whether an id is a whole number that stands there as a float (`12.0`); never NULL."""
    if kind in _FLOATS:
        return f"coalesce(isfinite({sql}) AND {sql} = trunc({sql}) AND abs({sql}) < {EXACT_FLOAT[kind]}, false)"
    if is_text(kind):
        found = stripped(sql, kind)
        return f"coalesce(contains({found}, '.') AND regexp_full_match({found}, {text(_WHOLE_FLOAT)}), false)"
    return "false"


def as_number(sql: str, kind: str) -> str:
    """A value as DOUBLE: the nearest to what stands there, NULL where that is missing, no number or not finite."""
    if is_list(kind) or is_structure(kind) or not (is_number(kind) or is_text(kind) or kind == "BOOLEAN"):
        return "CAST(NULL AS DOUBLE)"
    if is_text(kind):
        written = stripped(sql, kind)
        number = f"CASE WHEN regexp_full_match({written}, {text(NUMBER)}) THEN try_cast({written} AS DOUBLE) END"
    else:
        number = f"CAST({sql} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def is_number_text(sql: str) -> str:
    """Whether a text is written like a number; NULL where it is missing."""
    return f"regexp_full_match({present(sql, 'VARCHAR')}, {text(NUMBER)})"


def as_text(sql: str, kind: str, *, numeric: bool = False) -> str:
    """A value as text: numbers as `as_id` has them, structures as JSON.

    Args:
        sql: The value.
        kind: Its DuckDB type.
        numeric: Of a type of texts: whether the whole column is numbers, so that `1995.0` is one.
    """
    if kind in _FLOATS or kind.startswith("DECIMAL"):
        shown = whole_text(f"CAST({sql} AS VARCHAR)")
        large = f"CASE WHEN isfinite({sql}) THEN {shown} END" if kind in _FLOATS else "NULL"
        return f"coalesce({as_id(sql, kind)}, {large})"
    found = present(sql, kind)
    return whole_text(found) if numeric and is_text(kind) else found


def whole_text(sql: str) -> str:
    """`12.0` → `12`, `-0.0` → `0`; any other text as it is."""
    whole = rf"regexp_replace({sql}, '\.0*$', '')"
    plain = f"regexp_replace({whole}, '^(\\+|-(0+)$)', '\\2')"
    # The pattern is only asked about texts that end in a point and zeros: most do not, and it is slow.
    found = f"CASE WHEN regexp_full_match({sql}, {text(_WHOLE_FLOAT)}) THEN {plain} ELSE {sql} END"
    return f"CASE WHEN contains({sql}, '.') AND ends_with(rtrim({sql}, '0'), '.') THEN {found} ELSE {sql} END"
