"""The steps of a prompt, for some train samples: who is asked what, and what was written.

A step asks about subjects: interactions, distinct items, or users with a block of their history. Samples share the
texts of their item and block, so a text is written once however many samples read it, and the cache of `llm.texts`
carries it from run to run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.engines.base import Engine
from llmcf_cli.llm.prompts.blocks import Basis, Block, Blocks
from llmcf_cli.llm.prompts.rows import SampleTexts
from llmcf_cli.llm.writing.texts import TRIES, Answers, Ask, Batch, TextCache, fitted
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.recipe.dataset import HistorySection
from llmcf_cli.recipe.prompt import Prompt, PromptStep
from llmcf_cli.recipe.words import Words
from llmcf_cli.scale import Pool

TOO_LONG = "prompt too long"
"""Reason of a sample that is set aside because a prompt does not fit even without any history."""

_SENTENCES = re.compile(r".*[.!?][\"')\]]*(?=\s|$)", re.DOTALL)

Subject = tuple[int, ...]
"""Names what a step asks about: (sample id,), (item row,) or (user row, basis)."""


@dataclass(frozen=True)
class Situated:
    """A sample with its place in its user's history.

    Attributes:
        row: The sample with its texts.
        block: Its block; None where no step is per user_block.
    """

    row: SampleTexts
    block: Block | None

    def subject(self, step: PromptStep) -> Subject:
        """What a step asks about for this sample."""
        if step.per == "item":
            return (self.row.item_row,)
        if step.per == "user_block" and self.block is not None:
            return self.block.key
        return (self.row.sample_id,)


@dataclass(frozen=True)
class Part:
    """What one step wrote for a sample.

    Attributes:
        step: Name of the step.
        prompt_hash: Digest of what was asked.
        text: The answer, not empty.
    """

    step: str
    prompt_hash: str
    text: str


@dataclass(frozen=True)
class Asked:
    """A sample whose last step has been asked.

    Attributes:
        row: The sample.
        ask: The prompt of the last step.
        parts: What earlier steps wrote, in their order; steps that wrote nothing are left out.
        given: What the texts were written from: the sample's prompts without anything that the model had written.
    """

    row: SampleTexts
    ask: Ask
    parts: tuple[Part, ...]
    given: str

    def joined(self, text: str) -> str:
        """The chain of thought: all parts, and `text` as that of the last step."""
        return "\n\n".join([*(part.text for part in self.parts), text])


class StepPrompts:
    """Renders a prompt's steps.

    Args:
        prompt: The steps.
        connection: To the DuckDB file of ingest.
        history: What histories hold, as ingest built them.
        words: Of the label.
    """

    def __init__(self, prompt: Prompt, connection: Any, history: HistorySection, words: Words = Words()) -> None:
        self.prompt, self._words = prompt, words
        by_block = any(step.per == "user_block" for step in prompt.steps)
        self._blocks = Blocks(connection, history, prompt.block) if by_block else None

    def situate(self, rows: Sequence[SampleTexts]) -> list[Situated]:
        """The samples with their blocks."""
        blocks = self._blocks.of([row.sample_id for row in rows]) if self._blocks else [None] * len(rows)
        return [Situated(row, block) for row, block in zip(rows, blocks, strict=True)]

    def asks(
        self, step: PromptStep, engine: Engine, rows: Sequence[Situated], written: Mapping[str, Mapping[Subject, str]]
    ) -> dict[Subject, Ask]:
        """What a step asks for some samples, once per subject.

        Args:
            step: The step.
            engine: What will be asked; a prompt too long for it has more tokens than its `max_prompt_tokens`.
            rows: The samples.
            written: Name of an earlier step → subject → its text, empty where there is none.

        Returns:
            In the order of the samples. A user of whom nothing has happened yet is not asked about.
        """
        first: dict[Subject, Situated] = {}
        for row in rows:
            if _has_subject(step, row):
                first.setdefault(row.subject(step), row)
        subjects = list(first)
        bases = self._bases(step, subjects)
        histories = [_shortened(step, first[s], bases.get(s)) for s in subjects]

        def render(index: int, history: list[str]) -> list[dict[str, str]]:
            return step.render(self._values(step, first[subjects[index]], history, written))

        return dict(zip(subjects, fitted(engine, histories, render), strict=True))

    def bare(self, about: Situated) -> str:
        """The last step's prompt without what earlier steps wrote."""
        nothing: dict[str, dict[Subject, str]] = {step.name: {} for step in self.prompt.shared}
        return readable(self.prompt.last.render(self._values(self.prompt.last, about, about.row.history, nothing)))

    def _bases(self, step: PromptStep, subjects: Sequence[Subject]) -> Mapping[Subject, Basis]:
        if step.per != "user_block" or self._blocks is None:
            return {}
        return {(*key,): basis for key, basis in self._blocks.bases([(u, b) for u, b in subjects]).items()}

    def _values(
        self, step: PromptStep, about: Situated, history: list[str], written: Mapping[str, Mapping[Subject, str]]
    ) -> dict[str, Any]:
        """Values of all variables that the step may know."""
        row, steps = about.row, {s.name: s for s in self.prompt.steps}
        values: dict[str, Any] = {
            "history": history, "recent": history[len(history) - min(len(history), _since(about)) :],
            "item": row.item, "user": row.user, "decision": self._words.decision(row.label),
            **self._words.variables,
            **{name: texts.get(about.subject(steps[name]), "") for name, texts in written.items()},
        }  # fmt: skip
        return {name: value for name, value in values.items() if name in self.prompt.readable(step)}


class Asking:
    """Asks the steps of a prompt, and keeps count.

    Args:
        prompts: The steps.
        engine: Opened with the model.
        store: The cache's file.
        model_digest: Names the model's content.
        seed: Of this use of the engine.
        tries: Failures after which a call is set aside.
        pool: Who makes batches; None: this process.

    Attributes:
        too_long: Sample id → name of the step whose prompt does not fit.
        shortened: Prompts of each step from which the oldest history was left out.
        changed: Prompts that the engine changed, by what it changed.
        texts: The cache as each step uses it.
    """

    def __init__(
        self, prompts: StepPrompts, engine: Engine, store: SharedTexts, model_digest: str, seed: int, *,
        tries: int = TRIES, pool: Pool[Batch, Answers] | None = None,
    ) -> None:  # fmt: skip
        self._prompts = prompts
        self._engines = step_engines(prompts.prompt, engine)
        self.texts = {
            name: TextCache(store, asked, model_digest, seed, tries=tries, pool=pool)
            for name, asked in self._engines.items()
        }
        self.too_long: dict[int, str] = {}
        self.shortened = dict.fromkeys(self._engines, 0)
        self.changed: Counter[str] = Counter()

    def ask(self, rows: Sequence[SampleTexts], task: Any) -> list[Asked]:
        """Complete every step's texts for some samples.

        Args:
            rows: The samples.
            task: Advanced by 1 per sample in all.

        Returns:
            The samples whose prompts fit, in their order.
        """
        prompt = self._prompts.prompt
        situated, asks = self._prompts.situate(rows), {}
        written: dict[str, Mapping[Subject, str]] = {}
        for step in prompt.steps:
            asks[step.name] = self._prompts.asks(step, self._engines[step.name], situated, written)
            situated = self._fitting(step, situated, asks[step.name])
            wanted = _distinct(asks[step.name][s] for s in _subjects(step, situated))
            self.shortened[step.name] += sum(ask.shortened for ask in wanted)
            self.changed.update(what for ask in wanted for what in ask.changed)
            self.texts[step.name].complete(wanted, _Share(task, step.name, len(rows) / len(prompt.steps), len(wanted)))
            if step is not prompt.last:
                written[step.name] = self._written(step, asks[step.name])
        return [self._asked(row, asks, written) for row in situated]

    @property
    def last(self) -> TextCache:
        """The cache as the last step uses it."""
        return self.texts[self._prompts.prompt.last.name]

    def preview(self, rows: Sequence[SampleTexts]) -> dict[str, list[Ask]]:
        """What each step would ask for some samples, with the texts of earlier steps as far as they are known."""
        situated, found = self._prompts.situate(rows), {}
        written: dict[str, Mapping[Subject, str]] = {}
        for step in self._prompts.prompt.steps:
            asks = self._prompts.asks(step, self._engines[step.name], situated, written)
            longest = self._engines[step.name].max_prompt_tokens()
            found[step.name] = [ask for ask in asks.values() if ask.tokens <= longest]
            written[step.name] = self._written(step, asks)
        return found

    def before_first(self, starting: Callable[[], None]) -> None:
        """Have something done, once per step, before its next text is made."""
        for texts in self.texts.values():
            texts.before_first(starting)

    def warm_up(self, rows: Sequence[SampleTexts]) -> None:
        """Make a batch of the first step's texts, so that its pace is known."""
        name = self._prompts.prompt.steps[0].name
        self.texts[name].warm_up(self.preview(rows)[name])

    def _fitting(self, step: PromptStep, rows: Sequence[Situated], asks: Mapping[Subject, Ask]) -> list[Situated]:
        """The samples whose prompt fits; the others are set aside."""
        longest = self._engines[step.name].max_prompt_tokens()
        kept = []
        for row in rows:
            ask = asks.get(row.subject(step))
            if ask is not None and ask.tokens > longest:
                self.too_long[row.row.sample_id] = step.name
            else:
                kept.append(row)
        return kept

    def _written(self, step: PromptStep, asks: Mapping[Subject, Ask]) -> dict[Subject, str]:
        found = self.texts[step.name].of(list(asks.values()))
        texts = {subject: found.get(ask.prompt_hash, []) for subject, ask in asks.items()}
        return {subject: next((whole_sentences(*one) for one in some), "") for subject, some in texts.items()}

    def _asked(
        self, about: Situated, asks: Mapping[str, Mapping[Subject, Ask]], written: Mapping[str, Mapping[Subject, str]]
    ) -> Asked:
        prompt, parts = self._prompts.prompt, []
        last = asks[prompt.last.name][about.subject(prompt.last)]
        given = [self._prompts.bare(about) if prompt.shared else readable(last.messages)]
        for step in prompt.shared:
            ask = asks[step.name].get(about.subject(step))
            text = written[step.name].get(about.subject(step), "")
            if ask is not None and not written.keys() & set(step.variables):
                given.append(readable(ask.messages))
            if ask is not None and text:
                parts.append(Part(step.name, ask.prompt_hash, text))
        return Asked(about.row, last, tuple(parts), "\n\n".join(given))


def check_turns(prompt: Prompt, engine: Engine, where: str) -> None:
    """Have the engine look at the turns of each step, before anything is asked.

    Args:
        prompt: The steps.
        engine: Opened with the model.
        where: What names the prompt's file.

    Raises:
        ModelError: The model cannot be asked in such turns.
    """
    for step in prompt.steps:
        try:
            engine.as_sent([{"role": message.role, "content": "…"} for message in step.messages])
        except ModelError as error:
            name = f"{where}, step {step.name}" if prompt.shared else where
            raise ModelError(f"{error.what}", code="prompt-turns", where=name, hint=error.hint) from error


def step_engines(prompt: Prompt, engine: Engine) -> dict[str, Engine]:
    """Name of a step → the engine as that step uses it: its share of the tokens, one answer where answers are shared.

    Args:
        prompt: The steps.
        engine: Opened with the model.
    """
    most = engine.config.max_new_tokens
    found = {}
    for step in prompt.steps:
        samples = engine.samples if step is prompt.last else 1
        same = step.limit(most) == most and samples == engine.samples
        found[step.name] = engine if same else engine.asking(max_new_tokens=step.limit(most), samples=samples)
    return found


def plan_calls(
    prompt: Prompt, connection: Any, sample_ids: Sequence[int], *, history: HistorySection, samples: int
) -> dict[str, int]:
    """How many texts each step has to write for some samples, before anything is known to be written.

    Args:
        prompt: The steps.
        connection: To the DuckDB file of ingest.
        sample_ids: The samples.
        history: What histories hold, as ingest built them.
        samples: Answers of the last step per sample.

    Returns:
        Name of a step → texts. Two subjects that read alike share a text, so there may be a few less.
    """
    items = "SELECT count(DISTINCT item_row) FROM sample WHERE sample_id IN (SELECT unnest($ids))"
    ids = [int(i) for i in sample_ids]
    calls = {"interaction": len(ids), "item": connection.execute(items, {"ids": ids}).fetchone()[0]}
    if any(step.per == "user_block" for step in prompt.steps):
        blocks = Blocks(connection, history, prompt.block).of(ids)
        calls["user_block"] = len({block.key for block in blocks if block.basis})
    return {step.name: calls[step.per] * (samples if step is prompt.last else 1) for step in prompt.steps}


def whole_sentences(text: str, finish_reason: str) -> str:
    """A text that others will read: where it was cut off, without the sentence that the cut fell in."""
    if finish_reason != "length":
        return text.strip()
    found = _SENTENCES.match(text)
    return (found[0] if found else text).strip()


def readable(messages: Sequence[Mapping[str, str]]) -> str:
    """A chat as one text."""
    return "\n\n".join(message["content"] for message in messages)


class _Share:
    """A task's view for one step: all of it counts as `amount` of the task's units."""

    def __init__(self, task: Any, name: str, amount: float, asks: int) -> None:
        self._task, self._name, self._each = task, name, amount / max(asks, 1)
        if not asks:
            task.skip(amount)

    def advance(self, amount: float = 1) -> None:
        self._task.advance(amount * self._each)

    def skip(self, amount: float) -> None:
        self._task.skip(amount * self._each)

    def note(self, text: str) -> None:
        self._task.note(f"{self._name}: {text}")

    def measured(self, step: int, values: Mapping[str, float]) -> None:
        self._task.measured(step, {f"{self._name}/{name}": value for name, value in values.items()})


def _has_subject(step: PromptStep, row: Situated) -> bool:
    return step.per != "user_block" or (row.block is not None and row.block.basis > 0)


def _since(about: Situated) -> int:
    return about.block.since if about.block is not None else len(about.row.history)


def _shortened(step: PromptStep, about: Situated, basis: Basis | None) -> list[str]:
    """The texts of which the oldest may be left out."""
    if basis is not None:
        return basis.history
    history = about.row.history
    if "history" in step.variables:
        return history
    return history[len(history) - min(len(history), _since(about)) :] if "recent" in step.variables else []


def _subjects(step: PromptStep, rows: Sequence[Situated]) -> list[Subject]:
    return list(dict.fromkeys(row.subject(step) for row in rows if _has_subject(step, row)))


def _distinct(asks: Any) -> list[Ask]:
    return list({ask.prompt_hash: ask for ask in asks}.values())
