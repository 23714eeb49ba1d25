"""`teacher`: the tuned language model answers the recommendation question for train samples, to be distilled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.llm.asking.reports import TeacherReport
from llmcf_cli.recipe.asking import TeacherSection
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.train_llm import TrainLLM, TrainLLMOutput, recipe_words
from llmcf_cli.store.layout import File, Output

if TYPE_CHECKING:
    from llmcf_cli.llm.config import RecommendationMixConfig


class TeacherOutput(Output):
    """The teacher's scores."""

    scores = File("teacher_score.parquet", "table teacher_score")


class Teacher(Stage):
    """Scores train samples by P(yes); runs where an objective learns from it."""

    name = "teacher"
    version = 3
    report = TeacherReport
    output = TeacherOutput
    reads_texts = True

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed, "teacher": _section(recipe)}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(), TrainLLM())

    def run(self, job: Job) -> TeacherReport:
        from llmcf_cli.llm.asking.teacher import ask_teacher

        model = TrainLLMOutput(job.inputs["train-llm"]).model
        return ask_teacher(
            _section(job.recipe), question_of(job.recipe), data=job.database, model=model,
            model_digest=job.keys["train-llm"], cache=job.context.answers, out=TeacherOutput(job.out).scores,
            seed=job.recipe.seed, words=recipe_words(job.recipe), progress=job.progress,
        )  # fmt: skip


def _section(recipe: Recipe) -> TeacherSection:
    if recipe.teacher is None:
        raise LlmcfError(
            "the recipe has no section `teacher`",
            code="section-missing",
            where="teacher",
            hint="add `teacher: {}` to the recipe",
        )
    return recipe.teacher


def question_of(recipe: Recipe) -> RecommendationMixConfig:
    """The question the model was tuned on; the default one if its mix has none."""
    from llmcf_cli.llm.config import RecommendationMixConfig

    sources = [part.source for part in recipe.language_model.mix]
    return next((s for s in sources if isinstance(s, RecommendationMixConfig)), RecommendationMixConfig())
