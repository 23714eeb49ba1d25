"""`ability` and `eval-llm`: what the language model can do, before its tuning and after, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from llmcf_cli.core.types import Config, FilePath
from llmcf_cli.llm.asking.reports import Estimate
from llmcf_cli.recipe.asking import AbilitySection
from llmcf_cli.recipe.points import recommendation_source
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.engine.report import to_json
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.teacher import question_of
from llmcf_cli.stages.steps.train_llm import TrainLLM, TrainLLMOutput, recipe_words
from llmcf_cli.store.layout import File, Output
from llmcf_cli.store.open import read_parquet, write_parquet
from llmcf_cli.store.tables import ABILITY, ABILITY_ANSWER, ABILITY_ITEM

if TYPE_CHECKING:
    from pathlib import Path

    from llmcf_cli.llm.asking.ability import Measured

Which = Literal["base", "tuned"]
BASE: Which = "base"
TUNED: Which = "tuned"
NO_RECOMMENDATION = (
    "llm.mix has no recommendation source: the model was not tuned on the recommendation question, so its AUC and "
    "logloss show the effect of tuning on the other data."
)


class AbilityOutput(Output):
    """A model's answers."""

    answers = File("ability_answer.parquet", "table ability_answer")
    items = File("ability_item.parquet", "table ability_item")


class TablesOutput(Output):
    """Models side by side."""

    table = File("ability.parquet", "table ability")
    report = File("ability.json", "the report")
    page = File("ability.md", "the report as tables")


class EvalLLMOutput(TablesOutput):
    """The model before and after tuning."""

    picture = File("ability.png", "every measure, as a picture", optional=True)
    plot = File("ability.html", "the same to look into", optional=True)


@dataclass(frozen=True)
class AbilityReport:
    """What one model can do.

    Attributes:
        model: `base` or `tuned`.
        precision: That the model answered in.
        measures: Name → value.
        mass: Mean of P(yes) + P(no).
        alarm: That the model answers something else; empty where it does not.
        samples: Recommendation questions answered.
        too_long: Those that do not fit even without any history.
        histories_shortened: Those without their oldest history.
        asked: Questions put to the model by this run.
        cached: Questions whose answer was in the cache.
        questions_per_second: Of this run.
        seconds: Time of this run.
    """

    model: str
    precision: str
    measures: dict[str, Estimate]
    mass: float
    alarm: str
    samples: int
    too_long: int
    histories_shortened: int
    asked: int
    cached: int
    questions_per_second: float
    seconds: float


@dataclass(frozen=True)
class EvalLLMReport:
    """The model before and after tuning; also what `ability.json` holds.

    Attributes:
        split: Of the recommendation samples.
        rows: Per model, base first: `name`, `measures` and `differences` from the base model.
        alarms: What makes the measures doubtful.
        notes: What was not measured, and why.
    """

    split: str
    rows: list[dict[str, Any]]
    alarms: list[str]
    notes: list[str]


class _BaseModel(Config):
    """The model before tuning, as key material."""

    model: FilePath
    """`llm.model`."""


@dataclass(frozen=True)
class Ability(Stage):
    """Asks one language model everything once; the base model's answers are shared by all recipes that tune it.

    Attributes:
        model: The model before or after tuning.
        point: The point of the sweep `balance` whose mix it is tuned on; empty: the recipe's own.
    """

    model: Which = TUNED
    point: str = ""

    name = "ability"
    version = 2
    report = AbilityReport
    output = AbilityOutput

    @property
    def variant(self) -> str:
        return self.point or self.model

    @property
    def role(self) -> str:
        return self.label

    @property
    def owner(self) -> str:
        return self.point

    def view(self, recipe: Recipe) -> Recipe:
        return recipe.at(self.point) if self.point in recipe.points else recipe

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        found = {
            "seed": recipe.seed, "question": _question(recipe),
            "ability": recipe.ability.model_copy(update={"question": None}),
        }  # fmt: skip
        return found | ({"llm": _BaseModel(model=recipe.language_model.model)} if self.model == BASE else {})

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(),) if self.model == BASE else (Ingest(), TrainLLM())

    def run(self, job: Job) -> AbilityReport:
        from llmcf_cli.llm.asking.ability import recommendation_answers
        from llmcf_cli.llm.asking.reading import Reader
        from llmcf_cli.llm.asking.tables import mass_alarm
        from llmcf_cli.llm.models.load import resolved_precision

        section, started = job.recipe.ability, time.monotonic()
        folder, digest = self._model(job)
        reader = Reader(folder, section.precision)
        found = recommendation_answers(
            section, _question(job.recipe), reader, data=job.database, model_digest=digest, cache=job.context.answers,
            seed=job.recipe.seed, words=recipe_words(job.recipe), progress=job.progress,
        )  # fmt: skip
        write_parquet(
            pa.table({
                "sample_id": found.sample_id_N, "label": found.label_N, "logit": found.logit_N, "mass": found.mass_N,
            }),
            ABILITY_ANSWER, AbilityOutput(job.out).answers,
        )  # fmt: skip
        write_parquet(_general(section, reader, job), ABILITY_ITEM, AbilityOutput(job.out).items)
        measured, mass = read_measured(self.variant, job.out), float(found.mass_N.mean())
        return AbilityReport(
            model=self.model, precision=resolved_precision(section.precision), measures=measures_of(measured),
            mass=mass, alarm=mass_alarm(self.variant, mass, section.min_mass) if mass < section.min_mass else "",
            samples=len(found.label_N), too_long=found.tally.too_long, histories_shortened=found.tally.shortened,
            asked=found.tally.asked, cached=found.tally.cached, questions_per_second=found.tally.rate,
            seconds=time.monotonic() - started,
        )  # fmt: skip

    def _model(self, job: Job) -> tuple[Path, str]:
        """The model's folder and what names its content."""
        from llmcf_cli.llm.models.load import hf_folder

        if self.model == TUNED:
            return TrainLLMOutput(job.inputs[TrainLLM.name]).model, job.keys[TrainLLM.name]
        locate, model = job.context.locate, job.recipe.language_model.model
        return hf_folder(locate.path(model), job.context.models, job.progress), locate.digest(model)


class EvalLLM(Stage):
    """Compares the language model after tuning with what it was before."""

    name = "eval-llm"
    version = 4
    report = EvalLLMReport
    output = EvalLLMOutput

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {}

    def needs(self, recipe: Recipe) -> Sequence[Ability]:
        return (Ability(BASE), Ability(TUNED))

    def run(self, job: Job) -> EvalLLMReport:
        from llmcf_cli.llm.asking.plots import plot_models
        from llmcf_cli.llm.asking.tables import NO_GENERAL, markdown, mass_alarms

        models = [read_measured(stage.model, job.inputs[stage.role]) for stage in self.needs(job.recipe)]
        recipe = job.recipe
        notes = {
            NO_RECOMMENDATION: recommendation_source(recipe.language_model) is None,
            NO_GENERAL: recipe.ability.data is None,
        }
        said = [note for note, true in notes.items() if true]
        rows = compare(models)
        alarms = mass_alarms(rows, recipe.ability.min_mass)
        report = EvalLLMReport(recipe.ability.split, rows, alarms, said)
        plain = to_json(report)
        write_tables(plain, markdown(plain), job.out)
        plot_models(plain, job.out)
        return report


def compare(models: Sequence[Measured]) -> list[dict[str, Any]]:
    """A row per model, the base model first: `name`, `measures`, and `differences` from the base model."""
    from llmcf_cli.llm.asking.ability import differences
    from llmcf_cli.rec.measure.significance import delong

    def contrast(label_N: Any, first_N: Any, second_N: Any) -> tuple[float, float]:
        found = delong(label_N, first_N, second_N)
        return found.difference, found.standard_error

    return [
        {
            "name": model.name, "measures": {name: asdict(e) for name, e in measures_of(model).items()},
            "differences": {name: asdict(e) for name, e in differences(model, models[0], contrast).items()},
        }
        for model in models
    ]  # fmt: skip


def measures_of(model: Measured) -> dict[str, Estimate]:
    """Every measure of a model, see `llm.ability.measures`; the AUC's standard error is DeLong's."""
    from sklearn.metrics import roc_auc_score

    from llmcf_cli.llm.asking.ability import measures
    from llmcf_cli.rec.measure.significance import auc_standard_error, placements

    error = auc_standard_error(model.label_N, placements(model.label_N, model.logit_N))
    return measures(model, Estimate(float(roc_auc_score(model.label_N, model.logit_N)), error, len(model.label_N)))


def read_measured(name: str, folder: Path) -> Measured:
    """What `ability` left in a folder."""
    from llmcf_cli.llm.asking.ability import Measured

    output = AbilityOutput(folder)
    answers, items = read_parquet(output.answers), read_parquet(output.items)
    groups = items.group_by(["task", "metric"], use_threads=False).aggregate([("value", "list")]).to_pylist()
    values = {(group["task"], group["metric"]): np.array(group["value_list"]) for group in groups}
    label_N = answers["label"].to_numpy().astype(np.float32)
    return Measured(name, label_N, answers["logit"].to_numpy(), answers["mass"].to_numpy(), values)


def write_tables(report: dict[str, Any], markdown: str, out: Path) -> None:
    """The files of `TablesOutput`."""
    from llmcf_cli.llm.asking.tables import unit

    rows = [
        {"model": row["name"], "measure": name, "unit": unit(name), **estimate}
        for row in report["rows"]
        for name, estimate in row["measures"].items()
    ]
    output = TablesOutput(out)
    write_parquet(pa.Table.from_pylist(rows, ABILITY.schema), ABILITY, output.table)
    output.report.write_text(json.dumps(report, indent=2) + "\n")
    output.page.write_text(markdown)


def _question(recipe: Recipe) -> Any:
    return recipe.ability.question or question_of(recipe)


def _general(section: AbilitySection, reader: Any, job: Job) -> pa.Table:
    from llmcf_cli.llm.asking.ability import general_answers

    if section.data is None:
        return ABILITY_ITEM.schema.empty_table()
    folder = job.context.locate.path(section.data)
    return general_answers(section, folder, reader, seed=job.recipe.seed, work=job.work, progress=job.progress)
