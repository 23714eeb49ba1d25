"""`llmcf audit`: a run's stored matches checked again, and what random examples would do to its predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.cli.completing import recipe_names
from llmcf_cli.cli.groups import remember
from llmcf_cli.cli.opening import AllowReadOption, find_run
from llmcf_cli.cli.stages import ArtifactsOption, SetOption

if TYPE_CHECKING:
    from llmcf_cli.data.report import NegativesAudit
    from llmcf_cli.stages.look.audit import ChanceEffect, MatchAudit
    from llmcf_cli.stages.look.made import Run

BAR = 40
"""Width of the longest bar of a histogram."""


def audit(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A recipe, or the folder of one of its artifacts.",
            callback=remember,
            autocompletion=recipe_names,
        ),
    ],
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder for audit.json and plots.", show_default="ARTIFACTS/audit/KEY"
        ),
    ] = None,
    chance: Annotated[
        bool,
        typer.Option("--chance/--no-chance", help="Also measure how far the test result moves with random examples."),
    ] = True,
    allow_read: AllowReadOption = None,
) -> None:
    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.cli.ingest_findings import negatives_line
    from llmcf_cli.core.errors import StoreError
    from llmcf_cli.stages.look.audit import audit_run, chance_effects, negatives_audits
    from llmcf_cli.store.artifacts import KEY_LENGTH

    found = find_run(run, set_, artifacts, allow_read)
    audits = []
    for checked in audit_run(found):
        _show(checked)
        audits.append(checked)
    negatives = [report for _, report in negatives_audits(found)]
    if not audits and not negatives:
        raise StoreError(
            "nothing to audit: no arm reads examples, and no negatives are drawn",
            code="audit-nothing",
            where=run,
        )
    for report in negatives:
        console().print(negatives_line(report), style="bold red" if report.violations else "", markup=False)
    effects = list(chance_effects(found, make_progress())) if chance else []
    _show_effects(effects, found)
    folder = out or found.store.root / "audit" / found.key[:KEY_LENGTH]
    _save(audits, negatives, effects, folder)
    if found.missing:
        console().print(f"not made yet, so not audited: {', '.join(found.missing)}", style="yellow", markup=False)
    broken = sum(v.count for checked in audits for v in checked.broken) + sum(n.violations for n in negatives)
    made = "artifact" if len(audits) == 1 else "artifacts"
    verdict = f"{broken:,} violations" if broken else f"no violations in {len(audits)} match {made} and the negatives"
    console().print(
        f"{verdict}; details: {folder}", style="bold red" if broken else "green", markup=False, soft_wrap=True
    )
    if broken:
        raise typer.Exit(1)


def _show(checked: MatchAudit) -> None:
    from rich.table import Table

    from llmcf_cli.cli.console import console
    from llmcf_cli.store.artifacts import KEY_LENGTH

    report = checked.report
    console().print(f"match {checked.made.manifest.key[:KEY_LENGTH]}: {_title(checked)}", style="bold", markup=False)
    if checked.on_purpose:
        console().print("match.exclude: reference — LEAKS ON PURPOSE, for measurement", style="yellow", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (("violation", "left"), ("count", "right"), ("what it is", "left"), ("e.g.", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for violation in report.violations:
        style = "red" if violation in checked.broken else "yellow" if violation.count else None
        first = " ".join("" if part is None else str(part) for part in violation.rows[0]) if violation.rows else ""
        table.add_row(violation.kind, f"{violation.count:,}", violation.meaning, first, style=style)
    console().print(table)
    console().print(
        f"{report.samples:,} samples × {report.k}; {report.positive_share or 0:.1%} of the examples positive, "
        f"{report.padding_share:.1%} of the places empty; {report.examples_used:,} of {checked.examples:,} examples "
        f"used, the most frequent one {report.most_used:,} times"
    )
    for split, share in report.coverage.items():
        console().print(
            f"{split}: {share['all']:.1%} of the samples have all {report.k} examples, {share['some']:.1%} fewer, "
            f"{share['none']:.1%} none"
        )
    _show_histogram(checked)


def _show_histogram(checked: MatchAudit) -> None:
    from llmcf_cli.cli.console import console

    bins = checked.report.histogram
    if checked.by_chance:
        console().print("random examples: their scores mean nothing", style="dim")
    elif bins:
        console().print("similarity of samples and examples")
        most = max(count for _, _, count in bins)
        for low, high, count in bins:
            bar = "█" * max(round(BAR * count / most), int(count > 0))
            console().print(f"{low:7.3f} to {high:6.3f} {bar:<{BAR}} {count:>12,}", markup=False)
    console().print()


def _show_effects(effects: Sequence[ChanceEffect], run: Run) -> None:
    from rich.table import Table

    from llmcf_cli.cli.console import console
    from llmcf_cli.rec.measure.compare import p_text

    if not effects:
        why = "no predictions to compare" if not run.predicted else "no arm has matched examples"
        console().print(f"random examples: {why}", style="dim")
        return
    measure, test = effects[0].measure, effects[0].test  # arms of a comparison have one task
    table = Table(
        box=None, pad_edge=False, header_style="bold", title=f"Test {measure} with random examples",
        title_justify="left",
    )  # fmt: skip
    for column in ("arm", "how", measure, "random", "difference", "95 % interval", f"p ({test})"):
        table.add_column(column, justify="left" if column in ("arm", "how") else "right")
    for effect in effects:
        low, high = effect.difference.interval
        table.add_row(
            f"{effect.arm} seed {effect.seed}", effect.how, f"{effect.value:.4f}", f"{effect.random_value:.4f}",
            f"{effect.difference.difference:+.4f}", f"[{low:+.4f}, {high:+.4f}]",
            p_text(effect.difference.p_value),
        )  # fmt: skip
    console().print(table)


def _save(
    audits: Sequence[MatchAudit], negatives: Sequence[NegativesAudit], effects: Sequence[ChanceEffect], folder: Path
) -> None:
    from llmcf_cli.match.plots import plot_similarity

    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "matches": [checked.as_dict() for checked in audits],
        "negatives": [asdict(n) for n in negatives],
        "chance": [effect.as_dict() for effect in effects],
    }
    (folder / "audit.json").write_text(json.dumps(data, indent=2) + "\n")
    shown = {_title(c): c.report.histogram for c in audits if not c.by_chance}
    if shown:
        plot_similarity(shown, folder)


def _title(checked: MatchAudit) -> str:
    from llmcf_cli.store.artifacts import KEY_LENGTH

    settings = checked.made.manifest.material
    arms = ", ".join(checked.arms) or f"matches {checked.made.manifest.key[:KEY_LENGTH]}"
    return f"{arms} (space {settings['match.space']['type']}, search {settings['match.search']['type']})"
