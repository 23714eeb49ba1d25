"""What a run shows: the plan, a line per stage, each stage's findings, and the comparison at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from llmcf_cli.cli.console import console
from llmcf_cli.recipe.load import LoadedRecipe
from llmcf_cli.stages.base import Context
from llmcf_cli.stages.run import Step
from llmcf_cli.store.artifacts import KEY_LENGTH, ArtifactStore, Manifest


def plan(steps: Sequence[Step]) -> None:
    """The steps of a plan: state, reason, key."""
    table = _table("stage", "state", "why", "key")
    for step in steps:
        state = "[yellow]to run[/]" if step.runs else "[green]cached[/]"
        table.add_row(_escape(step.node.stage.label), state, _escape(step.reason), step.node.key[:KEY_LENGTH])
    console().print(table)


def begin(loaded: LoadedRecipe, context: Context) -> None:
    """The first lines of a run."""
    console().print(f"[bold]{loaded.recipe.name}[/]: {_escape(loaded.recipe.description)}")
    console().print(f"recipe {loaded.path}, artifacts {context.store.root}", style="dim", markup=False)


def start_step(step: Step) -> None:
    """Announce a step."""
    if step.runs:
        console().print(f"[bold cyan]▶ {_escape(step.node.stage.label)}[/] [dim]({_escape(step.reason)})[/]")


def end_step(step: Step, manifest: Manifest) -> None:
    """Say how a step ended, and what it found if it ran now."""
    label = _escape(step.node.stage.label)
    if not step.runs:
        console().print(
            f"[green]✓ {label}[/] cached [dim]{step.node.key[:KEY_LENGTH]}, made {manifest.started}[/]"
        )
        return
    render = _FINDINGS.get(step.node.stage.name)
    if render:
        render(manifest.report)
    console().print(f"[green]✓ {label}[/] {_duration(manifest.seconds)} [dim]{step.node.folder}[/]")


def finish(stage: str, recipe: str, steps: Sequence[Step]) -> None:
    """The end of a run: the comparison if it got there, where things are, and what to try next."""
    last = steps[-1].node
    manifest = last.context.store.manifest(last.stage.name, last.key)
    if stage != "evaluate" or manifest is None:
        console().print(f"[dim]next:[/] llmcf run {_escape(recipe)}")
        return
    comparison(manifest.report)
    if all(not step.runs for step in steps):
        console().print("every stage is cached; nothing was repeated", style="green")
    console().print(f"tables, plots and predictions: {last.folder}", markup=False, soft_wrap=True)
    console().print(f"model to serve: {manifest.report['bundle']}", markup=False, soft_wrap=True)
    console().print(f"next: llmcf run {recipe} --set match.k=6", markup=False)


def comparison(report: Mapping[str, Any]) -> None:
    """The arms side by side on the test split."""
    table = _table(title=f"Test split, {report['test_samples']:,} samples, backbone {report['backbone']}")
    table.add_column("arm")
    for column in ("AUC ↑", "logloss ↓", "gAUC ↑", "validation AUC", "epochs", "s/epoch", "parameters"):
        table.add_column(column, justify="right")
    for row in report["arms"]:
        table.add_row(
            _escape(f"{row['arm']}: {row['meaning']}"), _mean(row["auc"]), _mean(row["logloss"]), _mean(row["gauc"]),
            _mean(row["validation_auc"]), f"{row['epochs']:.0f}", f"{row['seconds_per_epoch']:.2f}", f"{row['parameters']:,}",
        )  # fmt: skip
    console().print(table)
    for note in report["notes"]:
        console().print(note, style="dim", markup=False)


def artifacts(store: ArtifactStore) -> None:
    """Every complete artifact under a root."""
    found = store.manifests()
    if not found:
        console().print(f"no artifacts in {store.root}; next: llmcf run RECIPE", markup=False)
        return
    table = _table("stage", "recipe", "key", "made (UTC)", "took", "MB")
    for m in found:
        label = f"{m.stage}[{m.variant}]" if m.variant else m.stage
        size = sum(record.size for record in m.files.values()) / 1e6
        table.add_row(
            _escape(label), m.recipe, m.key[:KEY_LENGTH], m.started[:19], _duration(m.seconds), f"{size:,.1f}"
        )
    console().print(table)


def _ingest(report: Mapping[str, Any]) -> None:
    table = _table("step", "kept", "dropped", "why")
    for step in report["steps"]:
        table.add_row(step["name"], f"{step['kept']:,}", f"{step['dropped']:,}", _escape(step["reason"]))
    console().print(table)


_FINDINGS: dict[str, Callable[[Mapping[str, Any]], None]] = {"ingest": _ingest}


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    return table


def _mean(value: Mapping[str, Any]) -> str:
    """`mean ± sd` where there are several seeds."""
    return f"{value['mean']:.4f}" + (f" ± {value['sd']:.4f}" if value["n"] > 1 else "")


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
