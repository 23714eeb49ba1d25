"""Tasks that take long, each in a process of its own that may be killed: forks of a server that has the imports."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from llmcf_cli.core.progress import SilentProgress

IMPORTED = (
    "torch", "sklearn", "peft", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
    "llmcf_cli.llm.writing.generate", "llmcf_cli.llm.engines.transformers", "llmcf_cli.llm.asking.teacher",
    "llmcf_cli.llm.tuning.tune", "llmcf_cli.llm.tuning.trainer",
)  # fmt: skip
"""What the tasks import."""


class Loud(SilentProgress):
    """Tells every advance of the long task, so that who listens knows when to kill."""

    def __init__(self, told: Any) -> None:
        self._told = told

    @contextmanager
    def task(self, name: str, total: int | None, unit: str, done: int = 0) -> Iterator[Any]:
        """See `Progress.task`."""
        with super().task(name, total, unit, done) as task:
            if name in ("gen-cot", "train-llm", "teacher"):
                task.advance = lambda amount=1: self._told.send(None) if amount else None
            yield task


def run(task: str, where: Path, out: Path, kill_after: int | None = None) -> dict[str, Any]:
    """The report of a task.

    Args:
        task: `gen-cot`, `teacher` or `tune`.
        where: Folder with a tiny model, data set, mix and prompt.
        out: Folder of the run; one that was killed goes on.
        kill_after: End the process by SIGKILL after so many advances; its exit status is reported as `killed`.
    """
    out.mkdir(exist_ok=True)
    heard, told = multiprocessing.Pipe(duplex=False)
    process = _context().Process(target=_become, args=(task, where, out, told))
    process.start()
    told.close()
    advances = 0
    while kill_after is None or advances < kill_after:
        try:
            report = heard.recv()
        except EOFError:
            process.join()
            raise AssertionError(f"{task} ended without a report, exit status {process.exitcode}") from None
        if report is not None:
            process.join()
            assert process.exitcode == 0
            return dict(report)
        advances += 1
    process.kill()
    process.join()
    return {"killed": process.exitcode}


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED])
    return context


def _become(task: str, where: Path, out: Path, told: Any) -> None:
    import torch

    torch.set_num_threads(1)
    told.send(asdict(TASKS[task](where, out, Loud(told))))


def _tune(where: Path, out: Path, progress: SilentProgress) -> Any:
    from llmcf_cli.llm.config import LoraTuneConfig
    from llmcf_cli.llm.tuning.tune import tune

    config = LoraTuneConfig(
        learning_rate=0.01, dropout=0.2, epochs=2, batch_size=4, save_steps=3, max_length=256, gradient_accumulation=2,
        precision="fp32",
    )  # fmt: skip
    return tune(
        config, model=where / "model", mix=where / "mix.parquet", out=out / "out", work=out / "work", seed=5,
        progress=progress,
    )  # fmt: skip


def _ask_teacher(where: Path, out: Path, progress: SilentProgress) -> Any:
    from llmcf_cli.llm.asking.teacher import ask_teacher
    from llmcf_cli.llm.config import RecommendationMixConfig
    from llmcf_cli.recipe.asking import TeacherSection

    return ask_teacher(
        TeacherSection(max_batch=4, precision="fp32", min_mass=0), RecommendationMixConfig(),
        data=where / "data.duckdb", model=where / "model", model_digest="m", cache=out / "cache.duckdb",
        out=out / "teacher.parquet", seed=5, progress=progress,
    )  # fmt: skip


def _generate(where: Path, out: Path, progress: SilentProgress) -> Any:
    from llmcf_cli.llm.writing.generate import generate_cots
    from llmcf_cli.recipe.dataset import HistorySection
    from llmcf_cli.recipe.prompt import load_prompt
    from llmcf_cli.recipe.sections import CoTSection

    section = CoTSection.model_validate({
        "prompt": "p", "sample": {"count": 20},
        "engine": {"type": "transformers", "max_new_tokens": 16, "samples": 2, "max_batch": 4},
        "judge": {"type": "rubric", "min_words": 1, "min_coherence": 0, "truncated": "keep"},
    })  # fmt: skip
    return generate_cots(
        section, data=where / "data.duckdb", model=where / "model", model_digest="m",
        prompt=load_prompt(where / "prompt.yaml"), cache=out / "cache.sqlite", out=out, history=HistorySection(),
        seed=5, progress=progress,
    )  # fmt: skip


TASKS = {"gen-cot": _generate, "teacher": _ask_teacher, "tune": _tune}
