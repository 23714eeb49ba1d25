"""`collab`: train positives → collaborative item vectors, popularity and folds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.store.layout import File, Output
from llmcf_cli.store.open import connect_read


class CollabOutput(Output):
    """Collaborative vectors."""

    vectors = File("collaborative.safetensors", "item vectors, popularity and folds")


@dataclass(frozen=True)
class CollabReport:
    """What was factorised.

    Attributes:
        positives: Train positives.
        items: Items with a vector.
        dim: Numbers in a vector.
        folds: Folds of users.
        variance_kept: Share of the variance that the vectors keep, over all users.
        seconds: Time of fitting and saving.
    """

    positives: int
    items: int
    dim: int
    folds: int
    variance_kept: float
    seconds: float


class Collab(Stage):
    """Factorises who took what, once per fold of users, so that no train row is matched with its own interaction."""

    name = "collab"
    version = 2
    report = CollabReport
    output = CollabOutput

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed, "match.collaborative": recipe.match.collaborative}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(),)

    def run(self, job: Job) -> CollabReport:
        from llmcf_cli.features.collaborative import save_collaborative
        from llmcf_cli.match.collaborative import deal_users, fit_collaborative

        section, started = job.recipe.match.collaborative, time.perf_counter()
        with connect_read(job.database) as connection:
            positives = connection.sql(
                "SELECT user_row, item_row FROM sample WHERE split = 'train' AND label = 1 ORDER BY sample_id"
            ).fetchnumpy()
            fold_of_user_U = deal_users(connection, section.folds, job.recipe.seed)
            ((items,),) = connection.sql("SELECT count(*) FROM item").fetchall()
        found = fit_collaborative(
            positives["user_row"], positives["item_row"], fold_of_user_U, items, dim=section.dim,
            seed=job.recipe.seed, progress=job.progress,
        )  # fmt: skip
        save_collaborative(found, CollabOutput(job.out).vectors)
        count_I = found.count_FI[found.last]
        return CollabReport(
            positives=int(count_I.sum()), items=int((count_I > 0).sum()), dim=found.item_FID.shape[2],
            folds=found.last, variance_kept=round(float(found.variance_kept_F[-1]), 6),
            seconds=round(time.perf_counter() - started, 3),
        )  # fmt: skip
