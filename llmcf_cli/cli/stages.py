"""`llmcf run` and the commands of stages. They translate: load, plan, execute, render."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import typer

from llmcf_cli.cli.completing import recipe_names, settings, stage_names
from llmcf_cli.cli.groups import remember, same_run
from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.core.errors import LlmcfError

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or the name of a library recipe.",
        callback=remember,
        autocompletion=recipe_names,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change one value, e.g. match.k=6. Repeatable.",
        callback=remember,
        autocompletion=settings,
    ),
]
ArtifactsOption = Annotated[
    Path | None,
    typer.Option(
        "--artifacts",
        metavar="DIR",
        help="Folder of artifacts.",
        envvar="LLMCF_ARTIFACTS",
        show_default="artifacts",
        callback=remember,
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would run, why, and what the language model will cost.")
]
ForceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--force",
        metavar="STAGE",
        help="Rerun this stage, and those that read its result, even if cached. Repeatable.",
        autocompletion=stage_names,
    ),
]
LaunchOption = Annotated[
    str | None,
    typer.Option(
        "--launch",
        metavar="CONFIG",
        help="Tune with several processes: ddp, fsdp, zero2, cpu, or a configuration file of `accelerate`.",
    ),
]

OnOption = Annotated[
    Literal["local", "ray"],
    typer.Option("--on", help="Where gen-cot and match run: in this process, or on the workers of a Ray cluster."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Address of the Ray cluster; by default RAY_ADDRESS, else the one on this machine, else a new one.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Workers on the Ray cluster; by default one per GPU, or per node without GPUs."
    ),
]
ShareOption = Annotated[
    str | None,
    typer.Option(
        "--share",
        metavar="ADDRESS",
        help="Object storage to read examples from, e.g. s3://BUCKET/FOLDER; by default, the artifact folder.",
    ),
]


def stage_command(stage: str) -> Callable[..., None]:
    """The function behind a stage's command, for Typer."""

    def command(
        recipe: RecipeArgument,
        set_: SetOption = None,
        artifacts: ArtifactsOption = None,
        dry_run: DryRunOption = False,
        force: ForceOption = None,
        allow_read: AllowReadOption = None,
    ) -> None:
        run_stage(stage, recipe, set_ or (), artifacts, dry_run, force or (), allow_read)

    return command


def scaled_command(stage: str) -> Callable[..., None]:
    """The function behind the command of a stage that, itself or in what it needs, can use a cluster."""

    def command(
        recipe: RecipeArgument,
        set_: SetOption = None,
        artifacts: ArtifactsOption = None,
        dry_run: DryRunOption = False,
        force: ForceOption = None,
        allow_read: AllowReadOption = None,
        on: OnOption = "local",
        address: AddressOption = None,
        workers: WorkersOption = None,
        share: ShareOption = None,
    ) -> None:
        changes = _cluster(on, address, workers, share)
        run_stage(stage, recipe, set_ or (), artifacts, dry_run, force or (), allow_read, changes)

    return command


def _cluster(on: str, address: str | None, workers: int | None, share: str | None) -> dict[str, Any]:
    """Changes to the context of a run that uses a cluster."""
    if on == "ray":
        from llmcf_cli.cli.console import make_progress
        from llmcf_cli.scale.cluster import RayExecutor

        return {"executor": RayExecutor(address, workers, make_progress()), "shared": share}
    if any(option is not None for option in (address, workers, share)):
        raise LlmcfError(
            "apply only to a Ray cluster",
            code="option-conflict",
            where="--address, --workers and --share",
            hint="add --on ray",
        )
    return {}


def train_llm(
    recipe: RecipeArgument,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = None,
    allow_read: AllowReadOption = None,
    launch: LaunchOption = None,
) -> None:
    from llmcf_cli.recipe.library import launch_file

    changes = {} if launch is None else {"launch": launch_file(launch)}
    run_stage("train-llm", recipe, set_ or (), artifacts, dry_run, force or (), allow_read, changes)


gen_cot = scaled_command("gen-cot")
compare = stage_command("evaluate")


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe file, or the name of a library recipe; optional with --locked.",
            callback=remember,
            show_default=False,
            autocompletion=recipe_names,
        ),
    ] = None,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    dry_run: DryRunOption = False,
    force: ForceOption = None,
    allow_read: AllowReadOption = None,
    on: OnOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = None,
    share: ShareOption = None,
    locked: Annotated[
        Path | None,
        typer.Option("--locked", metavar="LOCK", help="Run only if everything matches this lock, NAME.lock.yaml."),
    ] = None,
    other_versions: Annotated[
        bool, typer.Option("--other-versions", help="Run a locked recipe even if library versions differ.")
    ] = False,
) -> None:
    if locked is not None:
        from llmcf_cli.cli.locked import check_locked

        recipe = check_locked(locked, recipe, set_ or (), artifacts, allow_read, other_versions)
    elif recipe is None:
        raise typer.BadParameter("give a RECIPE, or --locked LOCK")
    changes = _cluster(on, address, workers, share)
    run_stage("evaluate", recipe, set_ or (), artifacts, dry_run, force or (), allow_read, changes)


def run_stage(
    stage: str,
    recipe: str,
    overrides: Sequence[str],
    artifacts: Path | None,
    dry_run: bool,
    force: Sequence[str],
    allow_read: Sequence[Path] | None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Run a stage and what it needs; `changes` are to the context."""
    from dataclasses import replace

    from llmcf_cli.cli import report
    from llmcf_cli.cli.console import make_progress
    from llmcf_cli.core.errors import UnknownNameError
    from llmcf_cli.recipe.load import find_recipe
    from llmcf_cli.stages.engine.base import ComparingStage
    from llmcf_cli.stages.engine.run import judge, plan
    from llmcf_cli.stages.pipeline import run_steps, stage_names, targets

    for name in force:
        if name not in stage_names():
            raise UnknownNameError("stage", name, stage_names(), where="--force")
    progress = make_progress()
    context = replace(opened(recipe, overrides, artifacts, allow_read, progress), **changes)
    steps = plan(context, targets(context.recipe, stage), force)
    if dry_run:
        report.plan(steps)
        report.costs(steps)
        judge(steps)
        return
    report.begin(find_recipe(recipe), context)
    steps = run_steps(
        context, steps, progress, on_start=report.start_step, on_end=report.end_step, on_failure=report.failed_step
    )
    report.finish(stage, same_run(recipe, overrides, artifacts), steps)
    report.tracking(context)
    if any(isinstance(step.node.stage, ComparingStage) and step.node.stage.failed for step in steps):
        raise typer.Exit(1)
