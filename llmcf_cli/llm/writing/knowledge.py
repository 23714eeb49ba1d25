"""Open-world knowledge about users and items, as the language model writes it.

Xi et al., 2023 (KAR): preference reasoning about a user from the history, factual knowledge about an item. There a
user's text is written once, from the whole train history, and read at every train sample of that user, so the text may
name the sample's own target and what came after it. Here it is written from the first part of the user's train events,
its `as_of` is the time of the last of these, and it is for samples strictly later than that. An item's text is written
from the item's own text alone and is for any sample. (The model that writes was tuned on train samples, as for chains
of thought; nothing of validation or test has a way into it.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.engines.base import ENGINE, Engine
from llmcf_cli.llm.writing.cost import Load, announce, demand
from llmcf_cli.llm.writing.reports import KnowledgeReport
from llmcf_cli.llm.writing.steps import check_turns
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

ALWAYS = int(np.iinfo(np.int64).min)
"""`as_of` of what rests on no event."""

_BLOCK = 2048  # entities whose prompts are held in memory, and sorted by length, together
_EXAMPLES = 2

_TRAIN_EVENTS = "CREATE TEMP VIEW train_event AS SELECT * FROM sample WHERE split = 'train' AND label = 1"
# The first share of each user's positive train events, at least one.
_EARLY = """
CREATE TEMP TABLE early AS
SELECT user_row, item_row, time, place, part FROM (
    SELECT user_row, item_row, time, row_number() OVER (PARTITION BY user_row ORDER BY time, sample_id) AS place,
           greatest(1, floor(count(*) OVER (PARTITION BY user_row) * $share)) AS part
    FROM train_event
) WHERE place <= part
"""
_USERS = """
SELECT user_row FROM train_event GROUP BY user_row ORDER BY count(*) DESC, user_row LIMIT $count
"""
_ITEMS = """
SELECT item_row FROM item LEFT JOIN train_event USING (item_row)
GROUP BY item_row ORDER BY count(sample_id) DESC, item_row LIMIT $count
"""
_USER_TEXTS = """
SELECT user_row, max(time), any_value("user".text), list(item.text ORDER BY place)
FROM early JOIN item USING (item_row) JOIN "user" USING (user_row)
WHERE user_row IN (SELECT unnest($rows)) AND place > part - $recent GROUP BY user_row
"""
_ITEM_TEXTS = "SELECT item_row, text FROM item WHERE item_row IN (SELECT unnest($rows))"


@dataclass(frozen=True)
class _Subject:
    """A user or item to write about: values for the prompt, and what its text rests on."""

    row: int
    as_of: int
    text: str
    history: list[str] = field(default_factory=list)


def write_knowledge(
    section: KnowledgeSection, *, data: Path, model: Path | None, model_digest: str, user_prompt: Prompt,
    item_prompt: Prompt, cache: Path, out: Path, seed: int, words: Words = Words(), progress: Progress = SILENT,
    pool: Pool[Batch, Answers] | None = None,
) -> KnowledgeReport:  # fmt: skip
    """Write what the model knows of the chosen users and items to Parquet (table `knowledge_text`).

    Only train rows are read, and no text is asked for that would name a decision.

    Args:
        section: The recipe's `knowledge`.
        data: DuckDB file of ingest.
        model: Folder of the model in Hugging Face format; None for an engine that needs none.
        model_digest: Names the model's content in the cache.
        user_prompt: What is asked about a user.
        item_prompt: What is asked about an item.
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
    check_knows(user_prompt, ("history", "user"), "knowledge.user_prompt")
    check_knows(item_prompt, ("item",), "knowledge.item_prompt")
    engine = registry().build(ENGINE, section.engine)
    engine.open(model)
    check_turns(user_prompt, engine, f"knowledge.user_prompt {section.user_prompt}")
    check_turns(item_prompt, engine, f"knowledge.item_prompt {section.item_prompt}")
    with connect_read(data) as reader, SharedTexts(cache) as store:
        reader.execute(_TRAIN_EVENTS)
        texts = TextCache(store, engine, model_digest, derive_seed(seed, "knowledge", "decode"), pool=pool)
        with pq.ParquetWriter(out, KNOWLEDGE_TEXT.schema, compression="zstd") as writer:
            work = _Writing(writer, texts, engine, words, progress)
            work.write("user", user_prompt, *_users(reader, section))
            work.write("item", item_prompt, *_items(reader, section))
    if not any(work.kept.values()):
        raise LlmcfError(
            "nothing was written about any user or item", code="knowledge-none", where="knowledge",
            hint="look at the prompts and the model; raise knowledge.users and knowledge.items",
        )  # fmt: skip
    return KnowledgeReport(
        users=work.kept["user"], items=work.kept["item"], empty=work.empty, generated=texts.generated,
        cached=texts.cached, histories_shortened=work.shortened, blank=work.blank, changed=dict(work.changed),
        new_tokens=texts.new_tokens, seconds=texts.seconds,
        tokens_per_second=texts.tokens_per_second, examples=work.examples,
    )  # fmt: skip


def list_calls(
    section: KnowledgeSection, *, data: Path, model: Path | None, model_digest: str, user_prompt: Prompt,
    item_prompt: Prompt, cache: Path, seed: int, words: Words = Words(), users: Collection[int] | None = None,
) -> list[StepCalls]:  # fmt: skip
    """What `write_knowledge` with the same arguments asks about users and items.

    Args:
        users: Rows of the users that are meant; None: all.
    """
    engine = registry().build(ENGINE, section.engine)
    engine.open(model)
    with connect_read(data) as reader, SharedTexts(cache) as store:
        reader.execute(_TRAIN_EVENTS)
        texts = TextCache(store, engine, model_digest, derive_seed(seed, "knowledge", "decode"))
        found = []
        for entity, prompt, (_, blocks) in (
            ("user", user_prompt, _users(reader, section)), ("item", item_prompt, _items(reader, section))
        ):  # fmt: skip
            if entity == "user" and users is not None:
                blocks = ([one for one in block if one.row in users] for block in blocks)
            asks = (ask for block in blocks if block for ask in _asks(engine, entity, prompt, _with_text(block), words))
            hashes = tuple(dict.fromkeys(ask.prompt_hash for ask in asks))
            found.append(StepCalls(f"knowledge of {entity}s", entity, *texts.names, hashes, texts.samples))
    return found


def _users(reader: Any, section: KnowledgeSection) -> tuple[int, Iterator[list[_Subject]]]:
    """How many users, and the users block by block."""
    reader.execute(_EARLY, {"share": section.user_events})
    rows = _rows(reader, _USERS, section.users)

    def blocks() -> Iterator[list[_Subject]]:
        for block in _blocks(rows):
            found = reader.execute(_USER_TEXTS, {"rows": block, "recent": section.max_history}).fetchall()
            subjects = {row: _Subject(row, *rest) for row, *rest in found}
            yield [subjects[row] for row in block]

    return len(rows), blocks()


def _items(reader: Any, section: KnowledgeSection) -> tuple[int, Iterator[list[_Subject]]]:
    """How many items, and the items block by block."""
    rows = _rows(reader, _ITEMS, section.items)

    def blocks() -> Iterator[list[_Subject]]:
        for block in _blocks(rows):
            found = dict(reader.execute(_ITEM_TEXTS, {"rows": block}).fetchall())
            yield [_Subject(row, ALWAYS, found[row]) for row in block]

    return len(rows), blocks()


def _rows(reader: Any, query: str, count: int | None) -> list[int]:
    return [row for (row,) in reader.execute(query, {"count": 2**62 if count is None else count}).fetchall()]


def _blocks(rows: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(rows), _BLOCK):
        yield list(rows[start : start + _BLOCK])


class _Writing:
    """Texts of one kind of entity after the other, and the counts of the report."""

    def __init__(
        self, writer: pq.ParquetWriter, texts: TextCache, engine: Engine, words: Words, progress: Progress
    ) -> None:
        self._writer, self._texts, self._engine, self._progress = writer, texts, engine, progress
        self._words = words
        self.kept = {"user": 0, "item": 0}
        self.empty = self.shortened = self.blank = 0
        self.changed: Counter[str] = Counter()
        self.examples: list[dict[str, Any]] = []

    def write(self, entity: str, prompt: Prompt, count: int, blocks: Iterator[list[_Subject]]) -> None:
        """Generate and write the text of every subject, the first one that is not empty."""
        with self._progress.task(f"knowledge of {entity}s", count, f"{entity}s") as task:
            for number, block in enumerate(blocks):
                subjects = _with_text(block)
                self.blank += len(block) - len(subjects)
                task.skip(len(block) - len(subjects))
                asks = _asks(self._engine, entity, prompt, subjects, self._words)
                if number == 0:
                    wanted = [demand(Load(count, asks, self._texts))]
                    announce(wanted, partial(self._texts.warm_up, asks), None, self._progress)
                self._texts.complete(asks, task)
                found = self._texts.of(asks)
                first = [next((t for t, _ in found.get(a.prompt_hash, ()) if t.strip()), "") for a in asks]
                self._keep(entity, [(s, text) for s, text in zip(subjects, first, strict=True) if text])
                self.empty += first.count("")
                self.shortened += sum(ask.shortened for ask in asks)
                self.changed.update(what for ask in asks for what in ask.changed)

    def _keep(self, entity: str, written: Sequence[tuple[_Subject, str]]) -> None:
        rows = [{"entity": entity, "row": s.row, "as_of": s.as_of, "text": text} for s, text in written]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=KNOWLEDGE_TEXT.schema))
        for row in rows[: max(0, _EXAMPLES - self.kept[entity])]:
            self.examples.append({"entity": entity, "row": row["row"], "text": row["text"]})
        self.kept[entity] += len(rows)


def _with_text(block: Sequence[_Subject]) -> list[_Subject]:
    """Those that there is something to write from."""
    return [s for s in block if s.text.strip() or any(text.strip() for text in s.history)]


def _asks(engine: Engine, entity: str, prompt: Prompt, subjects: Sequence[_Subject], words: Words) -> list[Ask]:
    def render(index: int, history: list[str]) -> list[dict[str, str]]:
        return prompt.last.render({"history": history, entity: subjects[index].text, **words.variables})

    hint = f"shorten dataset.text.{entity} or raise knowledge.engine.max_prompt_tokens"
    fault = Fault(lambda index: f"{entity} {subjects[index].row}", "knowledge", hint)
    return fit_asks(engine, [s.history for s in subjects], render, fault)
