"""Chains of thought for a sample of the train interactions (LLM-CF, CIKM 2024).

Texts come from the cache of `llm.texts`: a killed run loses at most one batch, and a larger sample reuses what a
smaller one generated. What they will cost is said first (`llm.cost`); which are kept, `llm.select` decides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.llm.engines.base import Engine
from llmcf_cli.llm.prompts.rows import blank_items, choose_train, refuse_blank, sample_texts
from llmcf_cli.llm.writing.cost import Demand, Estimate, Load, announce, demand, estimate, spent
from llmcf_cli.llm.writing.judge import JUDGE, Judged
from llmcf_cli.llm.writing.reports import CoTReport
from llmcf_cli.llm.writing.scripted import write_cots
from llmcf_cli.llm.writing.select import Selector, Tally
from llmcf_cli.llm.writing.steps import TOO_LONG, Asked, Asking, StepPrompts, check_turns, plan_calls
from llmcf_cli.llm.writing.texts import Answers, Batch
from llmcf_cli.llm.writing.travel import StepCalls
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.llm.writing.writer import Writer
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.dataset import HistorySection
from llmcf_cli.recipe.prompt import Prompt
from llmcf_cli.recipe.sections import CoTSection
from llmcf_cli.recipe.words import Words
from llmcf_cli.scale import LOCAL, Executor, Pool
from llmcf_cli.store.open import connect_read

_BLOCK = 2048  # samples whose prompts are held in memory, and sorted by length, together
_MEASURED = 512  # of more samples than a block, those that the estimate rests on


class _Announcement:
    """Says what a run will cost once its first missing text is met; if all are there, nothing is measured.

    Attributes:
        found: What it said; before that, that nothing is to be made.
    """

    def __init__(self, measure: Callable[[], list[Demand]], section: CoTSection, progress: Progress) -> None:
        self._measure: Callable[[], list[Demand]] | None = measure
        self._price, self._progress = section.price, progress
        self.found = estimate([], section.price)

    def make(self, warm_up: Callable[[], None]) -> None:
        """Say it, the first time."""
        if self._measure is not None:
            measure, self._measure = self._measure, None
            self.found = announce(measure(), warm_up, self._price, self._progress)


def generate_cots(
    section: CoTSection, *, data: Path, model: Path | None, model_digest: str, prompt: Prompt, cache: Path, out: Path,
    seed: int, history: HistorySection, words: Words = Words(), progress: Progress = SILENT,
    blank_texts: float = 0.9, executor: Executor = LOCAL, since: int | None = None,
) -> CoTReport:  # fmt: skip
    """Write the chain of thought of each chosen train sample to Parquet (`cot`), with its parts (`cot_part`).

    Beside it, every text that was judged (`cot_candidate`) and the samples without any good one (`cot_dropped`).
    Several processes may do the same at once: they share the calls.

    Args:
        section: The recipe's `cot`.
        data: DuckDB file of ingest.
        model: Folder of the model in Hugging Face format; None for an engine that needs none.
        model_digest: Names the model's content in the cache.
        prompt: What is asked.
        cache: SQLite file of generated texts, shared between runs.
        out: Folder to write the tables to.
        seed: The recipe's seed.
        history: What histories hold, as ingest built them.
        words: Of the label.
        progress: Where to report.
        blank_texts: Share of the samples that may have an item without text.
        executor: Where engines generate. This process is the one worker that the cache knows: it leases the calls,
            hands them out in batches and commits what comes back.
        since: Only train samples from this time on, in microseconds since 1970; None: all.

    Raises:
        LlmcfError: More samples are asked for than the train split has, or no text was usable.
        ModelError: The model cannot be loaded.
        StoreError: Another process holds the cache and does not let go of it.
    """
    writer = Writer(section.engine, model)
    judge = registry().build(JUDGE, section.judge)
    with connect_read(data) as reader, SharedTexts(cache) as store, executor.pool(writer) as pool:
        ids = choose_train(reader, section.sample, derive_seed(seed, "gen-cot", "sample"), "cot.sample", since)
        blank = blank_items(reader, ids)
        refuse_blank(blank, len(ids), blank_texts, "gen-cot")
        check_turns(prompt, writer.engine, f"cot.prompt {section.prompt}")
        prompts = StepPrompts(prompt, reader, history, words)
        asking = _asking(section, prompts, writer.engine, store, model_digest, seed, pool)
        announcement = _Announcement(partial(_demand, reader, ids, asking, prompt, history, seed), section, progress)
        selector = Selector(
            asking.last, prompt.last.name, judge, partial(_about, prompt, words), floor=section.floor,
            rounds=section.regenerate, out=out, words=words,
        )  # fmt: skip
        with selector, progress.task("gen-cot", len(ids), "samples") as task:
            for start in range(0, len(ids), _BLOCK):
                rows = sample_texts(reader, ids[start : start + _BLOCK])
                asking.before_first(partial(announcement.make, partial(asking.warm_up, rows)))
                selector.select(asking.ask(rows, task), task)
            selector.drop({sample: f"step {step}" for sample, step in asking.too_long.items()}, TOO_LONG)
    if not selector.tally.kept:
        raise _unusable(len(ids), selector.tally)
    return _report(len(ids), blank, selector.tally, asking, announcement.found, section)


def write_from_data(
    section: CoTSection, *, data: Path, source: ComponentConfig, out: Path, seed: int, words: Words = Words(),
    progress: Progress = SILENT, since: int | None = None,
) -> CoTReport:  # fmt: skip
    """The same tables, by an engine that writes from the data and not from prompts; arguments as `write_cots`.

    Raises:
        LlmcfError: More samples are asked for than the train split has, or no text was usable.
    """
    chosen, tally, seconds = write_cots(
        section, data=data, source=source, out=out, seed=seed, words=words, progress=progress, since=since
    )
    if not tally.kept:
        raise _unusable(chosen, tally)
    nothing = estimate([], section.price).report()
    return CoTReport(
        wanted=chosen, kept=tally.kept, regenerated=0, rescued=0, dropped=dict(tally.dropped), set_aside={}, failed=0,
        generated=chosen, cached=0, cut_off=tally.cut_off, histories_shortened=0, blank=0, changed={}, prompt_tokens=0,
        new_tokens=0, seconds=seconds, tokens_per_second=0.0, steps={}, estimate=nothing, actual=nothing,
        scores=tally.means, examples=tally.examples,
    )  # fmt: skip


def estimate_cots(
    section: CoTSection, *, data: Path, model: Path | None, model_digest: str, prompt: Prompt, cache: Path, seed: int,
    history: HistorySection, words: Words = Words(), since: int | None = None,
) -> Estimate:  # fmt: skip
    """What `generate_cots` with the same arguments would cost; generates nothing and leaves the cache as it is."""
    engine = Writer(section.engine, model).engine
    with tempfile.TemporaryDirectory() as nothing:
        there = cache.is_file() or cache.with_suffix(".duckdb").is_file()
        file = cache if there else Path(nothing) / cache.name
        with connect_read(data) as reader, SharedTexts(file) as store:
            ids = choose_train(reader, section.sample, derive_seed(seed, "gen-cot", "sample"), "cot.sample", since)
            asking = _asking(section, StepPrompts(prompt, reader, history, words), engine, store, model_digest, seed)
            return estimate(_demand(reader, ids, asking, prompt, history, seed), section.price)


def list_calls(
    section: CoTSection, *, data: Path, model: Path | None, model_digest: str, prompt: Prompt, cache: Path, seed: int,
    history: HistorySection, words: Words = Words(), since: int | None = None, users: Collection[int] | None = None,
) -> list[StepCalls]:  # fmt: skip
    """What `generate_cots` with the same arguments asks, step by step, as far as earlier steps' texts are there.

    Args:
        users: Rows of the users whose samples are meant; None: of all.
    """
    engine = Writer(section.engine, model).engine
    with connect_read(data) as reader, SharedTexts(cache) as store:
        ids = choose_train(reader, section.sample, derive_seed(seed, "gen-cot", "sample"), "cot.sample", since)
        if users is not None:
            ids = _of_users(reader, ids, users)
        asking = _asking(section, StepPrompts(prompt, reader, history, words), engine, store, model_digest, seed)
        found: dict[str, dict[str, None]] = {step.name: {} for step in prompt.steps}
        for start in range(0, len(ids), _BLOCK):
            for name, asks in asking.preview(sample_texts(reader, ids[start : start + _BLOCK])).items():
                found[name].update(dict.fromkeys(ask.prompt_hash for ask in asks))
    return [
        StepCalls(
            step.name, "item" if step.per == "item" else "user", *asking.texts[step.name].names,
            prompts=tuple(found[step.name]), samples=asking.texts[step.name].samples,
        )
        for step in prompt.steps
    ]  # fmt: skip


def _of_users(reader: Any, ids: np.ndarray, users: Collection[int]) -> np.ndarray:
    """Those of some samples that are of some users."""
    rows = reader.execute(
        "SELECT sample_id FROM sample WHERE user_row IN (SELECT unnest(?::INTEGER[]))", [sorted(users)]
    ).fetchnumpy()["sample_id"]
    return ids[np.isin(ids, rows)]


def retry_set_aside(
    section: CoTSection, *, data: Path, model: Path | None, model_digest: str, prompt: Prompt, cache: Path, seed: int,
    history: HistorySection, words: Words = Words(),
) -> None:  # fmt: skip
    """Give the calls that were set aside, with this model and these settings, all their tries again."""
    engine = Writer(section.engine, model).engine
    with connect_read(data) as reader, SharedTexts(cache) as store:
        asking = _asking(section, StepPrompts(prompt, reader, history, words), engine, store, model_digest, seed)
        for texts in asking.texts.values():
            texts.forget_failures()


def _asking(
    section: CoTSection, prompts: StepPrompts, engine: Engine, store: SharedTexts, model_digest: str, seed: int,
    pool: Pool[Batch, Answers] | None = None,
) -> Asking:  # fmt: skip
    decode = derive_seed(seed, "gen-cot", "decode")
    return Asking(prompts, engine, store, model_digest, decode, tries=section.tries, pool=pool)


def _demand(
    reader: Any, ids: np.ndarray, asking: Asking, prompt: Prompt, history: HistorySection, seed: int
) -> list[Demand]:
    """Of each step: by all samples if they are few, else by a random part of them."""
    chosen = ids
    if len(ids) > _BLOCK:
        chance = np.random.default_rng(derive_seed(seed, "gen-cot", "estimate"))
        chosen = np.sort(chance.choice(ids, _MEASURED, replace=False))
    parts = asking.preview(sample_texts(reader, chosen))
    if len(chosen) == len(ids):
        return [demand(Load(len(parts[name]), parts[name], texts)) for name, texts in asking.texts.items()]
    calls = plan_calls(prompt, reader, ids.tolist(), history=history, samples=1)
    return [demand(Load(calls[name], parts[name], texts)) for name, texts in asking.texts.items()]


def _about(prompt: Prompt, words: Words, one: Asked, finish_reason: str) -> Judged:
    """What a text is judged against; the decision only where the prompt tells it."""
    told = one.row.label if "decision" in prompt.variables else None
    return Judged(one.given, one.row.history, one.row.item, told, prompt.sections, finish_reason, words)


def _unusable(wanted: int, tally: Tally) -> LlmcfError:
    reasons = ", ".join(f"{count} {reason}" for reason, count in (tally.dropped | tally.set_aside).items())
    return LlmcfError(
        f"none of {wanted} chains of thought is usable: {reasons}", code="cot-none-usable", where="gen-cot",
        hint="check the prompt and the model (llmcf cot preview RECIPE) and cot.floor; raise "
        "cot.engine.max_new_tokens",
    )  # fmt: skip


def _report(
    wanted: int, blank: int, tally: Tally, asking: Asking, expected: Estimate, section: CoTSection
) -> CoTReport:
    caches = list(asking.texts.values())
    actual = spent(caches, section.price)
    steps = {
        name: {
            "generated": c.generated, "cached": c.cached, "new_tokens": c.new_tokens,
            "shortened": asking.shortened[name],
        }
        for name, c in asking.texts.items()
    }  # fmt: skip
    seconds = actual.seconds or 0.0
    return CoTReport(
        wanted=wanted, kept=tally.kept, regenerated=tally.regenerated, rescued=tally.rescued,
        dropped=dict(tally.dropped), set_aside=dict(tally.set_aside), failed=sum(c.failed for c in caches),
        generated=actual.calls, cached=sum(c.cached for c in caches), cut_off=tally.cut_off,
        histories_shortened=sum(asking.shortened.values()), blank=blank, changed=dict(asking.changed),
        prompt_tokens=actual.prompt_tokens,
        new_tokens=actual.new_tokens, seconds=seconds,
        tokens_per_second=actual.new_tokens / seconds if seconds else 0.0, steps=steps, estimate=expected.report(),
        actual=asdict(actual), scores=tally.means, examples=tally.examples,
    )  # fmt: skip
