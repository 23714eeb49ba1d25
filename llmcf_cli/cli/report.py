"""What a run shows: the plan, a line per stage, each stage's findings, and the comparison at the end."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcf_cli.cli.console import console
from llmcf_cli.cli.findings import each_field
from llmcf_cli.cli.tables import duration, escaped, plain_table, text_table
from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.types import ComponentConfig, file_refs
from llmcf_cli.llm.asking import tables as ability_tables
from llmcf_cli.match.config import AnnSearchConfig
from llmcf_cli.plugin import STAGE, registry
from llmcf_cli.rec.measure.compare import (
    CONTROL_NOTE,
    FEW,
    control_rows,
    difference_rows,
    extent,
    main_differences,
    rows,
    small_slices,
    title_of,
)
from llmcf_cli.stages.engine.base import Context, Node, Stage, labelled
from llmcf_cli.stages.engine.report import from_json, to_json
from llmcf_cli.stages.engine.run import Cause, Step
from llmcf_cli.stages.engine.tracking import FOLDER as TRACKING
from llmcf_cli.stages.look.verify import Verified
from llmcf_cli.stages.steps.evaluate import EvaluateOutput
from llmcf_cli.store.artifacts import KEY_LENGTH, ArtifactStore, Manifest

if TYPE_CHECKING:
    from llmcf_cli.match.recall import Measured
    from llmcf_cli.stages.steps.evaluate import Comparison


def plan(steps: Sequence[Step]) -> None:
    """The steps of a plan: state, reason, key."""
    table = plain_table("stage", "state", "why", "key")
    for step in steps:
        state = "[yellow]to run[/]" if step.runs else "[green]cached[/]"
        if step.cause is Cause.PUT_OFF:
            state = "not needed"
        table.add_row(escaped(step.node.label), state, escaped(step.reason), step.node.key[:KEY_LENGTH])
    console().print(table, markup=True)


def plan_rows(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps of a plan, for programs."""
    return [
        {"stage": step.node.stage.name, "variant": step.node.variant, "runs": step.runs,
         "cause": step.cause.name.lower(), "reason": step.reason, "key": step.node.key,
         "folder": step.node.folder} for step in steps
    ]  # fmt: skip


def costs(steps: Sequence[Step]) -> None:
    """What the language model's part in steps that will run costs, as far as that can be known."""
    for step in steps:
        if not step.runs:
            continue
        try:
            found = step.node.stage.cost(step.node)
        except LlmcfError as error:
            console().print(f"{error}", style="dim", markup=False)
            continue
        if found:
            table = plain_table(escaped(step.node.label), "estimate")
            for row in found:
                table.add_row(*map(escaped, row))
            console().print(table, markup=True)


def begin(path: Path, context: Context) -> None:
    """The first lines of a run of the recipe at `path`."""
    console().print(f"[bold]{context.recipe.name}[/]: {escaped(context.recipe.description)}", markup=True)
    console().print(f"recipe {path}, artifacts {context.store.root}", style="dim", markup=False)
    outside = [name for name in dict.fromkeys(file_refs(context.recipe)) if context.locate.is_outside(name)]
    if outside:
        console().print(f"reads outside its folder: {', '.join(outside)}", style="yellow", markup=False, soft_wrap=True)


def start_step(step: Step) -> None:
    """Announce a step."""
    if step.runs:
        about = f"[bold cyan]▶ {escaped(step.node.label)}[/] [dim]({escaped(step.reason)})[/]"
        console().print(about, markup=True)
    elif step.cause is Cause.PUT_OFF:
        console().print(f"– {step.node.label} is not needed: {step.reason}", style="dim", markup=False)


def end_step(step: Step, manifest: Manifest) -> None:
    """Say how a step ended, and what it found if it ran now."""
    label = escaped(step.node.label)
    if not step.runs:
        how, made = escaped(step.reason), escaped(manifest.started[:19].replace("T", " "))
        about = f"[green]✓ {label}[/] {how} [dim]{step.node.key[:KEY_LENGTH]}, made {made} UTC[/]"
        console().print(about, markup=True)
        return
    findings(step.node.stage, manifest)
    about = f"[green]✓ {label}[/] {duration(manifest.seconds)} [dim]{escaped(str(step.node.folder))}[/]"
    console().print(about, markup=True)


def _made(node: Node) -> Manifest | None:
    return node.context.store.look(node.stage.name, node.key).whole


def findings(stage: Stage, manifest: Manifest) -> None:
    """What a stage found, by the function that it is registered with."""
    component = registry().get(STAGE, stage.name)
    show = component.load(component.findings) if component.findings else each_field
    show(from_json(type(stage).report, manifest.report, stage.label))


@dataclass(frozen=True)
class Ended:
    """A run of a stage's command that came to its end; what a stage's `ending` is called with.

    Attributes:
        report: The stage's.
        folder: Its folder.
        recipe: What the user called the recipe, with the options that make it the same run.
        steps: All steps of the run.
    """

    report: Any
    folder: Path
    recipe: str
    steps: Sequence[Step]


def finish(stage: str, recipe: str, steps: Sequence[Step]) -> None:
    """The end of a run of a stage's command: as the stage says, else what to try next."""
    component, last = registry().get(STAGE, stage), steps[-1].node
    for step in steps:
        if step.node.stage.name == stage and not step.runs and (there := _made(step.node)):
            findings(step.node.stage, there)
    manifest = _made(last)
    if not component.ending or manifest is None:
        console().print(f"[dim]next:[/] llmcf run {escaped(recipe)}", markup=True, soft_wrap=True)
        return
    report = from_json(type(last.stage).report, manifest.report, last.label)
    component.load(component.ending)(Ended(report, last.folder, recipe, steps))


def tracking(context: Context) -> None:
    """How to look at what the recipe's trackers noted."""
    folder = context.store.root / TRACKING
    ways = {
        "tensorboard": f"tensorboard --logdir {folder / 'tensorboard'}",
        "mlflow": f"mlflow ui --backend-store-uri sqlite:///{folder / 'mlflow.db'}",
        "wandb": f"wandb sync --sync-all {folder / 'wandb'} (uploads the data)",
    }
    for name in context.recipe.tracking if folder.exists() else ():
        console().print(f"{name}: {ways[name]}", style="dim", markup=False, soft_wrap=True)


def evaluation(ended: Ended) -> None:
    """The comparison, where things are, and what to try next."""
    from llmcf_cli.stages.look.made import run_of_folder
    from llmcf_cli.stages.look.page.render import write_page

    found: Comparison = ended.report
    report, output = to_json(found), EvaluateOutput(ended.folder)
    comparison(report)
    if found.failed:
        console().print(
            f"to retry the failed arms: llmcf run {ended.recipe}", style="red", markup=False, soft_wrap=True
        )
    elif all(not step.runs for step in ended.steps):
        console().print("every stage is cached; nothing was repeated", style="green")
    rest = len(found.differences) - len(main_differences(report))
    console().print(f"report: {write_page(run_of_folder(ended.folder))}", markup=False, soft_wrap=True)
    also = [f"{rest:,} more differences"] * (rest > 0) + ["slices", "what every arm means"]
    console().print(f"{', '.join(also)}: {output.page}", markup=False, soft_wrap=True)
    if output.plot.is_file():
        console().print(f"plot: {output.plot}", markup=False, soft_wrap=True)
    if served := found.served:
        best = f"best {title_of(report, served.monitor)} on validation"
        why = "named in serve.arm" if served.named else best
        values = ", ".join(f"{arm} {value:.4f}" for arm, value in served.validation.items())
        console().print(f"served: {served.arm}, {why} ({values})", markup=False)
        console().print(f"model to serve: {served.bundle}", markup=False, soft_wrap=True)
    matched = any(step.node.stage.name == "match" for step in ended.steps)
    following = f"run {ended.recipe} --set match.k=6" if matched else "score BUNDLE REQUESTS"
    if served and ended.steps[-1].node.context.recipe.rec.task.form == "user":
        following = f"recommend {shlex.quote(str(served.bundle))} --user ID -k 10"
    console().print(f"next: llmcf {following}", markup=False, soft_wrap=True)


def failed_step(step: Step, error: LlmcfError) -> None:
    """Say that a step failed, and why: what does not need it goes on, so the end may be far."""
    console().print(f"✗ {step.node.label}", style="red")
    console().print(textwrap.indent(str(error), "  "), style="red", markup=False, soft_wrap=True)


def comparison(report: Mapping[str, Any]) -> None:
    """The arms side by side on the test split, as much as a screen takes; all of it is in `comparison.md`."""
    text_table(*rows(report), title=f"Test split, {extent(report)}, backbone {report['backbone']}")
    for line in report.get("protocol", ()):
        console().print(line, style="dim", markup=False, soft_wrap=True)
    for row in report["arms"] if len(report["arms"]) <= FEW else ():
        console().print(f"{row['arm']} = {row['meaning']}", style="dim", markup=False)
    if report["small_slices"]:
        console().print(f"slices {small_slices(report)}", style="dim", markup=False)
    shown = main_differences(report)
    if shown:
        title = f"Differences of {title_of(report)}, with 95 % intervals over the {report['drawn']}"
        text_table(*difference_rows(report, shown), title=title)
        console().print(report["notes"][0], style="dim", markup=False)
    if report["controls"]:
        text_table(*control_rows(report), title=f"Arms and their controls, {title_of(report)}")
        console().print(CONTROL_NOTE, style="dim", markup=False)
    for warning in report.get("warnings", ()):
        console().print(f"! {warning}", style="yellow", markup=False, soft_wrap=True)
    for arm, why in report["failed"].items():
        console().print(f"{arm} failed: {why}", style="red", markup=False)


def alarms(found: Sequence[str]) -> None:
    """What makes the numbers above doubtful."""
    for alarm in found:
        console().print(f"! {alarm}", style="bold red", markup=False, soft_wrap=True)


def models(ended: Ended) -> None:
    """The language model before and after tuning."""
    report = to_json(ended.report)
    rows = ability_tables.model_rows(report)
    text_table(*rows, title=f"Language model, {report['split']} samples and benchmarks, ± standard error")
    console().print(ability_tables.NOTE, style="dim", markup=False)
    alarms(report["alarms"])
    for note in report["notes"]:
        console().print(note, style="yellow", markup=False)
    _tables_in(ended.folder)


def balance(ended: Ended) -> None:
    """The sweep, and the point that it chooses."""
    report = to_json(ended.report)
    rows = ability_tables.balance_rows(report)
    text_table(*rows, title=f"Balance, {report['split']} samples and benchmarks, ± standard error")
    console().print(ability_tables.NOTE, style="dim", markup=False)
    alarms(report["alarms"])
    console().print(ability_tables.verdict(report), markup=False)
    for point, why in report["failed"].items():
        console().print(f"{point} failed: {why}; run the same command to retry", style="red", markup=False)
    _tables_in(ended.folder)


def _tables_in(folder: Path) -> None:
    from llmcf_cli.stages.look.made import run_of_folder
    from llmcf_cli.stages.look.page.render import write_page

    console().print(f"report: {write_page(run_of_folder(folder))}", markup=False, soft_wrap=True)
    console().print(f"tables and plots: {folder}", markup=False, soft_wrap=True)


def artifacts(store: ArtifactStore) -> None:
    """Every complete artifact under a root."""
    found = store.manifests()
    if unreadable := len(store.folders()) - len(found):
        console().print(f"{unreadable:,} more artifacts cannot be read; next: llmcf verify", style="yellow")
    if not found:
        console().print(f"no artifacts in {store.root}; next: llmcf run RECIPE", markup=False)
        return
    table = plain_table("stage", "recipe", "key", "made (UTC)", "took", "MB")
    for m in found:
        label = labelled(m.stage, m.variant)
        size = sum(record.size for record in m.files.values()) / 1e6
        table.add_row(
            label,
            m.recipe,
            m.key[:KEY_LENGTH],
            m.started[5:16].replace("T", " "),
            duration(m.seconds),
            f"{size:,.1f}",
        )
    console().print(table)


def artifact_rows(store: ArtifactStore) -> list[dict[str, Any]]:
    """Every complete artifact under a root, for programs."""
    return [
        {"stage": one.stage, "variant": one.variant, "recipe": one.recipe, "key": one.key, "started": one.started,
         "seconds": one.seconds, "bytes": sum(record.size for record in one.files.values()),
         "folder": store.folder(one.stage, one.key)} for one in store.manifests()
    ]  # fmt: skip


def verified_rows(found: Sequence[Verified]) -> list[dict[str, Any]]:
    """Which artifacts are whole, for programs."""
    return [
        {"label": one.label, "folder": one.found.folder, "made": one.found.manifest is not None, "bytes": one.bytes,
         "faults": [str(fault) for fault in one.found.faults]} for one in found
    ]  # fmt: skip


def verified(found: Sequence[Verified], recipe: str) -> None:
    """Which artifacts are whole, and what is wrong with the others."""
    table = plain_table("stage", "key", "files", "MB", "state")
    for one in found:
        manifest, folder = one.found.manifest, one.found.folder
        if one.found.faults:
            state = f"[red]damaged: {escaped(one.found.damage)}[/]"
        else:
            state = "[green]whole[/]" if manifest else "[dim]not made[/]"
        files = f"{len(manifest.files):,}" if manifest else ""
        table.add_row(
            escaped(one.label), escaped(folder.name), files, f"{one.bytes / 1e6:,.1f}" if manifest else "", state
        )
    console().print(table, markup=True)
    broken = [one for one in found if one.found.faults]
    if broken:
        console().print(f"{len(broken):,} of {len(found):,} are damaged", style="red")
        console().print(f"next: llmcf run {recipe}", markup=False, soft_wrap=True)


def tuned(measured: Sequence[Measured], best: Measured, recall: float) -> None:
    """Settings of approximate search, what each finds and costs, and the recipe's lines for the cheapest."""
    titles = ("probes", "refine", "recall", "p50 ms", "p99 ms", "")
    cells = [
        (str(m.probes), str(m.refine), f"{m.recall:.4f}", f"{m.p50_ms:.3f}", f"{m.p99_ms:.3f}",
         "cheapest" if m is best else "") for m in measured
    ]  # fmt: skip
    exact = f"exact search {best.exact_p50_ms:.3f} ms"
    text_table(titles, cells, title=f"{best.queries:,} queries in batches of 64, ms per query; {exact}")
    console().print("\nfor the recipe:", style="dim")
    lines = f"probes: {best.probes}, refine: {best.refine}, min_recall: {recall}"
    console().print(f"match:\n  search: {{type: ann, {lines}}}", markup=False)


def nothing_to_tune(pools: Mapping[str, Mapping[str, Any]], search: ComponentConfig, recipe: str) -> None:
    """Say that approximate search compares all examples at this size, why, and what does the same."""
    config = search if isinstance(search, AnnSearchConfig) else AnnSearchConfig()
    counts = " and ".join(f"{pool['examples']:,}" + f" {name}" * (name != "all") for name, pool in pools.items())
    why = {
        "auto": f"an index needs {config.flat_below:,} examples of a label (match.search.flat_below), and enough to "
        "train its kind",
        "flat": "match.search.index is flat",
    }.get(config.index, f"an index of kind {config.index} needs more")
    console().print(f"the search compares all {counts} examples, so it is exact: {why}")
    console().print("nothing to tune at this size: match.search: exact does the same")
    console().print(f"next: llmcf match {recipe}", markup=False, soft_wrap=True)
