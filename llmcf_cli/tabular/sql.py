"""Small parts of SQL."""

from __future__ import annotations

from typing import Any


def name(identifier: str) -> str:
    """An SQL identifier, quoted."""
    return '"' + identifier.replace('"', '""') + '"'


def text(value: str) -> str:
    """An SQL string literal, quoted."""
    return "'" + value.replace("'", "''") + "'"


def scalar(con: Any, sql: str) -> Any:
    """The single value a query returns."""
    ((found,),) = con.execute(sql).fetchall()  # to its end: DuckDB refuses a relation beside an unfinished result
    return found


def columns_of(con: Any, relation: str) -> dict[str, str]:
    """Column → DuckDB type of a table, a view or a table function, in order."""
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}
