"""`collab`: train positives → collaborative item vectors, popularity and folds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.store.open import connect_read

if TYPE_CHECKING:
    from llmcf_cli.features.collaborative import Collaborative

COLLABORATIVE = "collaborative.safetensors"
"""File of the vectors, in the stage's folder."""


def read_collaborative(folders: Mapping[str, Path]) -> Collaborative | None:
    """The vectors, where their stage is among the folders (stage → folder)."""
    from llmcf_cli.features.collaborative import load_collaborative

    return load_collaborative(folders[Collab.name] / COLLABORATIVE) if Collab.name in folders else None


class Collab(Stage):
    """Factorises who took what, once per fold of users, so that no train row is matched with its own interaction."""

    name = "collab"
    version = 1

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed, "match.collaborative": recipe.match.collaborative}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(),)

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.features.collaborative import save_collaborative
        from llmcf_cli.match.collaborative import fit_collaborative

        section, started = job.recipe.match.collaborative, time.perf_counter()
        with connect_read(job.database) as connection:
            positives = connection.sql(
                "SELECT user_row, item_row FROM sample WHERE split = 'train' AND label = 1 ORDER BY sample_id"
            ).fetchnumpy()
            sizes = connection.sql('SELECT (SELECT count(*) FROM "user"), (SELECT count(*) FROM item)').fetchall()[0]
        found = fit_collaborative(
            positives["user_row"], positives["item_row"], *sizes, dim=section.dim, folds=section.folds,
            seed=job.recipe.seed, progress=job.progress,
        )  # fmt: skip
        save_collaborative(found, job.out / COLLABORATIVE)
        count_I = found.count_FI[found.last]
        return {
            "positives": int(count_I.sum()), "items": int((count_I > 0).sum()), "dim": found.item_FID.shape[2],
            "folds": found.last, "variance_kept": round(float(found.variance_kept_F[-1]), 6),
            "seconds": round(time.perf_counter() - started, 3),
        }  # fmt: skip
