"""What ingest found: what was kept and dropped, the samples of each split, and the alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcf_cli.cli.console import console
from llmcf_cli.cli.tables import escaped, plain_table

if TYPE_CHECKING:
    from llmcf_cli.data.report import IngestReport, NegativesAudit


def show(report: IngestReport) -> None:
    """Print a report of ingest."""
    _steps(report)
    _added(report)
    _notes(report)
    _features(report)
    _samples(report)
    _rules(report)
    for alarm in report.alarms:
        remedy = f" → {alarm.remedy}" if alarm.remedy else ""
        console().print(f"! {alarm.message}{remedy}", style="yellow", markup=False)


def _steps(report: IngestReport) -> None:
    table = plain_table("step", "kept", "dropped", "why")
    for step in report.steps:
        table.add_row(escaped(step.name), f"{step.kept:,}", f"{step.dropped:,}", escaped(step.reason))
        for sample in step.samples:
            table.add_row("", "", "", f"[dim]e.g. {escaped(sample)}[/]")
    console().print(table, markup=True)


def _added(report: IngestReport) -> None:
    added = report.added
    if added is not None:
        console().print(
            f"added: {added.users:,} users, {added.items:,} items, {added.interactions:,} interactions, "
            f"{added.samples:,} samples; {added.known:,} rows already there; "
            f"changed: {added.changed_users:,} known users, {added.changed_items:,} known items",
            markup=False,
        )


def _notes(report: IngestReport) -> None:
    for note in report.notes:
        console().print(f"{note.table}: {note.message}", style="dim", markup=False)


def _features(report: IngestReport) -> None:
    if not report.features:
        console().print("features: only the ids; add more with dataset.features", style="dim", markup=False)
        return
    table = plain_table("feature", "kind", "values", "missing", "most frequent", "cut", "not numbers")
    for found in report.features:
        table.add_row(
            escaped(f"{found.entity}.{found.name}"), found.kind, f"{found.distinct:,}",
            f"{found.missing:.1%}", escaped(f"{found.most_frequent} ({found.most_frequent_share:.1%})"),
            f"{found.cut:,}", f"{found.not_numbers:,}",
        )  # fmt: skip
        for warning in found.warnings:
            table.add_row("", "", "", "", f"[yellow]{escaped(warning)}[/]", "", "")
    console().print(table, markup=True)


def _samples(report: IngestReport) -> None:
    table = plain_table("split", "positive", "negative", "positives taken before", "negatives taken before")
    for count in report.samples:
        table.add_row(
            count.split, f"{count.positive:,}", f"{count.negative:,}",
            _share(count.repeated_positive, count.positive), _share(count.repeated_negative, count.negative),
        )  # fmt: skip
    console().print(table)
    slices = ", ".join(f"{s.name} {s.positive:,} + {s.negative:,}" for s in report.slices)
    console().print(f"test samples by slice (positive + negative): {slices}", markup=False)
    total = sum(count.positive + count.negative for count in report.samples)
    texts = ", ".join(f"{t.rows - t.blank:,} of {t.rows:,} {t.entity}s" for t in report.texts)
    console().print(
        f"histories: median {report.history_median:g} events, {_share(report.history_empty, total)} empty; "
        f"events tied in time: {_share(report.tied_events, report.interactions)}; with text: {texts}",
        markup=False,
    )


def _rules(report: IngestReport) -> None:
    found = [
        f"{rule.meaning} {rule.auc:.3f}"
        + ("" if rule.expected is None else f" ({rule.expected:.3f} expected from popularity alone)")
        for rule in report.rules if rule.auc is not None
    ]  # fmt: skip
    console().print(f"validation AUC of rules without a model: {'; '.join(found) or 'only one label'}", markup=False)
    audit = report.negatives
    if audit is not None:
        console().print(negatives_line(audit), style="bold red" if audit.violations else "green", markup=False)


def negatives_line(audit: NegativesAudit) -> str:
    """What an audit of negatives found."""
    return (
        f"negatives: {audit.violations:,} violations; {audit.taken_later:,} of {audit.negatives:,} train "
        f"negatives are items that their user takes later, {audit.expected:,.1f} in fresh draws (p = {audit.p:.3f})"
    )


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else f"{part:,}"
