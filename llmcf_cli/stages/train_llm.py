"""`train-llm`: mix recommendation and general instructions, and tune the model on them (LLM-CF, CIKM 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llmcf_cli.plugin import registry
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Job, Stage
from llmcf_cli.stages.ingest import Ingest


class TrainLLM(Stage):
    """Tunes a causal language model on the recipe's mix."""

    name = "train-llm"
    version = 2

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed, "llm": recipe.llm}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(),)

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.llm.mix import build_mix
        from llmcf_cli.llm.models import context_length, hf_folder, load_tokenizer

        section, mix_file = job.recipe.llm, job.out / "mix.parquet"
        base = hf_folder(job.context.locate.path(section.model), job.context.models, job.progress)
        tokenizer = load_tokenizer(base)
        mix = build_mix(
            section, data=job.database, locate=job.context.locate.path, tokenizer=tokenizer,
            seed=job.recipe.seed, out=mix_file, context=context_length(base, tokenizer), progress=job.progress,
        )  # fmt: skip
        tune = registry().get("tuner", section.tune.type).load()
        tuned = tune(
            section.tune, model=base, mix=mix_file, out=job.out / "model", work=job.work, seed=job.recipe.seed,
            progress=job.progress, launch=job.context.launch,
        )  # fmt: skip
        return {"mix": asdict(mix), "tune": asdict(tuned)}
