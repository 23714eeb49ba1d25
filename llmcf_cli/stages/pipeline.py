"""The stages in order, and the context a recipe runs in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from llmcf_cli.core.errors import RecipeError, UnknownNameError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.types import file_refs
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.load import LoadedRecipe
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Context, Stage
from llmcf_cli.stages.collab import Collab
from llmcf_cli.stages.embed import Embed
from llmcf_cli.stages.evaluate import Evaluate
from llmcf_cli.stages.gen_cot import GenCoT
from llmcf_cli.stages.ingest import Ingest
from llmcf_cli.stages.match import Match
from llmcf_cli.stages.train_llm import TrainLLM
from llmcf_cli.stages.train_rec import TrainRec, train_rec_runs
from llmcf_cli.store.artifacts import ArtifactStore
from llmcf_cli.store.assets import Locator, open_assets

STAGES: tuple[type[Stage], ...] = (Ingest, Collab, TrainLLM, GenCoT, Embed, Match, TrainRec, Evaluate)
ARTIFACTS_VARIABLE = "LLMCF_ARTIFACTS"


def stage_names() -> list[str]:
    """Names of the stages, in running order."""
    return [stage.name for stage in STAGES]


def targets(recipe: Recipe, name: str) -> Sequence[Stage]:
    """The stage of that name: for `train-rec` one per arm and seed.

    Raises:
        UnknownNameError: No stage is called so.
    """
    if name == TrainRec.name:
        return train_rec_runs(recipe)
    for stage in STAGES:
        if stage.name == name:
            return (stage(),)
    raise UnknownNameError("stage", name, stage_names())


def artifact_root(folder: Path | None) -> Path:
    """The artifact folder: as given, else `LLMCF_ARTIFACTS`, else `artifacts` here."""
    return (folder or Path(os.environ.get(ARTIFACTS_VARIABLE) or "artifacts")).absolute()


def open_context(loaded: LoadedRecipe, artifacts: Path | None = None, progress: Progress = SILENT) -> Context:
    """Everything a recipe needs to be planned and run.

    Args:
        loaded: The recipe.
        artifacts: Artifact folder, see `artifact_root`.
        progress: Told about assets that are fetched on the way.

    Raises:
        RecipeError: The recipe names assets that no catalogue has, or files that do not exist; all of them.
    """
    assets = open_assets(library_dir(), loaded.base)
    locate = Locator(loaded.base, assets, roots=loaded.roots, progress=progress)
    problems = locate.check(file_refs(loaded.recipe))
    if problems:
        raise RecipeError(problems)
    return Context(
        recipe=loaded.recipe,
        store=ArtifactStore(artifact_root(artifacts)),
        locate=locate,
        models=assets.cache.parent / "models",
    )
