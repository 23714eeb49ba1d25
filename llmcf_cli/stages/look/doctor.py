"""Whether this machine is fit to run recipes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.store.assets import open_assets

MINIMUM_FREE_GIB = 5.0
_GIB = 2**30
_REQUIRED = ("torch", "transformers", "accelerate", "lancedb", "duckdb", "pyarrow", "sentence-transformers")
_OPTIONAL = {"peft": "llm", "gguf": "llm", "matplotlib": "plot", "plotly": "plot"}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: What was checked.
        ok: Whether it is as it should be.
        found: What was found.
        hint: What to do about it; empty if nothing.
    """

    name: str
    ok: bool
    found: str
    hint: str = ""


def check(artifacts: Path) -> list[Finding]:
    """Python, libraries, devices, memory, disk, assets and plugins, in that order.

    Args:
        artifacts: The artifact folder, which need not exist yet.
    """
    return [*_python(), *_libraries(), *_devices(), *_space(artifacts), *_assets(), *_plugins()]


def _python() -> Iterator[Finding]:
    ok = sys.version_info >= (3, 11)
    yield Finding("python", ok, f"{platform.python_version()} on {platform.system()} {platform.machine()}",
                  "" if ok else "install Python 3.11 or newer")  # fmt: skip


def _libraries() -> Iterator[Finding]:
    for name in _REQUIRED:
        try:
            yield Finding(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "missing", "pip install llmcf")
    for name, extra in _OPTIONAL.items():
        try:
            yield Finding(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, True, "not installed", f"pip install 'llmcf[{extra}]' to use it")


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding("cpu", True, f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            yield Finding(f"cuda:{index}", True, f"{found.name}, {found.total_memory / _GIB:.0f} GiB")
    else:
        yield Finding("gpu", True, "none; everything runs on the CPU")


def _space(artifacts: Path) -> Iterator[Finding]:
    for name, path in (("artifacts", artifacts), ("asset cache", open_assets(library_dir()).cache)):
        place = path
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free / _GIB
        writable = os.access(place, os.W_OK)
        hint = "" if writable else f"{place} is not writable; use --artifacts DIR, or set LLMCF_CACHE"
        if free < MINIMUM_FREE_GIB:
            hint = f"free some space: a run of the quickstart needs about {MINIMUM_FREE_GIB:.0f} GiB"
        yield Finding(f"{name} folder", not hint, f"{path} ({free:.1f} GiB free)", hint)


def _assets() -> Iterator[Finding]:
    assets = open_assets(library_dir())
    for asset in assets.list():
        state = assets.status(asset.name)
        hints = {"damaged": f"llmcf assets fetch {asset.name}", "absent": "fetched when first used"}
        yield Finding(f"asset {asset.name}", state != "damaged", state, hints.get(state, ""))


def _plugins() -> Iterator[Finding]:
    from llmcf_cli.plugin import registry

    try:
        components = registry().all()
    except LlmcfError as error:
        yield Finding("plugins", False, error.what, error.hint or str(error.where))
        return
    origins = sorted({component.origin for component in components} - {"built-in"})
    yield Finding(
        "plugins", True, f"{len(components)} components" + (f"; from {', '.join(origins)}" if origins else "")
    )
