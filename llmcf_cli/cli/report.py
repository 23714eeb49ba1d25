"""What a run shows: the plan, a line per stage, each stage's findings, and the comparison at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from llmcf_cli.cli.console import console
from llmcf_cli.rec.compare import mean_text
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
        console().print(f"[green]✓ {label}[/] cached [dim]{step.node.key[:KEY_LENGTH]}, made {manifest.started}[/]")
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
        metrics = [mean_text(row.get(name)) for name in ("auc", "logloss", "gauc", "validation_auc")]
        size = (f"{row['epochs']:.0f}", f"{row['seconds_per_epoch']:.2f}", f"{row['parameters']:,}")
        table.add_row(_escape(row["arm"]), *metrics, *size)
    console().print(table)
    for row in report["arms"]:
        console().print(f"{row['arm']} = {row['meaning']}", style="dim", markup=False)
    for note in report["notes"]:
        console().print(note, markup=False)


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
            _escape(label),
            m.recipe,
            m.key[:KEY_LENGTH],
            m.started[5:16].replace("T", " "),
            _duration(m.seconds),
            f"{size:,.1f}",
        )
    console().print(table)


def _ingest(report: Mapping[str, Any]) -> None:
    table = _table("step", "kept", "dropped", "why")
    for step in report["steps"]:
        table.add_row(step["name"], f"{step['kept']:,}", f"{step['dropped']:,}", _escape(step["reason"]))
    console().print(table)


def _train_llm(report: Mapping[str, Any]) -> None:
    table = _table("mix", "samples", "tokens", "answer tokens", "left out or shortened")
    for part in report["mix"]["parts"]:
        counts = ", ".join(f"{reason}: {count:,}" for reason, count in part["counts"].items() if count)
        table.add_row(
            part["source"],
            f"{part['samples']:,}",
            f"{part['tokens']:,}",
            f"{part['answer_tokens']:,}",
            counts or "none",
        )
    console().print(table)
    tuned = report["tune"]
    resumed = f", resumed from step {tuned['resumed_from']:,}" if tuned["resumed_from"] else ""
    console().print(
        f"{tuned['steps']:,} steps{resumed}, {tuned['tokens']:,} tokens at {tuned['tokens_per_second']:,.0f} tokens/s "
        f"in {tuned['precision']}"
    )
    losses = [loss for _, loss in tuned["loss"]]
    half = (len(losses) + 1) // 2
    means = [sum(part) / len(part) for part in (losses[:half], losses[half:]) if part]
    console().print(
        "mean loss in the first and second half of the steps: " + ", ".join(f"{mean:.3f}" for mean in means)
    )


def _gen_cot(report: Mapping[str, Any]) -> None:
    dropped = ", ".join(f"{reason}: {count}" for reason, count in report["dropped"].items()) or "none"
    console().print(
        f"{report['kept']:,} of {report['wanted']:,} chains of thought kept (dropped: {dropped}); "
        f"{report['generated']:,} texts generated, {report['cached']:,} found in the cache, "
        f"{report['tokens_per_second']:,.0f} tokens/s"
    )
    console().print("judge: " + ", ".join(f"{name} {value:.2f}" for name, value in report["scores"].items()))
    for example in report["examples"][:1]:
        console().print(f"e.g. {example['decision']}: {example['item']}", markup=False, style="dim")
        console().print(f"     {' '.join(example['text'].split())}", markup=False, style="dim")


def _collab(report: Mapping[str, Any]) -> None:
    console().print(
        f"{report['items']:,} items of {report['positives']:,} positives as vectors of {report['dim']} numbers, "
        f"{report['variance_kept']:.1%} of the variance kept; {report['folds']} folds in {report['seconds']:.1f} s"
    )


def _embed(report: Mapping[str, Any]) -> None:
    console().print(
        f"{report['items']:,} items and {report['examples']:,} chains of thought as vectors of {report['dim']} numbers"
    )


def _match(report: Mapping[str, Any]) -> None:
    audit = report["audit"]
    violations = sum(kind["count"] for kind in audit["violations"])
    style = "green" if violations == 0 else "bold red"
    kinds = ", ".join(kind["kind"] for kind in audit["violations"])
    console().print(f"audit: {violations} violations ({kinds})", style=style, markup=False)
    console().print(
        f"{audit['samples']:,} samples × {audit['k']}, {audit['positive_share']:.1%} of the examples positive, "
        f"{audit['padding_share']:.1%} of the places empty, {audit['examples_used']:,} of "
        f"{report['match']['examples']:,} examples used"
    )


def _train_rec(report: Mapping[str, Any]) -> None:
    console().print(
        f"best epoch {report['best_epoch']} of {len(report['epochs'])}: validation AUC {report['best']['auc']:.4f}, "
        f"{report['num_parameters']:,} parameters, {report['samples_per_second']:,.0f} samples/s"
    )


_FINDINGS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "ingest": _ingest,
    "train-llm": _train_llm,
    "gen-cot": _gen_cot,
    "collab": _collab,
    "embed": _embed,
    "match": _match,
    "train-rec": _train_rec,
}


def _table(*columns: str, title: str | None = None) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
