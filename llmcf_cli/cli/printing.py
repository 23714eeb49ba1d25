"""What commands print for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(found: Sequence[Any]) -> None:
    """Rows as JSON: a list of objects; times and paths as text."""
    from pydantic_core import to_jsonable_python

    typer.echo(json.dumps(to_jsonable_python(list(found)), indent=1, ensure_ascii=False))
