"""`llmcf promote` and `llmcf rollback`: which bundle is served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.cli.bundle import BundleArgument, SignersOption
from llmcf_cli.cli.completing import recipe_names
from llmcf_cli.cli.groups import remember
from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.stages import ArtifactsOption, SetOption

if TYPE_CHECKING:
    from llmcf_cli.serve.champion.pointer import Check, Decision
    from llmcf_cli.serve.champion.promote import Promotion


def promote(
    bundle: BundleArgument,
    to: Annotated[
        Path, typer.Option("--to", metavar="POINTER", help="File that names the bundle to serve; created if missing.")
    ],
    recipe: Annotated[
        str,
        typer.Option("--recipe", metavar="RECIPE", callback=remember, autocompletion=recipe_names,
                     help="Recipe whose section `promote` has the conditions, and whose test samples decide."),
    ],
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the decision.")] = False,
    allow_read: AllowReadOption = None,
    signers: SignersOption = None,
) -> None:  # fmt: skip
    from llmcf_cli.cli.console import console
    from llmcf_cli.core.errors import LlmcfError
    from llmcf_cli.data.output import IngestOutput
    from llmcf_cli.plugin import registry
    from llmcf_cli.rec.tasks.base import TASK
    from llmcf_cli.serve.champion import promote as champion
    from llmcf_cli.stages.look.made import samples_of

    context = opened(recipe, set_, artifacts, allow_read)
    section, task = context.recipe.promote, registry().build(TASK, context.recipe.rec.task)
    if section is None:
        measure = task.monitor().name
        raise LlmcfError(
            "no section `promote`, with the conditions", code="promote-unset", where=recipe,
            hint=f"add a section, e.g. promote: {{measures: {{{measure}: {{not_worse_by: 0.002}}}}}}",
        )  # fmt: skip
    database = IngestOutput(samples_of(context)).database
    found = champion.promote(bundle, to, section, database, recipe=context.recipe.name, task=task, signers=signers,
                             dry_run=dry_run)  # fmt: skip
    if found.decision is None:
        console().print(f"nothing to do: {bundle} is the champion of {to}", markup=False, soft_wrap=True)
        return
    _show(found, found.decision)
    if not found.decision.accepted:
        failed = ", ".join(f"{c.of} {c.rule}" for c in found.decision.checks if not c.holds)
        raise LlmcfError(f"not promoted: {failed}; nothing was changed", code="promotion-refused", where=str(bundle),
                         hint=f"promote another bundle, or change the section promote of {recipe}")  # fmt: skip
    if not found.moved:
        console().print(f"would be promoted: {to} would name {bundle}", markup=False, soft_wrap=True)
        return
    console().print(f"promoted: {to} names {bundle}", style="green", markup=False, soft_wrap=True)
    if found.before is not None:
        console().print(f"to undo it: llmcf rollback {to}", markup=False, soft_wrap=True)
    else:
        console().print(f"next: llmcf serve --watch {to}", markup=False, soft_wrap=True)


def rollback(
    pointer: Annotated[Path, typer.Argument(metavar="POINTER", help="The file that `llmcf promote --to` wrote.")],
    signers: SignersOption = None,
) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.serve.champion import promote as champion

    now = champion.rollback(pointer, signers=signers)
    gone = now.withdrawn.bundle if now.withdrawn is not None else ""
    console().print(f"rolled back: {pointer} names {now.champion.bundle} again, not {gone}", style="green",
                    markup=False, soft_wrap=True)  # fmt: skip
    console().print("servers that watch it follow within seconds", markup=False)


def _show(found: Promotion, decision: Decision) -> None:
    """The measures, the canary and every condition."""
    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import text_table
    from llmcf_cli.rec.measure.compare import p_text

    part = f" of {decision.available:,}" if decision.available > decision.samples else ""
    rows = []
    for one, measure in zip(decision.measures, found.measures, strict=True):
        low, high = one.interval or (0.0, 0.0)
        beside = ["–"] * 4
        if one.champion is not None:
            beside = [f"{one.champion:.4f}", f"{one.difference:+.4f}", f"{low:+.4f} … {high:+.4f}",
                      f"{p_text(one.p_value)} ({measure.test_title})"]  # fmt: skip
        rows.append([measure.heading, f"{one.challenger:.4f}", *beside])
    text_table(
        ["measure", "challenger", "champion", "difference", "95 % interval", "p"], rows,
        title=f"{decision.samples:,}{part} test samples, {decision.first} to {decision.last}",
    )  # fmt: skip
    if decision.refused:
        console().print(f"{decision.refused:,} of them have users without known events: no list, counted as a miss")
    canary = decision.canary
    line = f"canary: {canary.requests - canary.unanswered} of {canary.requests} requests answered, median "
    line += f"{canary.challenger_ms:.1f} ms"
    if canary.champion_ms is not None:
        line += f" (champion {canary.champion_ms:.1f} ms)"
        line += f"; {canary.pairs:,} scores of pairs known to both"
    if canary.largest_difference is not None:
        line += f" differ by {canary.mean_difference:.2g} on average, {canary.largest_difference:.2g} at most"
    if canary.differing is not None:
        line += f"; {canary.differing:,} lists with different items"
    console().print(line, markup=False, soft_wrap=True)
    for check in decision.checks:
        console().print(_condition(check), style=None if check.holds else "red", markup=False, soft_wrap=True)
    if found.before is None:
        console().print("no champion yet: not_worse_by was not checked", style="yellow")


def _condition(check: Check) -> str:
    """A condition, and whether it holds."""
    mark = "holds" if check.holds else "FAILS"
    words = {
        "at_least": f"{check.found:.4f} is at least {check.limit:g}",
        "at_most": f"{check.found:.4f} is at most {check.limit:g}",
        "not_worse_by": f"{'worse' if check.found > 0 else 'better'} by {abs(check.found):.4f}, "
        f"may be worse by {check.limit:g}",
        "answered": f"{check.found:.0f} of {check.limit:.0f} requests answered",
        "latency_ratio": f"{check.found:.2f} times the champion's time, at most {check.limit:g} allowed",
        "same_items": f"{check.found:.0f} lists with different items, none allowed",
        "max_difference": f"largest difference {check.found:.2g}, at most {check.limit:g} allowed",
    }  # fmt: skip
    return f"  {mark}  {check.of}: {words[check.rule]}"
