"""`llmcf status`, `verify`, `doctor`, `plugins`: what is there, is it whole, and is this machine fit to run."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcf_cli.cli.completing import recipe_names
from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.printing import JsonOption, print_json
from llmcf_cli.cli.stages import ArtifactsOption, SetOption

RecipeOrAll = Annotated[
    str | None,
    typer.Argument(
        metavar="[RECIPE]", help="A recipe file, or the name of a library recipe.", autocompletion=recipe_names
    ),
]


def status(
    recipe: RecipeOrAll = None,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
    as_json: JsonOption = False,
) -> None:
    from llmcf_cli.cli import report

    if recipe is None:
        from llmcf_cli.stages.pipeline import artifact_root
        from llmcf_cli.store.artifacts import ArtifactStore

        store = ArtifactStore(artifact_root(artifacts))
        if as_json:
            print_json(report.artifact_rows(store))
        else:
            report.artifacts(store)
        return
    from llmcf_cli.stages.engine.run import plan
    from llmcf_cli.stages.pipeline import targets

    context = opened(recipe, set_, artifacts, allow_read)
    steps = plan(context, targets(context.recipe, "evaluate"))
    if as_json:
        print_json(report.plan_rows(steps))
    else:
        report.plan(steps)


def verify(
    recipe: RecipeOrAll = None,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
    as_json: JsonOption = False,
) -> None:
    from llmcf_cli.cli import report
    from llmcf_cli.cli.console import make_progress
    from llmcf_cli.core.progress import SILENT
    from llmcf_cli.stages.look.verify import verify_all, verify_recipe

    progress = SILENT if as_json else make_progress()
    if recipe is None:
        from llmcf_cli.stages.pipeline import artifact_root
        from llmcf_cli.store.artifacts import ArtifactStore

        found = list(verify_all(ArtifactStore(artifact_root(artifacts)), progress))
    else:
        found = list(verify_recipe(opened(recipe, set_, artifacts, allow_read), progress))
    if as_json:
        print_json(report.verified_rows(found))
    else:
        report.verified(found, recipe or "RECIPE")
    if any(one.found.faults for one in found):
        raise typer.Exit(1)


def doctor(artifacts: ArtifactsOption = None, as_json: JsonOption = False) -> None:
    from rich.table import Table

    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import escaped
    from llmcf_cli.stages.look.doctor import check
    from llmcf_cli.stages.pipeline import artifact_root

    findings = check(artifact_root(artifacts))
    if as_json:
        print_json(findings)
    else:
        table = Table(title="llmcf doctor", title_justify="left", box=None, pad_edge=False)
        for column in ("", "check", "found", "what to do"):
            table.add_column(column)
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[red]fix[/]"
            table.add_row(mark, *map(escaped, (finding.name, finding.found, finding.hint)))
        console().print(table, markup=True)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def plugins(as_json: JsonOption = False) -> None:
    from rich.table import Table

    from llmcf_cli.cli.console import console
    from llmcf_cli.plugin import registry

    found = [*registry().all(), *registry().extensions()]
    if as_json:
        print_json(
            [{"kind": one.kind, "name": one.name, "summary": one.summary, "origin": one.origin} for one in found]
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "name", "what it is", "from"):
        table.add_column(column)
    for component in found:
        table.add_row(component.kind, component.name, component.summary, component.origin)
    console().print(table)
