"""`match`: for every sample, the nearest examples that it may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.progress import Progress
from llmcf_cli.core.types import key_view
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.data.report import NegativesAudit
from llmcf_cli.match.config import AnnSearchConfig
from llmcf_cli.match.own_item import OwnItemShift, own_item_shift
from llmcf_cli.match.reports import AuditReport, MatchReport
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import MatchSection
from llmcf_cli.stages.engine.base import Context, Job, Node, Stage
from llmcf_cli.stages.steps.embed import Embed, EmbedOutput, Examples, ExamplesOutput
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.negatives import stored_audit
from llmcf_cli.store.artifacts import KEY_LENGTH
from llmcf_cli.store.layout import File, Output

if TYPE_CHECKING:
    from llmcf_cli.match.materialise import ExampleStore
    from llmcf_cli.match.recall import Tuned


class MatchOutput(Output):
    """The examples of every sample."""

    matches = File("example_match.parquet", "table example_match")


@dataclass(frozen=True)
class MatchStageReport:
    """What was matched, and what the audits of matches and of drawn negatives found.

    Attributes:
        match: The search.
        audit: Of the matches.
        negatives: Of the negatives; None where the label draws none.
        own_item: What examples of a sample's own item tell in train and on validation; None where that cannot be
            measured, and in results of earlier versions.
    """

    match: MatchReport
    audit: AuditReport
    negatives: NegativesAudit | None
    own_item: OwnItemShift | None = None


class Match(Stage):
    """Materialises the top-K examples of all samples, then audits them by SQL that shares no code with the search."""

    name = "match"
    version = 2
    report = MatchStageReport
    output = MatchOutput

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        match = recipe.match
        return {
            "match.space": match.space, "match.search": match.search, "match.k": match.k,
            "match.balance": match.balance, "match.exclude": match.exclude, **_changed(match),
        }  # fmt: skip

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return [Ingest(), Embed(), Examples()]

    def run(self, job: Job) -> MatchStageReport:
        from llmcf_cli.match.audit import audit_matches
        from llmcf_cli.match.guard import limits_of
        from llmcf_cli.match.materialise import match_samples

        out = MatchOutput(job.out).matches
        report = match_samples(
            job.recipe.match, data=job.database, history_length=job.recipe.dataset.history.max_length, out=out,
            store=_shared_store(job), keep=index_folder(job.context, job.keys), progress=job.progress,
            executor=job.context.executor,
        )  # fmt: skip
        match = job.recipe.match
        audit = audit_matches(
            job.database, out, report.clock, match.balance, limits_of(match), match.exclude, match.query
        )
        wanted = audit.leaks if match.exclude == "reference" else 0
        if audit.total > wanted:
            found = ", ".join(f"{v.count} × {v.meaning}" for v in audit.violations if v.count)
            raise StoreError(
                f"matches break the guards and were not kept: {found}", code="guards-broken", where="match"
            )
        dataset = job.recipe.dataset
        negatives = stored_audit(job.database, dataset.label, dataset.repeats, job.recipe.seed)
        if negatives is not None and negatives.violations:
            what = f"{negatives.violations:,} negatives are items that should not be drawn"
            raise StoreError(what, code="guards-broken", where="ingest", hint="llmcf run RECIPE --force ingest")
        return MatchStageReport(report, audit, negatives, own_item_shift(job.database, out))


def index_folder(context: Context, keys: Mapping[str, str]) -> Path:
    """Where approximate indexes of a space stay between runs: a larger set of examples extends what is there."""
    space = key_view(context.recipe.match.space, context.locate.digest)
    inputs = {role: key for role, key in keys.items() if role in ("ingest", "embed")}
    return (
        context.store.root.absolute() / "cache" / "match" / digest_json({"space": space, "inputs": inputs})[:KEY_LENGTH]
    )


def tune(context: Context, nodes: Sequence[Node], recall: float, progress: Progress) -> Tuned:
    """Measure settings of approximate search on the results of the stages before `match`.

    Args:
        context: The run's recipe and stores; where the recipe's search is another, the defaults of `ann` are measured.
        nodes: The stages that `match` needs, complete.
        recall: Share of the exact result that is wanted.
        progress: Where to report.

    Raises:
        LlmcfError: No setting reaches it.
    """
    from llmcf_cli.match.materialise import SampleSearch, tune_search
    from llmcf_cli.store.open import read_clock

    for node in nodes:
        node.check()
    inputs = {node.stage.role: node.folder for node in nodes}
    section, recipe = context.recipe.match, context.recipe
    if not isinstance(section.search, AnnSearchConfig):
        section = section.model_copy(update={"search": AnnSearchConfig()})
    data = IngestOutput(inputs["ingest"]).database
    search = SampleSearch(
        section, read_clock(data), _store(inputs), recipe.dataset.history.max_length,
        index_folder(context, {node.stage.role: node.key for node in nodes}), progress,
    )  # fmt: skip
    return tune_search(search, data, recall)


def _store(inputs: Mapping[str, Path]) -> ExampleStore:
    """Absolute, so that it means the same on every node that has the folder."""
    from llmcf_cli.match.materialise import ExampleStore

    return ExampleStore(
        EmbedOutput(inputs["embed"].absolute()).lance, ExamplesOutput(inputs["examples"].absolute()).lance
    )


def _shared_store(job: Job) -> ExampleStore:
    """Where the workers read the examples: a copy by key, where they do not share the artifact folder."""
    store, shared = _store(job.inputs), job.context.shared
    if shared is None:
        return store
    items, examples = (f"{shared.rstrip('/')}/{stage}/{job.keys[stage]}" for stage in ("embed", "examples"))
    return store.copied(items, examples)


def _changed(match: MatchSection) -> dict[str, Any]:
    """The limits that are set, and a query that is not the whole row; without, a key is what it was before them."""
    limits = {"match.max_per_user": match.max_per_user, "match.distinct_items": match.distinct_items}
    changed = {path: value for path, value in limits.items() if value}
    return changed if match.query == "row" else {**changed, "match.query": match.query}
