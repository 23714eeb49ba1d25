"""Open-world knowledge about users and items, as a language model, or an engine that counts, writes it.

Xi et al., 2023 (KAR): preference reasoning about a user from the history, factual knowledge about an item. There a
user's text is written once, from the whole train history, and read at every train sample of that user, so the text may
name the sample's own target and what came after it. Here it is written from the first part of the user's train events,
its `as_of` is the time of the last of these, and it is for samples strictly later than that. An item's text is written
from the item's own text alone and is for any sample. (The model that writes was tuned on train samples, as for chains
of thought; nothing of validation or test has a way into it.)
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SILENT, Progress, Task
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.llm.engines.base import DESCRIBING_ENGINE, ENGINE, DescribingEngine, Engine, Ingested, Subject
from llmcf_cli.llm.writing.cost import Load, announce, demand
from llmcf_cli.llm.writing.reports import KnowledgeReport
from llmcf_cli.llm.writing.steps import check_turns
from llmcf_cli.llm.writing.subjects import Subjects, read_subjects
from llmcf_cli.llm.writing.texts import Answers, Ask, Batch, Fault, TextCache, fit_asks
from llmcf_cli.llm.writing.travel import StepCalls
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.asking import KnowledgeSection
from llmcf_cli.recipe.prompt import Prompt, check_knows
from llmcf_cli.recipe.words import Words
from llmcf_cli.scale import Pool
from llmcf_cli.store.open import connect_read
from llmcf_cli.store.tables import KNOWLEDGE_TEXT

_EXAMPLES = 2
_MAY_USE = {"user": ("history", "user"), "item": ("item",)}  # what a prompt about an entity may


def write_knowledge(
    section: KnowledgeSection, *, data: Path, model: Path | None, model_digest: str, prompts: Mapping[str, Prompt],
    cache: Path, out: Path, seed: int, words: Words = Words(), progress: Progress = SILENT,
    pool: Pool[Batch, Answers] | None = None,
) -> KnowledgeReport:  # fmt: skip
    """Write what the model knows of the chosen users and items to Parquet (table `knowledge_text`).

    Only train rows are read, and no text is asked for that would name a decision.

    Args:
        section: The recipe's `knowledge`.
        data: DuckDB file of ingest.
        model: Folder of the model in Hugging Face format; None for an engine that needs none.
        model_digest: Names the model's content in the cache.
        prompts: `user` and `item` → what is asked about one.
        cache: SQLite file of generated texts, shared between runs.
        out: Parquet file to write.
        seed: The recipe's seed.
        words: Of the label.
        progress: Where to report.
        pool: Who makes the texts that are not there yet; None: this process.

    Raises:
        LlmcfError: A prompt uses a variable that its text must not know, or nothing was written.
        ModelError: The model cannot be loaded.
        StoreError: Another process holds the cache and does not let go of it.
    """
    engine = registry().build(ENGINE, section.engine)
    engine.open(model)
    for entity, prompt in prompts.items():
        where = f"knowledge.{entity}_prompt"
        check_knows(prompt, _MAY_USE[entity], where)
        check_turns(prompt, engine, f"{where} {getattr(section, f'{entity}_prompt')}")
    with SharedTexts(cache) as store:
        texts = TextCache(store, engine, model_digest, derive_seed(seed, "knowledge", "decode"), pool=pool)
        asking = _Asking(texts, engine, prompts, words, progress)
        kept = _write(asking, read_subjects(section), data, out, progress)
    return KnowledgeReport(
        users=kept.count["user"], items=kept.count["item"], empty=kept.empty, generated=texts.generated,
        cached=texts.cached, histories_shortened=asking.shortened, blank=asking.blank, changed=dict(asking.changed),
        new_tokens=texts.new_tokens, seconds=texts.seconds,
        tokens_per_second=texts.tokens_per_second, examples=kept.examples,
    )  # fmt: skip


def write_knowledge_from_data(
    section: KnowledgeSection, *, data: Path, source: ComponentConfig, out: Path, seed: int, words: Words = Words(),
    progress: Progress = SILENT,
) -> KnowledgeReport:  # fmt: skip
    """As `write_knowledge`, by an engine that writes from the data: no prompt, no cache, no cost.

    Args:
        section: The recipe's `knowledge`.
        data: DuckDB file of ingest.
        source: The recipe's `dataset.source`.
        out: Parquet file to write.
        seed: The recipe's seed.
        words: Of the label.
        progress: Where to report.

    Raises:
        LlmcfError: The engine cannot write about these data, or nothing was written.
    """
    engine = registry().build(DESCRIBING_ENGINE, section.engine)
    engine.open(Ingested(data, source, words, derive_seed(seed, "knowledge", "decode")))
    telling = _Telling(engine)
    kept = _write(telling, read_subjects(section), data, out, progress)
    return KnowledgeReport(
        users=kept.count["user"], items=kept.count["item"], empty=kept.empty,
        generated=sum(kept.count.values()), cached=0, histories_shortened=0, blank=0, changed={}, new_tokens=0,
        seconds=telling.seconds, tokens_per_second=0.0, examples=kept.examples,
    )  # fmt: skip


def list_calls(
    section: KnowledgeSection, *, data: Path, model: Path | None, model_digest: str, prompts: Mapping[str, Prompt],
    cache: Path, seed: int, words: Words = Words(), users: Collection[int] | None = None,
) -> list[StepCalls]:  # fmt: skip
    """What `write_knowledge` with the same arguments asks about users and items.

    Args:
        users: Rows of the users that are meant; None: all.
    """
    engine = registry().build(ENGINE, section.engine)
    engine.open(model)
    with connect_read(data) as reader, SharedTexts(cache) as store:
        texts = TextCache(store, engine, model_digest, derive_seed(seed, "knowledge", "decode"))
        found = []
        for entity, subjects in read_subjects(section).items():
            _, blocks = subjects(reader)
            if entity == "user" and users is not None:
                blocks = ([one for one in block if one.row in users] for block in blocks)
            prompt = prompts[entity]
            asks = (ask for block in blocks if block for ask in _asks(engine, entity, prompt, _with_text(block), words))
            hashes = tuple(dict.fromkeys(ask.prompt_hash for ask in asks))
            found.append(StepCalls(f"knowledge of {entity}s", entity, *texts.names, hashes, texts.samples))
    return found


class _Author(Protocol):
    """Who writes."""

    def write(self, entity: str, subjects: Sequence[Subject], count: int, task: Task) -> list[tuple[Subject, str]]:
        """The text of each subject of a block of `count` subjects in all, empty where there is none; blank ones have
        no place."""


class _Asking:
    """A language model, asked or remembered. Counts what was left out, shortened and changed."""

    def __init__(
        self, texts: TextCache, engine: Engine, prompts: Mapping[str, Prompt], words: Words, progress: Progress
    ) -> None:
        self._texts, self._engine, self._prompts, self._words = texts, engine, prompts, words
        self._progress = progress
        self._announced: set[str] = set()
        self.shortened = self.blank = 0
        self.changed: Counter[str] = Counter()

    def write(self, entity: str, subjects: Sequence[Subject], count: int, task: Task) -> list[tuple[Subject, str]]:
        """See `_Author`; of several texts the first that is not empty."""
        told = _with_text(subjects)
        self.blank += len(subjects) - len(told)
        task.skip(len(subjects) - len(told))
        asks = _asks(self._engine, entity, self._prompts[entity], told, self._words)
        if entity not in self._announced:
            self._announced.add(entity)
            wanted = [demand(Load(count, asks, self._texts))]
            announce(wanted, partial(self._texts.warm_up, asks), None, self._progress)
        self._texts.complete(asks, task)
        found = self._texts.of(asks)
        first = [next((t for t, _ in found.get(a.prompt_hash, ()) if t.strip()), "") for a in asks]
        self.shortened += sum(ask.shortened for ask in asks)
        self.changed.update(what for ask in asks for what in ask.changed)
        return list(zip(told, first, strict=True))


class _Telling:
    """An engine that writes from the data."""

    def __init__(self, engine: DescribingEngine) -> None:
        self._engine = engine
        self.seconds = 0.0

    def write(self, entity: str, subjects: Sequence[Subject], count: int, task: Task) -> list[tuple[Subject, str]]:
        """See `_Author`."""
        started = time.perf_counter()
        texts = self._engine.describe(entity, subjects)
        self.seconds += time.perf_counter() - started
        task.advance(len(subjects))
        return list(zip(subjects, texts, strict=True))


class _Kept:
    """What was written, and the counts of it."""

    def __init__(self) -> None:
        self.count = {"user": 0, "item": 0}
        self.empty = 0
        self.examples: list[dict[str, Any]] = []

    def rows(self, entity: str, written: Sequence[tuple[Subject, str]]) -> list[dict[str, Any]]:
        """Rows of table `knowledge_text`."""
        rows = [
            {"entity": entity, "row": one.row, "as_of": one.as_of, "text": text}
            for one, text in written if text.strip()
        ]  # fmt: skip
        self.empty += len(written) - len(rows)
        for row in rows[: max(0, _EXAMPLES - self.count[entity])]:
            self.examples.append({"entity": entity, "row": row["row"], "text": row["text"]})
        self.count[entity] += len(rows)
        return rows


def _write(author: _Author, subjects: Mapping[str, Subjects], data: Path, out: Path, progress: Progress) -> _Kept:
    kept = _Kept()
    with connect_read(data) as reader, pq.ParquetWriter(out, KNOWLEDGE_TEXT.schema, compression="zstd") as writer:
        for entity, read in subjects.items():
            count, blocks = read(reader)
            with progress.task(f"knowledge of {entity}s", count, f"{entity}s") as task:
                for block in blocks:
                    rows = kept.rows(entity, author.write(entity, block, count, task))
                    writer.write_table(pa.Table.from_pylist(rows, schema=KNOWLEDGE_TEXT.schema))
    if not any(kept.count.values()):
        raise LlmcfError(
            "nothing was written about any user or item", code="knowledge-none", where="knowledge",
            hint="check the prompts and the model; raise knowledge.users and knowledge.items",
        )  # fmt: skip
    return kept


def _with_text(block: Sequence[Subject]) -> list[Subject]:
    """Those that there is something to write from."""
    return [s for s in block if s.text.strip() or any(text.strip() for text in s.history)]


def _asks(engine: Engine, entity: str, prompt: Prompt, subjects: Sequence[Subject], words: Words) -> list[Ask]:
    def render(index: int, history: list[str]) -> list[dict[str, str]]:
        return prompt.last.render({"history": history, entity: subjects[index].text, **words.variables})

    hint = f"shorten dataset.text.{entity} or raise knowledge.engine.max_prompt_tokens"
    fault = Fault(lambda index: f"{entity} {subjects[index].row}", "knowledge", hint)
    return fit_asks(engine, [s.history for s in subjects], render, fault)
