from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.config import TransformersEngineConfig
from llmcf_cli.llm.engines.base import Adjustable, Completion
from llmcf_cli.llm.prompts.rows import sample_texts
from llmcf_cli.llm.writing.steps import Asking, StepPrompts, plan_calls, step_engines, whole_sentences
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.recipe.dataset import HistorySection
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.prompt import Prompt, load_prompt

DECOMPOSED = load_prompt(library_dir() / "prompts" / "decomposed.yaml").model_copy(update={"block": 3})
NO_LABEL = load_prompt(library_dir() / "prompts" / "no_label.yaml")


class Scripted(Adjustable):
    """An engine that answers with a count of what it was asked, so that every text names its prompt."""

    def __init__(self, max_new_tokens: int = 20, samples: int = 1, longest: int = 10_000) -> None:
        self.config = TransformersEngineConfig(max_new_tokens=max_new_tokens, samples=samples)
        self.samples, self.longest = samples, longest
        self.asked: list[str] = []

    def asking(self, *, max_new_tokens: int, samples: int) -> Scripted:
        view = Scripted(max_new_tokens, samples, self.longest)
        view.asked = self.asked
        return view

    def decode_settings(self, seed: int) -> dict[str, Any]:
        return {"limit": self.config.max_new_tokens}

    def max_prompt_tokens(self) -> int:
        return self.longest

    def count_tokens(self, chats: Any) -> list[int]:
        return [len(chat[-1]["content"].split()) for chat in chats]

    def batches(self, lengths: Any) -> list[list[int]]:
        return [[i] for i in range(len(lengths))]

    def generate(self, chats: Any, seeds: Any) -> list[Completion]:
        found = []
        for chat in chats:
            self.asked.append(chat[-1]["content"])
            found.append(Completion(f"answer {len(self.asked)}.", "stop", 1, self.config.max_new_tokens, 0.1))
        return found


class Task:
    done = 0.0

    def advance(self, amount: float = 1) -> None:
        self.done += amount

    def skip(self, amount: float) -> None:
        self.done += amount

    def note(self, text: str) -> None:
        pass


@pytest.fixture
def reader(tiny_data: Path) -> Iterator[Any]:
    with duckdb.connect(str(tiny_data), read_only=True) as connection:
        yield connection


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    with SharedTexts(tmp_path / "cache.sqlite") as shared:
        yield shared


def asking(prompt: Prompt, engine: Scripted, reader: Any, store: Any) -> Asking:
    prompts = StepPrompts(prompt, reader, HistorySection())
    return Asking(prompts, engine, store, "m", derive_seed(1, "x"))


def test_shared_texts_are_written_once_and_read_by_their_samples(reader, store) -> None:
    engine, ids = Scripted(), range(40)
    asks, task = asking(DECOMPOSED, engine, reader, store), Task()
    found = asks.ask(sample_texts(reader, ids), task)
    calls = plan_calls(DECOMPOSED, reader, ids, history=HistorySection(), samples=1)
    assert len(engine.asked) == sum(calls.values())
    assert {name: cache.generated for name, cache in asks.texts.items()} == calls
    assert task.done == pytest.approx(40)
    assert [one.row.sample_id for one in found] == list(ids)
    by_item = {}
    for one in found:
        parts = {part.step: part.text for part in one.parts}
        assert by_item.setdefault(one.row.item_row, parts["description"]) == parts["description"]
        for text in parts.values():
            assert text in one.ask.messages[0]["content"]
            assert text not in one.given
        assert one.joined("end").split("\n\n") == [*parts.values(), "end"]
    assert len(set(by_item.values())) == len(by_item) == calls["description"]
    assert 0 < calls["profile"] < 40


def test_a_second_time_everything_is_known(reader, store) -> None:
    first = asking(DECOMPOSED, Scripted(), reader, store)
    before = first.ask(sample_texts(reader, range(40)), Task())
    engine = Scripted()
    again = asking(DECOMPOSED, engine, reader, store)
    assert again.ask(sample_texts(reader, range(40)), Task()) == before
    assert again.last.of([one.ask for one in before]) == first.last.of([one.ask for one in before])
    assert engine.asked == []


def test_more_samples_ask_only_about_what_is_new(reader, store) -> None:
    asking(DECOMPOSED, Scripted(), reader, store).ask(sample_texts(reader, range(20)), Task())
    engine = Scripted()
    asking(DECOMPOSED, engine, reader, store).ask(sample_texts(reader, range(30)), Task())
    few, many = (plan_calls(DECOMPOSED, reader, range(n), history=HistorySection(), samples=1) for n in (20, 30))
    assert len(engine.asked) == sum(many.values()) - sum(few.values())


def test_steps_have_their_share_of_tokens_and_only_the_last_several_answers() -> None:
    engine = Scripted(max_new_tokens=100, samples=3)
    limits = {n: (e.config.max_new_tokens, e.samples) for n, e in step_engines(DECOMPOSED, engine).items()}
    assert limits == {"profile": (40, 1), "description": (40, 1), "match": (20, 3)}
    assert step_engines(NO_LABEL, engine) == {"answer": engine}


def test_plan_counts_the_answers_of_the_last_step(reader) -> None:
    one, three = (plan_calls(DECOMPOSED, reader, range(10), history=HistorySection(), samples=n) for n in (1, 3))
    assert three == {**one, "match": 3 * one["match"]}
    assert plan_calls(NO_LABEL, reader, range(10), history=HistorySection(), samples=3) == {"answer": 30}


def test_no_prompt_of_a_shared_step_or_without_label_knows_the_decision(tiny_data, tmp_path) -> None:
    """The same samples with every label turned: only prompts that may tell the decision differ."""

    def prompts(connection: Any, prompt: Prompt) -> dict[str, list[str]]:
        render, engine = StepPrompts(prompt, connection, HistorySection(events="all")), Scripted()
        rows = render.situate(sample_texts(connection, range(60)))
        fixed = {step.name: {row.subject(step): "text" for row in rows} for step in prompt.shared}
        return {
            step.name: [ask.messages[0]["content"] for ask in render.asks(step, engine, rows, fixed).values()]
            for step in prompt.steps
        }

    turned = tmp_path / "turned.duckdb"
    turned.write_bytes(tiny_data.read_bytes())
    with duckdb.connect(str(turned)) as connection:
        told = [prompts(connection, prompt) for prompt in (DECOMPOSED, NO_LABEL)]
        connection.execute("UPDATE sample SET label = 1 - label")
        other = [prompts(connection, prompt) for prompt in (DECOMPOSED, NO_LABEL)]
    assert told[1] == other[1]
    assert told[0]["profile"] == other[0]["profile"] != []
    assert told[0]["description"] == other[0]["description"] != []
    assert all(a != b for a, b in zip(told[0]["match"], other[0]["match"], strict=True))
    words = re.compile("liked|did not like")
    assert not any(words.search(text) for texts in (*other[1].values(), told[0]["profile"]) for text in texts)


def test_a_prompt_loses_its_oldest_history_first(reader, store) -> None:
    row = sample_texts(reader, [59])
    asks = asking(NO_LABEL, Scripted(longest=10_000), reader, store)
    whole = asks.ask(row, Task())[0].ask
    tight = asking(NO_LABEL, Scripted(longest=whole.tokens - 1), reader, store)
    short = tight.ask(row, Task())[0].ask
    assert short.shortened
    assert tight.shortened == {"answer": 1}
    assert row[0].history[-1] in short.messages[0]["content"]
    assert f"favourites: {row[0].history[0]}" not in short.messages[0]["content"]


def test_rows_whose_prompt_never_fits_are_too_long(reader, store) -> None:
    engine = Scripted(longest=24)  # a description fits, a match does not
    asks = asking(DECOMPOSED, engine, reader, store)
    assert asks.ask(sample_texts(reader, range(6)), Task()) == []
    assert asks.too_long == dict.fromkeys(range(6), "match")
    assert not any("Decision" in text for text in engine.asked)
    assert asks.last.of([]) == {}


@pytest.mark.parametrize(
    ("text", "reason", "kept"),
    [
        ("One. Two is c", "length", "One."), ("One. Two.", "length", "One. Two."), (" One. Tw ", "stop", "One. Tw"),
        ("no end at al", "length", "no end at al"), ("He said \"yes.\" Then h", "length", 'He said "yes."'),
        ("It costs 3.5 an", "length", "It costs 3.5 an"), ("", "length", ""),
    ],
)  # fmt: skip
def test_a_cut_text_ends_with_its_last_whole_sentence(text: str, reason: str, kept: str) -> None:
    assert whole_sentences(text, reason) == kept
