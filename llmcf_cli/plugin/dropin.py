"""Drop-in plugins: what lies in a folder that `LLMCF_PLUGINS` names, as modules.

A plugin is a file `NAME.py` or a package folder `NAME/` with a function `register(registry)`. What defines none is a
helper of the plugins beside it, which import it as `from . import helper`. Each folder is a package of its own, so that
plugins of two folders may share a name.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from llmcf_cli.core.errors import LlmcfError


@dataclass(frozen=True)
class DropIn:
    """A plugin that lies in a folder.

    Attributes:
        path: Its file, or the folder of its package.
        origin: Its name with a digest of all Python files of the folder: a helper may change what it does.
        module: Its module, imported.
    """

    path: Path
    origin: str
    module: ModuleType


def drop_ins(folder: Path) -> Iterator[DropIn]:
    """Import the plugins of a folder, in the order of their names.

    Raises:
        LlmcfError: There is no such folder, no plugin in it, or one fails to load.
    """
    if not folder.is_dir():
        raise LlmcfError("no such plugin folder", code="plugin-folder", where=str(folder), hint="correct LLMCF_PLUGINS")
    found = [path for path in _modules(folder) if _registers(path)]
    if not found:
        raise LlmcfError(
            "contains no plugin: no file or package there has a function register(registry)",
            code="plugin-folder", where=str(folder),
            hint="define it at the top level of NAME.py or NAME/__init__.py",
        )  # fmt: skip
    package, digest = _package(folder), _digest(folder)
    for path in found:
        try:
            module = importlib.import_module(f"{package}.{path.stem}")
        except Exception as error:
            raise LlmcfError(f"plugin failed to load: {error!r}", code="plugin-failed", where=str(path)) from error
        yield DropIn(path, f"{path.name} {digest[:12]}", module)


def _modules(folder: Path) -> list[Path]:
    packages = (path.parent for path in folder.glob("*/__init__.py"))
    return sorted(path for path in [*folder.glob("*.py"), *packages] if path.stem.isidentifier())


def _registers(path: Path) -> bool:
    """Whether a module names `register` at its top level; one that cannot be parsed counts, so that it is told."""
    file = path / "__init__.py" if path.is_dir() else path
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        return True
    names = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    names |= {alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {
        target.id for node in body if isinstance(node, ast.Assign) for target in node.targets
        if isinstance(target, ast.Name)
    }  # fmt: skip
    return "register" in names


def _package(folder: Path) -> str:
    """The name of the package that stands for a folder, made when first asked for."""
    name = f"llmcf_dropin_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = ModuleType(name, f"Drop-in plugins of {folder}.")
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    importlib.invalidate_caches()
    return name


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all Python files."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return found.hexdigest()
