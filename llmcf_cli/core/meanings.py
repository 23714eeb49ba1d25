"""What the fields of a configuration class mean: the docstrings under them.

They are read from the source when a page, a schema or an error shows them, as reading them takes longer than all else
that a class costs.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache

from pydantic import BaseModel


@cache
def meanings(model: type[BaseModel]) -> Mapping[str, str]:
    """Field → its description, or the docstring under it; inherited ones as well. Fields without either are left out.

    A class whose source is not there has none.
    """
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _written(base)
    described = {name: info.description for name, info in model.model_fields.items() if info.description}
    return {name: text for name, text in {**found, **described}.items() if name in model.model_fields}


def meaning(model: type[BaseModel] | None, name: str) -> str:
    """What a field means, on one line; empty where that is not known."""
    return " ".join(meanings(model).get(name, "").split()) if model is not None else ""


@cache
def _written(model: type[BaseModel]) -> Mapping[str, str]:
    """The docstrings in the class's own body."""
    try:
        source = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    found, name = {}, ""
    for line in source.body if isinstance(source, ast.ClassDef) else ():
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str):
            if name:
                found[name] = inspect.cleandoc(line.value.value)
            name = ""
        else:
            target = line.target if isinstance(line, ast.AnnAssign) else None
            name = target.id if isinstance(target, ast.Name) else ""
    return found
