"""The report as one HTML file: no script, no address, everything that comes from data escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined

from llmcf_cli.core.text import visible
from llmcf_cli.stages.look.made import Run
from llmcf_cli.stages.look.page.cases import KINDS
from llmcf_cli.stages.look.page.content import Page, gather
from llmcf_cli.stages.look.page.models import STAGES, gather_models
from llmcf_cli.store.artifacts import KEY_LENGTH, write_atomic
from llmcf_cli.tabular.times import shown_time

PATTERNS = 6
"""Series that look different: colours repeat after these."""


class Templated(Protocol):
    """What a template of this folder shows."""

    @property
    def template(self) -> str:
        """The template's file."""


def html(page: Templated) -> str:
    """The page."""
    found = page.comparison if isinstance(page, Page) else None
    return str(_template(page.template).render(page=page, found=found, kinds=KINDS, patterns=PATTERNS))


def write_page(run: Run, out: Path | None = None) -> Path:
    """Write the report of a run.

    Args:
        run: A finished run; one that ends in `eval-llm` or `balance`, too.
        out: The file; None: `ARTIFACTS/report/KEY.html`.

    Raises:
        StoreError: The run has no comparison yet, or something that it was made from is gone or damaged.
    """
    path = out or run.store.root / "report" / f"{run.key[:KEY_LENGTH]}.html"
    models = run.last is not None and run.last.manifest.stage in STAGES
    text = html(gather_models(run) if models else gather(run))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)
    return path


@cache
def _template(name: str) -> Any:
    environment = Environment(
        loader=PackageLoader("llmcf_cli.stages.look.page", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_seen,
    )  # fmt: skip
    environment.filters["when"] = lambda time, clock: shown_time(time) if clock == "global" else f"no. {time}"
    return environment.get_template(name)


def _seen(value: Any) -> Any:
    """Control characters of data are written out; what the template itself has made stays as it is."""
    return visible(value) if type(value) is str else value
