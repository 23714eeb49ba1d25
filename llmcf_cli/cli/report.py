"""What a run shows: the plan, a line per stage, each stage's findings, and the comparison at the end."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from llmcf_cli.cli.console import console
from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.llm import ability_tables
from llmcf_cli.match.config import AnnSearchConfig
from llmcf_cli.rec.compare import difference_rows, rows, slice_rows
from llmcf_cli.recipe.load import LoadedRecipe
from llmcf_cli.stages.base import Context
from llmcf_cli.stages.run import Step
from llmcf_cli.store.artifacts import KEY_LENGTH, ArtifactStore, Manifest

if TYPE_CHECKING:
    from llmcf_cli.match.recall import Measured

GAP = 2
"""Spaces between the columns of a table."""


def plan(steps: Sequence[Step]) -> None:
    """The steps of a plan: state, reason, key."""
    table = _table("stage", "state", "why", "key")
    for step in steps:
        state = "[yellow]to run[/]" if step.runs else "[green]cached[/]"
        table.add_row(_escape(step.node.label), state, _escape(step.reason), step.node.key[:KEY_LENGTH])
    console().print(table)


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
            table = _table(_escape(step.node.label), "estimate")
            for row in found:
                table.add_row(*map(_escape, row))
            console().print(table)


def begin(loaded: LoadedRecipe, context: Context) -> None:
    """The first lines of a run."""
    console().print(f"[bold]{loaded.recipe.name}[/]: {_escape(loaded.recipe.description)}")
    console().print(f"recipe {loaded.path}, artifacts {context.store.root}", style="dim", markup=False)


def start_step(step: Step) -> None:
    """Announce a step."""
    if step.runs:
        console().print(f"[bold cyan]▶ {_escape(step.node.label)}[/] [dim]({_escape(step.reason)})[/]")


def end_step(step: Step, manifest: Manifest) -> None:
    """Say how a step ended, and what it found if it ran now."""
    label = _escape(step.node.label)
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
    if stage in _TABLES and manifest is not None:
        _TABLES[stage](manifest.report)
        console().print(f"tables and plots: {last.folder}", markup=False, soft_wrap=True)
        return
    if stage != "evaluate" or manifest is None:
        console().print(f"[dim]next:[/] llmcf run {_escape(recipe)}")
        return
    comparison(manifest.report)
    if manifest.report["failed"]:
        console().print(f"to try the arms that failed again: llmcf run {recipe}", style="red", markup=False)
    elif all(not step.runs for step in steps):
        console().print("every stage is cached; nothing was repeated", style="green")
    console().print(f"tables, plots and predictions: {last.folder}", markup=False, soft_wrap=True)
    if manifest.report["bundle"]:
        console().print(f"model to serve: {manifest.report['bundle']}", markup=False, soft_wrap=True)
    matched = any(step.node.stage.name == "match" for step in steps)
    following = f"run {recipe} --set match.k=6" if matched else "score BUNDLE REQUESTS"
    console().print(f"next: llmcf {following}", markup=False)


def failed_step(step: Step, error: LlmcfError) -> None:
    """Say that a step failed, and why: what does not need it goes on, so the end may be far."""
    console().print(f"[red]✗ {_escape(step.node.label)}[/]")
    console().print(textwrap.indent(str(error), "  "), style="red", markup=False, soft_wrap=True)


def comparison(report: Mapping[str, Any]) -> None:
    """The arms side by side on the test split."""
    _text_table(*rows(report), title=f"Test split, {report['test_samples']:,} samples, backbone {report['backbone']}")
    for row in report["arms"]:
        console().print(f"{row['arm']} = {row['meaning']}", style="dim", markup=False)
    titles, cells = slice_rows(report)
    if len(titles) > 1:
        _text_table(titles, cells, title="Test AUC on cold-start slices")
    if report["differences"]:
        _text_table(*difference_rows(report), title="Differences of AUC, with 95 % intervals over the test samples")
        for note in report["notes"]:
            console().print(note, style="dim", markup=False)
    for arm, why in report["failed"].items():
        console().print(f"{arm} failed: {why}", style="red", markup=False)


def models(report: Mapping[str, Any]) -> None:
    """The language model before and after tuning."""
    rows = ability_tables.model_rows(report)
    _text_table(*rows, title=f"Language model, {report['split']} samples and benchmarks, ± standard error")
    console().print(ability_tables.NOTE, style="dim", markup=False)
    for note in report["notes"]:
        console().print(note, style="yellow", markup=False)


def balance(report: Mapping[str, Any]) -> None:
    """The sweep, and the point that it chooses."""
    rows = ability_tables.balance_rows(report)
    _text_table(*rows, title=f"Balance, {report['split']} samples and benchmarks, ± standard error")
    console().print(ability_tables.NOTE, style="dim", markup=False)
    console().print(ability_tables.verdict(report), markup=False)
    for point, why in report["failed"].items():
        console().print(f"{point} failed: {why}; the same command tries it again", style="red", markup=False)


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


def tuned(measured: Sequence[Measured], best: Measured, recall: float) -> None:
    """Settings of approximate search, what each finds and costs, and the recipe's lines for the cheapest."""
    titles = ("probes", "refine", "recall", "p50 ms", "p99 ms", "")
    cells = [
        (str(m.probes), str(m.refine), f"{m.recall:.4f}", f"{m.p50_ms:.3f}", f"{m.p99_ms:.3f}",
         "cheapest" if m is best else "") for m in measured
    ]  # fmt: skip
    exact = f"exact search {best.exact_p50_ms:.3f} ms"
    _text_table(titles, cells, title=f"{best.queries:,} queries in batches of 64, ms per query; {exact}")
    console().print("\nfor the recipe:", style="dim")
    lines = f"probes: {best.probes}, refine: {best.refine}, min_recall: {recall}"
    console().print(f"match:\n  search: {{type: ann, {lines}}}", markup=False)


def nothing_to_tune(pools: Mapping[str, Mapping[str, Any]], search: ComponentConfig, recipe: str) -> None:
    """Say that approximate search compares all examples at this size, why, and what does the same."""
    config = search if isinstance(search, AnnSearchConfig) else AnnSearchConfig()
    counts = " and ".join(f"{pool['examples']:,}" + f" {name}" * (name != "all") for name, pool in pools.items())
    why = {
        "auto": f"an index is built from {config.flat_below:,} examples of a label on (match.search.flat_below)",
        "flat": "match.search.index is flat",
    }.get(config.index, f"an index of kind {config.index} needs more")
    console().print(f"the search compares all {counts} examples, so it is exact: {why}")
    console().print("there is nothing to tune at this size, and match.search: exact does the same")
    console().print(f"next: llmcf match {recipe}", markup=False, soft_wrap=True)


def _ingest(report: Mapping[str, Any]) -> None:
    table = _table("step", "kept", "dropped", "why")
    for step in report["steps"]:
        table.add_row(step["name"], f"{step['kept']:,}", f"{step['dropped']:,}", _escape(step["reason"]))
    console().print(table)


def _train_llm(report: Mapping[str, Any]) -> None:
    table = _table("mix", "available", "taken", "share (asked)", "tokens", "answer tokens", "left out or shortened")
    for part in report["mix"]["parts"]:
        counts = ", ".join(f"{reason}: {count:,}" for reason, count in part["counts"].items() if count)
        table.add_row(
            part["source"],
            f"{part['available']:,}",
            f"{part['samples']:,}",
            f"{part['share']:.1%} ({part['asked']:.1%})",
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
    from llmcf_cli.llm.cost import comparison_rows

    dropped = ", ".join(f"{reason}: {count:,}" for reason, count in report["dropped"].items()) or "none"
    console().print(
        f"{report['kept']:,} of {report['wanted']:,} chains of thought kept (dropped: {dropped}); "
        f"{report['regenerated']:,} asked again, of which {report['rescued']:,} then kept; "
        f"{report['generated']:,} texts generated, {report['cached']:,} found in the cache, {report['failed']:,} "
        f"failures, {report['tokens_per_second']:,.0f} tokens/s"
    )
    for reason, count in report["set_aside"].items():
        console().print(f"{count:,} set aside: {reason}", style="yellow", markup=False)
    if report["generated"]:
        table = _table("cost", "estimate", "actual", "difference")
        for row in comparison_rows(report["estimate"], report["actual"]):
            table.add_row(*row)
        console().print(table)
    if len(report["steps"]) > 1:
        steps = [f"{name} {s['generated']:,} texts, {s['new_tokens']:,} tokens" for name, s in report["steps"].items()]
        console().print(f"written now: {'; '.join(steps)}", markup=False)
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
    what = f"{report['items']:,} items" if "items" in report else f"{report['examples']:,} examples"
    console().print(f"{what} as vectors of {report['dim']} numbers, {report['seconds']:.1f} s of encoding")


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
    found = report["match"]["search"]
    if found is not None:
        kinds = ", ".join(f"{name} {pool['kind']}" for name, pool in found["pools"].items())
        console().print(
            f"index ({kinds}): {found['recall']:.2%} of the exact result on {found['queries']:,} queries, "
            f"p50 {found['p50_ms']:.2f} and p99 {found['p99_ms']:.2f} ms per query "
            f"(exact: p50 {found['exact_p50_ms']:.2f})"
        )


def _knowledge(report: Mapping[str, Any]) -> None:
    console().print(
        f"texts about {report['users']:,} users and {report['items']:,} items as vectors of {report['dim']} numbers "
        f"({report['empty']:,} empty); {report['generated']:,} texts generated, {report['cached']:,} found in the "
        f"cache, {report['tokens_per_second']:,.0f} tokens/s"
    )
    reach = [f"{split} {share['user']:.0%} and {share['item']:.0%}" for split, share in report["reach"].items()]
    console().print(f"samples with a text about their user and item: {', '.join(reach)}")
    for example in report["examples"][:: max(1, len(report["examples"]) - 1)]:
        text = " ".join(example["text"].split())
        console().print(f"e.g. {example['entity']} {example['row']}: {text}", markup=False, style="dim")


def _teacher(report: Mapping[str, Any]) -> None:
    auc = "one label only" if report["auc"] is None else f"AUC {report['auc']:.4f}"
    console().print(
        f"{report['scored']:,} of {report['wanted']:,} train samples scored ({auc} on them); "
        f"{report['asked']:,} questions asked, {report['cached']:,} found in the cache, "
        f"{report['questions_per_second']:,.1f} questions/s; P(yes) + P(no) is {report['mass']:.2f} on average"
    )


def _ability(report: Mapping[str, Any]) -> None:
    shown = [
        f"{ability_tables.NAMES[name]} {ability_tables.shown(name, estimate)}"
        for name, estimate in report["measures"].items()
    ]
    console().print(", ".join(shown), markup=False)
    console().print(
        f"{report['asked']:,} questions asked, {report['cached']:,} found in the cache, "
        f"{report['questions_per_second']:,.1f} questions/s; P(yes) + P(no) is {report['mass']:.2f} on average"
    )


def _search(report: Mapping[str, Any]) -> None:
    settings = ", ".join(f"{path} {_number(value)}" for path, value in report["best"].items())
    console().print(
        f"best of {report['trials']} trials: validation {report['monitor']} {report['value']:.4f} "
        f"(the recipe's own settings: {_optional(report['start'])}) with {settings}",
        markup=False,
    )


def _train_rec(report: Mapping[str, Any]) -> None:
    console().print(
        f"best epoch {report['best_epoch']} of {len(report['epochs'])}: validation AUC {report['best']['auc']:.4f}, "
        f"{report['num_parameters']:,} parameters, {report['samples_per_second']:,.0f} samples/s"
    )


def _baseline(report: Mapping[str, Any]) -> None:
    console().print(f"validation AUC {report['best']['auc']:.4f}, fitted in {report['seconds']:.1f} s")


_FINDINGS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "ingest": _ingest,
    "train-llm": _train_llm,
    "gen-cot": _gen_cot,
    "collab": _collab,
    "embed": _embed,
    "examples": _embed,
    "match": _match,
    "knowledge": _knowledge,
    "teacher": _teacher,
    "ability": _ability,
    "search": _search,
    "train-rec": _train_rec,
    "baseline": _baseline,
}


_TABLES: dict[str, Callable[[Mapping[str, Any]], None]] = {"eval-llm": models, "balance": balance}


def _text_table(titles: Sequence[str], cells: Sequence[Sequence[str]], *, title: str) -> None:
    """Print a table under its title; one too wide for the terminal as several, each with the first column."""
    console().print()
    console().print(title, style="italic", markup=False)
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for columns in _fitting(widths, console().width):
        table = _table()
        for place in (0, *columns):
            table.add_column(titles[place], justify="right" if place else "left", overflow="fold")
        for row in cells:
            table.add_row(*(_escape(row[place]) for place in (0, *columns)))
        console().print(table)


def _fitting(widths: Sequence[int], total: int) -> list[list[int]]:
    """Places 1, 2, … of columns in groups that fit beside column 0."""
    groups: list[list[int]] = [[]]
    left = total - widths[0]
    for place, width in enumerate(widths[1:], 1):
        left -= width + GAP
        if left < 0 and groups[-1]:
            groups.append([])
            left = total - widths[0] - width - GAP
        groups[-1].append(place)
    return groups


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _optional(value: float | None) -> str:
    return "failed" if value is None else f"{value:.4f}"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
