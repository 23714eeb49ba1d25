"""`match`: for every sample, the nearest examples that it may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llmcf_cli.core.errors import StoreError
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import MatchSection
from llmcf_cli.stages.base import Job, Stage
from llmcf_cli.stages.collab import read_collaborative
from llmcf_cli.stages.embed import Embed, Examples, space_stages
from llmcf_cli.stages.ingest import Ingest


class Match(Stage):
    """Materialises the top-K examples of all samples, then audits them by SQL that shares no code with the search."""

    name = "match"
    version = 2

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        match = recipe.match
        return {
            "match.space": match.space, "match.search": match.search, "match.k": match.k,
            "match.balance": match.balance, "match.exclude": match.exclude, **_limits(match),
        }  # fmt: skip

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return [Ingest(), Embed(), Examples(), *space_stages(recipe)]

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.match.audit import audit_matches
        from llmcf_cli.match.limits import Limits
        from llmcf_cli.match.materialise import match_samples
        from llmcf_cli.store.open import read_lance

        out = job.out / "example_match.parquet"
        report = match_samples(
            job.recipe.match, data=job.database, history_length=job.recipe.dataset.history.max_length, out=out,
            item_text=read_lance(job.inputs["embed"] / "lance", "item_text"),
            examples=read_lance(job.inputs["examples"] / "lance", "cot_example"),
            collaborative=read_collaborative(job.inputs), progress=job.progress,
        )  # fmt: skip
        limits = Limits(job.recipe.match.max_per_user, job.recipe.match.distinct_items)
        audit = audit_matches(job.database, out, report.clock, job.recipe.match.balance, limits)
        wanted = audit.leaks if job.recipe.match.exclude == "reference" else 0
        if audit.total > wanted:
            found = ", ".join(f"{v.count} × {v.meaning}" for v in audit.violations if v.count)
            raise StoreError(f"matches break the guards and are not kept: {found}", where="match")
        return {"match": asdict(report), "audit": audit.as_dict()}


def _limits(match: MatchSection) -> dict[str, Any]:
    """The limits that are set; without them a key is what it was before there were any."""
    limits = {"match.max_per_user": match.max_per_user, "match.distinct_items": match.distinct_items}
    return {path: value for path, value in limits.items() if value}
