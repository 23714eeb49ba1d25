"""Chains of thought by an engine that writes from the data: no prompt, no cache, no cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.progress import Progress, Task
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.llm.engines.base import DATA_ENGINE, Ingested
from llmcf_cli.llm.prompts.rows import SampleTexts, choose_train, sample_texts
from llmcf_cli.llm.writing.judge import JUDGE, Judged
from llmcf_cli.llm.writing.select import Selector, Tally
from llmcf_cli.llm.writing.steps import Asked
from llmcf_cli.llm.writing.texts import Ask, Candidate
from llmcf_cli.llm.writing.workers import CallState
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.sections import CoTSection
from llmcf_cli.recipe.words import Words
from llmcf_cli.store.open import connect_read

STEP = "data"
"""Name of the one part of such a text."""
_BLOCK = 2048


class WrittenTexts:
    """The texts of a block of samples, as a `Selector` reads those of a cache: one a prompt, drawn never again."""

    samples = 1
    draws = False

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def put(self, asks: Sequence[Ask], texts: Sequence[str]) -> None:
        """Replace what there was."""
        self._texts = {ask.prompt_hash: text for ask, text in zip(asks, texts, strict=True)}

    def candidates(self, asks: Sequence[Ask], *, rounds: int = 1) -> dict[str, list[Candidate]]:
        """The text of each prompt."""
        return {ask.prompt_hash: [Candidate(0, self._texts[ask.prompt_hash], "stop", 0, 0)] for ask in asks}

    def complete(self, asks: Sequence[Ask], task: Task, *, round_: int = 0) -> None:
        """Nothing: each sample has its text."""

    def set_aside(self, asks: Sequence[Ask]) -> Mapping[str, CallState]:
        """None: nothing can fail."""
        return {}


def write_cots(
    section: CoTSection, *, data: Path, source: ComponentConfig, out: Path, seed: int, words: Words, progress: Progress,
    since: int | None = None,
) -> tuple[int, Tally, float]:  # fmt: skip
    """Write, judge and keep the chain of thought of each chosen train sample; tables as `generate_cots`.

    Args:
        section: The recipe's `cot`.
        data: DuckDB file of ingest.
        source: The recipe's `dataset.source`.
        out: Folder to write the tables to.
        seed: The recipe's seed.
        words: Of the label.
        progress: Where to report.
        since: As of `generate_cots`.

    Returns:
        Samples chosen, what became of them, and seconds spent writing.

    Raises:
        LlmcfError: More samples are asked for than the train split has, or the engine cannot write about these data.
    """
    engine = registry().build(DATA_ENGINE, section.engine)
    engine.open(Ingested(data, source, words, derive_seed(seed, "gen-cot", "decode")))
    judge = registry().build(JUDGE, section.judge)
    texts, seconds = WrittenTexts(), 0.0

    def about(one: Asked, finish_reason: str) -> Judged:
        return Judged("", one.row.history, one.row.item, one.row.label, (), finish_reason, words)

    with connect_read(data) as reader:
        ids = choose_train(reader, section.sample, derive_seed(seed, "gen-cot", "sample"), "cot.sample", since)
        selector = Selector(texts, STEP, judge, about, floor=section.floor, rounds=0, out=out, words=words)
        with selector, progress.task("gen-cot", len(ids), "samples") as task:
            for start in range(0, len(ids), _BLOCK):
                rows = sample_texts(reader, ids[start : start + _BLOCK])
                asked = [_asked(row, section.engine) for row in rows]
                started = time.perf_counter()
                texts.put([one.ask for one in asked], engine.write(rows))
                seconds += time.perf_counter() - started
                selector.select(asked, task)
                task.advance(len(rows))
    return len(ids), selector.tally, seconds


def _asked(row: SampleTexts, engine: ComponentConfig) -> Asked:
    """What stands for a prompt: the sample, and who writes."""
    key = digest_json({"engine": engine.type, "sample": row.sample_id})
    return Asked(row, Ask([], key, 0, False), (), "")
