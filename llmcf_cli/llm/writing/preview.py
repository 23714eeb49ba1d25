"""Prompts as they would be sent, for a few real samples, without loading any weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.engines.base import ENGINE, Engine
from llmcf_cli.llm.prompts.rows import blank_items, choose_train, refuse_blank, sample_texts
from llmcf_cli.llm.writing.steps import StepPrompts, Subject, check_turns, plan_calls, step_engines
from llmcf_cli.llm.writing.texts import Ask
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.dataset import HistorySection
from llmcf_cli.recipe.prompt import Prompt, PromptStep
from llmcf_cli.recipe.sections import CoTSection
from llmcf_cli.recipe.words import Words
from llmcf_cli.store.open import connect_read


@dataclass(frozen=True)
class Previewed:
    """A prompt.

    Attributes:
        step: Name of its step.
        about: What it is about, e.g. `sample 7`.
        messages: The chat, with `[name]` where an earlier step's text will stand.
        tokens: Most tokens of the prompt, those texts included.
        answer: Most tokens of the answer.
        shortened: Whether the oldest history was left out to fit.
        changed: What the engine changes in it.
        fits: Whether it can be asked; a sample with a prompt that cannot is set aside.
    """

    step: str
    about: str
    messages: list[dict[str, str]]
    tokens: int
    answer: int
    shortened: bool
    changed: tuple[str, ...]
    fits: bool


@dataclass(frozen=True)
class Preview:
    """Some prompts, and how many of each step the whole run would send.

    Attributes:
        prompts: Step by step.
        samples: Samples that the run is about.
        blank: Of these, samples with an item without text.
        calls: Name of a step → texts to write.
        longest: Name of a step → most tokens of a prompt.
    """

    prompts: list[Previewed]
    samples: int
    blank: int
    calls: dict[str, int]
    longest: dict[str, int]


def preview_prompts(
    section: CoTSection, *, data: Path, model: Path | None, prompt: Prompt, seed: int, history: HistorySection,
    count: int, words: Words = Words(), blank_texts: float = 0.9,
) -> Preview:  # fmt: skip
    """The prompts of `count` of the chosen samples, spread evenly over time.

    Args:
        section: The recipe's `cot`.
        data: DuckDB file of ingest.
        model: Folder of the model, for its tokenizer.
        prompt: What is asked.
        seed: The recipe's seed.
        history: What histories hold, as ingest built them.
        count: Samples.
        words: Of the label.
        blank_texts: Share of the samples that may have an item without text.

    Raises:
        LlmcfError: More samples are asked for than the train split has, or nearly no item has a text.
        ModelError: The model has no tokenizer or no chat template, or its template does not take the prompt's turns.
    """
    engine = registry().build(ENGINE, section.engine)
    engine.open(model)
    check_turns(prompt, engine, f"cot.prompt {section.prompt}")
    engines = step_engines(prompt, engine)
    with connect_read(data) as reader:
        ids = choose_train(reader, section.sample, derive_seed(seed, "gen-cot", "sample"), "cot.sample")
        blank = blank_items(reader, ids)
        refuse_blank(blank, len(ids), blank_texts, "cot preview")
        shown = (
            [int((place + 0.5) * len(ids) / count) for place in range(count)] if count < len(ids) else range(len(ids))
        )
        prompts = StepPrompts(prompt, reader, history, words)
        rows = prompts.situate(sample_texts(reader, ids[list(shown)]))
        calls = plan_calls(prompt, reader, ids.tolist(), history=history, samples=engine.samples)
        found: list[Previewed] = []
        marks: dict[str, dict[Subject, str]] = {}
        for step in prompt.steps:
            asks = prompts.asks(step, engines[step.name], rows, marks)
            found += [_previewed(step, subject, ask, prompt, engines) for subject, ask in asks.items()]
            marks[step.name] = dict.fromkeys(asks, f"[{step.name}]")
    longest = {name: asked.max_prompt_tokens() for name, asked in engines.items()}
    return Preview(found, len(ids), blank, calls, longest)


def _previewed(
    step: PromptStep, subject: tuple[int, ...], ask: Ask, prompt: Prompt, engines: dict[str, Engine]
) -> Previewed:
    read = [other.name for other in prompt.steps if other.name in step.variables]
    tokens = ask.tokens + sum(engines[name].config.max_new_tokens for name in read)
    engine = engines[step.name]
    return Previewed(
        step.name, _about(step, subject), ask.messages, tokens, engine.config.max_new_tokens, ask.shortened,
        ask.changed, ask.tokens <= engine.max_prompt_tokens(),
    )  # fmt: skip


def _about(step: PromptStep, subject: tuple[int, ...]) -> str:
    if step.per == "user_block":
        return f"user {subject[0]} after {subject[1]} events"
    return f"{'item' if step.per == 'item' else 'sample'} {subject[0]}"
