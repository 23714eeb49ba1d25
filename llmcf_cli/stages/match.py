"""`match`: for every sample, the nearest examples that it may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llmcf_cli.core.errors import StoreError
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Job, Stage
from llmcf_cli.stages.embed import Embed
from llmcf_cli.stages.ingest import Ingest


class Match(Stage):
    """Materialises the top-K examples of all samples, then audits them by SQL that shares no code with the search."""

    name = "match"
    version = 1

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        match = recipe.match
        return {
            "match.space": match.space, "match.search": match.search, "match.k": match.k, "match.balance": match.balance
        }  # fmt: skip

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(), Embed())

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.match.audit import audit_matches
        from llmcf_cli.match.materialise import match_samples

        lance, out = job.inputs["embed"] / "lance", job.out / "example_match.parquet"
        report = match_samples(
            job.recipe.match, data=job.database, lance=lance, history_length=job.recipe.dataset.history.max_length,
            out=out, progress=job.progress,
        )  # fmt: skip
        audit = audit_matches(job.database, out, report.clock, job.recipe.match.balance)
        if audit.total:
            found = ", ".join(f"{v.count} × {v.meaning}" for v in audit.violations if v.count)
            raise StoreError(f"matches break the guards and are not kept: {found}", where="match")
        return {"match": asdict(report), "audit": audit.as_dict()}
