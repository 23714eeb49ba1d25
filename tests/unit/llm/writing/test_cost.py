"""Cost before and after: what is counted, what is unknown, and how it reads."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from llmcf_cli.core.progress import SILENT, SilentProgress
from llmcf_cli.llm.engines.base import Completion
from llmcf_cli.llm.writing.cost import (
    UNKNOWN,
    Load,
    announce,
    as_text,
    comparison_rows,
    demand,
    estimate,
    estimate_rows,
    spent,
)
from llmcf_cli.llm.writing.texts import Ask, TextCache
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.recipe.sections import PriceSection

PRICE = PriceSection(input_per_million=1.0, output_per_million=10.0, currency="EUR")
ASKS = [Ask([{"role": "user", "content": str(n)}], f"hash {n}", 100 + n, False) for n in range(10)]


class Engine:
    """Two texts per prompt, of 20 tokens in half a second each."""

    samples = 2

    def decode_settings(self, seed):
        return {"max_new_tokens": 50, "seed": seed}

    def batches(self, lengths):
        return [list(range(i, min(i + 4, len(lengths)))) for i in range(0, len(lengths), 4)]

    def generate(self, chats, seeds):
        return [Completion("text", "stop", 100 + int(chat[0]["content"]), 20, 0.5) for chat in chats]


class Notes(SilentProgress):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def texts(tmp_path: Path):
    with SharedTexts(tmp_path / "c.sqlite") as store:
        yield TextCache(store, Engine(), "m", 1)


def complete(texts: TextCache, asks: list[Ask]) -> None:
    with SILENT.task("t", len(asks), "prompts") as task:
        texts.complete(asks, task)


def test_before_any_call_tokens_have_a_bound_and_time_is_unknown(texts: TextCache) -> None:
    found = estimate([demand(Load(10, ASKS, texts))], None)
    assert (found.cost.calls, found.cached, found.exact) == (20, 0, True)
    assert found.cost.prompt_tokens == 2 * sum(ask.tokens for ask in ASKS)
    assert (found.cost.new_tokens, found.cost.seconds, found.cost.money) == (20 * 50, None, None)
    rows = dict(estimate_rows(found))
    assert rows["time"] == UNKNOWN
    assert rows["new tokens"] == "at most 1,000"
    assert "money" not in rows


def test_cached_calls_are_subtracted_and_their_pace_foretells_the_rest(texts: TextCache) -> None:
    complete(texts, ASKS[:4])
    found = estimate([demand(Load(10, ASKS, texts))], PRICE)
    assert (found.cost.calls, found.cached) == (12, 8)
    assert found.cost.prompt_tokens == 2 * sum(ask.tokens for ask in ASKS[4:])
    assert (found.cost.new_tokens, found.cost.seconds) == (240, 6.0)
    assert found.cost.money == pytest.approx((found.cost.prompt_tokens * 1 + 240 * 10) / 1e6)
    rows = dict(estimate_rows(found))
    assert rows["time"] == "about 6 s at 2.00 calls/s, measured on 8"
    assert rows["money"].endswith("EUR")


def test_a_part_of_the_prompts_stands_for_all(texts: TextCache) -> None:
    complete(texts, ASKS[:2])
    found = demand(Load(1000, ASKS, texts))
    assert (found.calls, found.cached, found.exact) == (1600, 400, False)
    assert found.prompt_tokens == 100 * 2 * sum(ask.tokens for ask in ASKS[2:])


def test_calls_of_another_kind_are_taken_at_their_longest_and_the_known_speed(texts: TextCache, tmp_path: Path) -> None:
    complete(texts, ASKS[:4])  # 20 tokens in half a second
    with SharedTexts(tmp_path / "other.sqlite") as store:
        other = TextCache(store, Engine(), "m", 1)
        found = estimate([demand(Load(10, ASKS, texts)), demand(Load(10, ASKS, other))], None)
    assert found.bounded
    assert (found.cost.calls, found.cost.new_tokens) == (12 + 20, 12 * 20 + 20 * 50)
    assert found.cost.seconds == pytest.approx(12 * 0.5 + 20 * 50 / 40)


def test_without_a_pace_one_batch_is_made_first_and_is_no_extra_work(texts: TextCache) -> None:
    notes = Notes()
    found = announce([demand(Load(10, ASKS, texts))], partial(texts.warm_up, ASKS), PRICE, notes)
    assert texts.generated == 4
    assert len(notes.said) == 2
    assert UNKNOWN in notes.said[0]
    assert "about 10 s at 2.00 calls/s, measured on 4" in notes.said[1]
    assert (found.cost.calls, found.cost.seconds) == (20, 10.0)
    complete(texts, ASKS)
    assert (texts.generated, texts.cached) == (20, 0)
    rows = comparison_rows(found.report(), vars(spent([texts], PRICE)))
    assert [row[0] for row in rows] == ["calls", "prompt tokens", "new tokens", "seconds", "money"]
    assert all(before == after and change == "+0%" for _, before, after, change in rows)
    again = Notes()
    announce([demand(Load(10, ASKS, texts))], partial(texts.warm_up, ASKS), PRICE, again)
    assert "0 (20 of 20 texts are cached)" in again.said[0]
    assert texts.generated == 20


def test_text_columns_stand_below_each_other() -> None:
    assert as_text([("a", "12 s"), ("long", "3")]) == "a     12 s\nlong  3"
