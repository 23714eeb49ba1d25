"""What `llmcf audit` says of a run: where its matches break a guard, and what chance would do to its predictions.

Legend: N test samples, K examples, S search space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.progress import Progress
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.plugin import registry
from llmcf_cli.stages.engine.report import from_json
from llmcf_cli.stages.look.made import Made, Predicted, Run, arms_of
from llmcf_cli.stages.look.redraw import drawn_predictions
from llmcf_cli.stages.steps.embed import Examples, ExamplesReport
from llmcf_cli.stages.steps.match import Match, MatchOutput
from llmcf_cli.stages.steps.predict import PredictOutput
from llmcf_cli.stages.steps.train_rec import TrainRec, TrainRecOutput
from llmcf_cli.store.open import read_clock, read_parquet

if TYPE_CHECKING:
    import pyarrow as pa

    from llmcf_cli.data.report import NegativesAudit
    from llmcf_cli.match.reports import AuditReport, Violation
    from llmcf_cli.rec.measure.significance import Paired
    from llmcf_cli.rec.tasks.base import Task

TRAINED, REDRAWN = "trained with random examples", "the same model, given random examples"


@dataclass(frozen=True)
class MatchAudit:
    """The audit of one artifact of matches.

    Attributes:
        made: The artifact.
        arms: Arms that read it.
        examples: Examples there were to find.
        report: What the audit found.
    """

    made: Made
    arms: tuple[str, ...]
    examples: int
    report: AuditReport

    @property
    def on_purpose(self) -> bool:
        """Whether the recipe asks for the published guard, to measure what it leaks."""
        return bool(self.made.manifest.material.get("match.exclude") == "reference")

    @property
    def by_chance(self) -> bool:
        """Whether the examples were drawn at random, so that scores mean nothing."""
        return _is_random(self.made)

    @property
    def broken(self) -> tuple[Violation, ...]:
        """The violations that should not be: all but leaks on purpose."""
        from llmcf_cli.match.reports import LEAKS

        found = (violation for violation in self.report.violations if violation.count)
        return tuple(v for v in found if not (self.on_purpose and v.kind in LEAKS))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "match": self.made.manifest.key, "folder": str(self.made.folder), "arms": self.arms,
            "examples": self.examples, "leaks_on_purpose": self.on_purpose, "broken": sum(v.count for v in self.broken),
            **self.report.as_dict(),
        }  # fmt: skip


@dataclass(frozen=True)
class ChanceEffect:
    """What random examples do to an arm.

    Attributes:
        arm: The arm, with the examples that matching found.
        seed: Its seed.
        how: `TRAINED` or `REDRAWN`.
        measure: What tables call the measure below, the task's main one.
        test: What tables call the test of its difference.
        value: On the test split.
        random_value: That with random examples.
        difference: With random examples minus without.
    """

    arm: str
    seed: int
    how: str
    measure: str
    test: str
    value: float
    random_value: float
    difference: Paired

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def audit_run(run: Run) -> Iterator[MatchAudit]:
    """Check every distinct artifact of matches by SQL.

    Raises:
        StoreError: A file is missing.
    """
    from llmcf_cli.match.audit import audit_matches
    from llmcf_cli.match.limits import Limits

    for made in run.matches:
        database = IngestOutput(made.need("ingest").folder).database
        settings = made.manifest.material
        limits = Limits(settings.get("match.max_per_user"), settings.get("match.distinct_items", False))
        report = audit_matches(
            database, MatchOutput(made.folder).matches, read_clock(database),
            settings["match.balance"], limits, settings["match.exclude"], settings.get("match.query", "row"),
        )  # fmt: skip
        arms = arms_of(run.readers(made))
        examples = from_json(ExamplesReport, made.need(Examples.name).manifest.report).examples
        yield MatchAudit(made, tuple(arms), examples, report)


def negatives_audits(run: Run) -> Iterator[tuple[Made, NegativesAudit]]:
    """The audit of the drawn negatives of every distinct ingest; none where the label draws none."""
    from llmcf_cli.stages.steps.negatives import audit_of

    for made in run.ingests:
        found = audit_of(IngestOutput(made.folder).database, made.manifest.material)
        if found is not None:
            yield made, found


def chance_effects(run: Run, progress: Progress) -> Iterator[ChanceEffect]:
    """How far the main measure of every arm with examples moves on test when they are drawn at random, for one seed.

    Where the run has an arm that differs in `match.search: random` alone, the two are compared. Otherwise the trained
    model scores the test split again with random examples, under the same guards and balance.
    """
    first: dict[str, Predicted] = {}
    for predicted in run.predicted:
        first.setdefault(predicted.arm, predicted)
    reading = {arm: match for arm, p in first.items() if (match := next(p.made.below(Match.name), None))}
    by_chance = {arm for arm, match in reading.items() if _is_random(match)}
    for arm, match in reading.items():
        if arm in by_chance:
            continue
        twin = next((other for other in by_chance if _twins(first[arm], match, first[other], reading[other])), None)
        task = task_of_model(first[arm].made.need(TrainRec.name))
        columns = ["sample_id", "user_row", task.truth.name, *task.predicted]
        stored = read_parquet(PredictOutput(first[arm].made.folder).predictions, columns)
        if twin is not None:
            found_N = task.read(read_parquet(PredictOutput(first[twin].made.folder).predictions, task.predicted))
            how = f"{TRAINED}: {twin}"
        else:
            bundle = TrainRecOutput(first[arm].made.need(TrainRec.name).folder).bundle
            database = IngestOutput(match.need("ingest").folder).database
            found_N = drawn_predictions(bundle, database, task, stored["sample_id"], progress)
            how = REDRAWN
        yield _effect(first[arm], how, task, stored, found_N)


def task_of_model(trained: Made) -> Task:
    """The task that a model was trained for."""
    from llmcf_cli.rec.tasks.base import TASK

    settings = trained.manifest.material["rec.task"]
    settings = {"type": settings} if isinstance(settings, str) else settings
    config = registry().get(TASK, settings["type"]).config()
    return registry().build(TASK, config.model_validate(settings))


def _effect(predicted: Predicted, how: str, task: Task, stored: pa.Table, random_N: Any) -> ChanceEffect:
    if len(random_N) != stored.num_rows:
        raise StoreError(
            "two arms predict different samples", code="predictions-unfit", where=predicted.arm, hint="llmcf run RECIPE"
        )
    truth, measure = task.read_truth(stored), task.main
    found, by_chance = (measure.values(prediction_N, truth) for prediction_N in (task.read(stored), random_N))
    return ChanceEffect(
        predicted.arm, predicted.seed, how, measure.title, measure.test_title, found.total, by_chance.total,
        measure.test(found, by_chance),
    )  # fmt: skip


def _is_random(match: Made) -> bool:
    return bool(match.manifest.material["match.search"]["type"] == "random")


def _twins(first: Predicted, match: Made, other: Predicted, other_match: Made) -> bool:
    """Whether two arms differ in nothing but how their examples were found."""
    same_training = _settings(first.made.need(TrainRec.name)) == _settings(other.made.need(TrainRec.name))
    return same_training and _settings(match, "inputs") == _settings(other_match, "inputs")


def _settings(made: Made, *more: str) -> Mapping[str, Any]:
    """What an artifact was made by, without how examples are found; without its inputs unless they are asked for."""
    left_out = {"match.search", "inputs"} - set(more)
    return {name: value for name, value in made.manifest.material.items() if name not in left_out}
