"""`llmcf runs`: the comparisons that were made here, their measures, and what changed between them."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from llmcf_cli.cli.printing import JsonOption, print_json
from llmcf_cli.cli.stages import ArtifactsOption

_SHOWN = 8
"""Changes of a run that are told; the others are counted."""


def runs(
    recipe: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only comparisons of this recipe.")] = None,
    artifacts: ArtifactsOption = None,
    as_json: JsonOption = False,
) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.stages.look.runs import past_runs
    from llmcf_cli.stages.pipeline import artifact_root
    from llmcf_cli.store.artifacts import ArtifactStore

    store = ArtifactStore(artifact_root(artifacts))
    found, others = past_runs(store)
    shown = [run for run in found if recipe in (None, run.recipe)]
    if as_json:
        print_json(shown)
        return
    for run in shown:
        console().print(f"{run.recipe}  {run.started} UTC  {run.key}", style="bold", markup=False, soft_wrap=True)
        served = {run.served: " (served)"}
        values = ", ".join(f"{arm} {value:.4f}{served.get(arm, '')}" for arm, value in run.values.items())
        console().print(f"  {run.measure}: {values}", markup=False, soft_wrap=True)
        changed = run.changed or ()
        for change in changed[:_SHOWN]:
            console().print(f"  {change}", style="dim", markup=False, soft_wrap=True)
        if len(changed) > _SHOWN:
            console().print(f"  and {len(changed) - _SHOWN:,} more changes", style="dim", markup=False)
    if not shown:
        console().print(f"no comparison in {store.root}; next: llmcf run RECIPE", markup=False, soft_wrap=True)
    if others:
        console().print(f"{others:,} more by other versions of llmcf", style="yellow", markup=False)
    if shown:
        where = "" if artifacts is None else f" --artifacts {shlex.quote(str(artifacts))}"
        console().print(f"next: llmcf report {shown[-1].key}{where}", markup=False, soft_wrap=True)
