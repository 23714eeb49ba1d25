"""`train-llm`: mix recommendation and general instructions, and tune the model on them (LLM-CF, CIKM 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.llm.mix.reports import MixReport
from llmcf_cli.llm.tuning.run import TuneReport
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.words import Words, words_of
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.store.layout import File, Output


def recipe_words(recipe: Recipe) -> Words:
    """What a recipe's prompts say that users did, and call what histories hold."""
    return words_of(recipe.dataset.label, recipe.dataset.history.events)


class TrainLLMOutput(Output):
    """The tuned model and what it learned from."""

    mix = File("mix.parquet", "the tuning mix")
    model = File("model", "the tuned model, in Hugging Face format")


@dataclass(frozen=True)
class TrainLLMReport:
    """What the model was tuned on, and how.

    Attributes:
        mix: The data.
        tune: The training.
    """

    mix: MixReport
    tune: TuneReport


class TrainLLM(Stage):
    """Tunes a causal language model on the recipe's mix."""

    name = "train-llm"
    version = 3
    report = TrainLLMReport
    output = TrainLLMOutput
    tracked = True
    reads_texts = True

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed, "llm": recipe.language_model}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(),)

    def run(self, job: Job) -> TrainLLMReport:
        from llmcf_cli.llm.mix.build import build_mix
        from llmcf_cli.llm.models.load import context_length, hf_folder, load_tokenizer
        from llmcf_cli.llm.tuning.run import TUNER

        section, out = job.recipe.language_model, TrainLLMOutput(job.out)
        base = hf_folder(job.context.locate.path(section.model), job.context.models, job.progress)
        tokenizer = load_tokenizer(base)
        mix = build_mix(
            section, data=job.database, locate=job.context.locate.path, tokenizer=tokenizer,
            seed=job.recipe.seed, out=out.mix, words=recipe_words(job.recipe),
            blank_texts=job.recipe.dataset.limits.blank_texts, context=context_length(base, tokenizer),
            progress=job.progress,
        )  # fmt: skip
        tuned = registry().build(
            TUNER, section.tune, model=base, mix=out.mix, out=out.model, work=job.work, seed=job.recipe.seed,
            progress=job.progress, launch=job.context.launch,
        )  # fmt: skip
        return TrainLLMReport(mix, tuned)
