"""The card of a parcel: what it is, how to repeat it, what came of it, what it rests on and what it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.core.permissions import Host
from llmcf_cli.core.text import markdown as md
from llmcf_cli.llm.writing.travel import Exported
from llmcf_cli.rec.measure.compare import difference_rows, extent, rows, title_of
from llmcf_cli.recipe.load import LoadedRecipe
from llmcf_cli.recipe.references import addresses_of
from llmcf_cli.stages.share.lock import Lock

_SHOWN_VERSIONS = ("llmcf", "python", "torch", "transformers", "numpy", "duckdb")


@dataclass(frozen=True)
class Data:
    """Data that the recipe names.

    Attributes:
        name: As the recipe names it.
        digest: Of the content.
        size: Bytes.
        inside: Whether the parcel holds it.
    """

    name: str
    digest: str
    size: int
    inside: bool


@dataclass(frozen=True)
class Told:
    """What a card tells.

    Attributes:
        lock: The lock.
        lock_path: Where it lies in the parcel.
        parts: Path → part, of every file.
        data: The recipe's data.
        texts: What is in the file of texts.
        licence: Of the parcel, as whoever packed it says.
        comparison: The report of the comparison; None: the run had not ended.
        recipe: The recipe.
    """

    lock: Lock
    lock_path: str
    parts: Mapping[str, str]
    data: Sequence[Data]
    texts: Exported | None
    licence: str
    comparison: Mapping[str, Any] | None
    recipe: LoadedRecipe


def write_card(told: Told) -> str:
    """The card in Markdown. Whatever the recipe or the data say is escaped."""
    lock = told.lock
    lines = [f"# {md(lock.name)}", "", md(str(lock.resolved.get("description", ""))), "", "## Repeat it", ""]
    lines += _repeat(told)
    lines += ["", "## Results", "", *_results(told), "", "## What it depends on", "", *_rests_on(told)]
    lines += ["", "## What it fetches, sends and runs", "", *_does(told)]
    lines += ["", "## Licences", "", *_licences(told)]
    lines += ["", "`MANIFEST.json` lists every file with its SHA-256. Written by `llmcf recipe export`.", ""]
    return "\n".join(lines)


def _repeat(told: Told) -> Iterator[str]:
    lock = told.lock
    yield from ("```console", f"$ pip install llmcf=={md(lock.versions['llmcf'])}",
                "$ llmcf recipe import THIS copy      # shows what it writes, and asks",
                "$ cd copy", f"$ llmcf run --locked {told.lock_path}",
                f"$ llmcf recipe verify {told.lock_path}", "```", "")  # fmt: skip
    yield "`run --locked` refuses to start unless recipe, data, prompts, assets, plugins and versions match the"
    yield "lock. `recipe verify` says stage by stage whether the numbers are the same."
    yield ""
    if told.texts is None:
        yield "The language model's texts are not included: they are generated again."
    elif told.texts.left_out or told.texts.texts < told.texts.asked:
        yield f"{told.texts.texts:,} texts of the language model are included; the others are generated again."
    else:
        yield f"All {told.texts.texts:,} texts of the language model are included: no call is repeated."


def _results(told: Told) -> Iterator[str]:
    report, lock = told.comparison, told.lock
    if report is None:
        yield "None: the run had not finished when this was packed."
        return
    yield f"Test split of {extent(report)}, backbone {md(report['backbone'])}:"
    yield ""
    yield from _table(*rows(report))
    yield ""
    yield from (md(f"- {arm['arm']} = {arm['meaning']}") for arm in report["arms"])
    if report["differences"]:
        yield from ("", f"Differences of {md(title_of(report))}, with 95 % intervals over the {report['drawn']}:", "")
        yield from _table(*difference_rows(report, report["differences"]))
        yield ""
        yield from (f"- {md(note)}" for note in report["notes"])
    versions = ", ".join(f"{name} {lock.versions[name]}" for name in _SHOWN_VERSIONS if name in lock.versions)
    yield from ("", f"Packed on {md(lock.machine)}; made with {md(versions)}.")
    tolerances = {expected.tolerance for arm in lock.measures.values() for expected in arm.values()}
    yield f"Another run counts as a reproduction if every measure is within {max(tolerances, default=0):g} of these."


def _rests_on(told: Told) -> Iterator[str]:
    lock = told.lock
    titles = ["data", "SHA-256", "MB", "included"]
    cells = [
        [data.name, data.digest[:16], f"{data.size / 1e6:,.2f}", "yes" if data.inside else "no: provide it"]
        for data in told.data
    ]
    if cells:
        yield from _table(titles, cells)
    else:
        yield "No data files of its own."
    if lock.assets:
        yield ""
        yield from _table(["asset", "MB", "licence"], [
            [name, f"{asset.size / 1e6:,.1f}", asset.licence] for name, asset in lock.assets.items()
        ])  # fmt: skip


def _does(told: Told) -> Iterator[str]:
    sources = sorted({_host(source) for asset in told.lock.assets.values() for source in asset.sources.values()})
    yield f"- fetches assets from: {md(', '.join(sources))}" if sources else "- fetches nothing"
    servers = sorted({str(Host.of(address)) for address in addresses_of(told.recipe.root)})
    if servers:
        yield f"- sends prompts, made from the data, to: {md(', '.join(servers))}, once you allow it"
    else:
        yield "- sends nothing: language models run locally"
    plugins = [f"{name} ({origin})" for name, origin in told.lock.plugins.items()]
    yield f"- runs code of plugins, which you install yourself: {md(', '.join(plugins))}" if plugins else "- no plugins"


def _licences(told: Told) -> Iterator[str]:
    yield f"- this parcel: {md(told.licence) or 'not stated; ask whoever made it'}"
    yield from (f"- {md(name)}: {md(asset.licence)}" for name, asset in told.lock.assets.items())
    if any(not data.inside for data in told.data):
        yield "- data that are not included have their own licences"


def _host(source: str) -> str:
    address = source.rpartition(" sha256:")[0]
    scheme, _, rest = address.partition(":")
    if scheme in ("https", "http"):
        return str(Host.of(address))
    return {"pypi": "the package index", "hf": "the model hub", "file": "this parcel"}.get(scheme, rest)


def _table(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(map(md, row))} |" for row in (titles, ["---"] * len(titles), *cells)]
