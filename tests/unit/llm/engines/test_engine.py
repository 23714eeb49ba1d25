from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from refusals import refused

from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.config import TransformersEngineConfig
from llmcf_cli.llm.engines.transformers import SeededSampling, TransformersEngine

CHATS = [[{"role": "user", "content": " ".join(["why did the user like"] * n)}] for n in (1, 4, 2, 7, 1, 3)]
SEEDS = [11, 12, 13, 14, 15, 16]


def _engine(model: Path, **settings: object) -> TransformersEngine:
    engine = TransformersEngine(TransformersEngineConfig(**{"max_new_tokens": 12, "precision": "fp32", **settings}))
    engine.open(model)
    return engine


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_texts_do_not_depend_on_the_batch(tiny_model: Path, temperature: float) -> None:
    engine = _engine(tiny_model, temperature=temperature)
    together = engine.generate(CHATS, SEEDS)
    alone = [engine.generate([chat], [seed])[0] for chat, seed in zip(CHATS, SEEDS, strict=True)]
    backwards = engine.generate(CHATS[::-1], SEEDS[::-1])[::-1]
    assert [c.text for c in together] == [c.text for c in alone] == [c.text for c in backwards]
    assert [c.new_tokens for c in together] == [c.new_tokens for c in alone]
    assert [c.prompt_tokens for c in together] == engine.count_tokens(CHATS)


def test_seeds_matter_only_when_something_is_drawn(tiny_model: Path) -> None:
    drawn, greedy = _engine(tiny_model, temperature=1.0), _engine(tiny_model, temperature=0.0)
    assert len({c.text for c in drawn.generate([CHATS[0]] * 6, SEEDS)}) > 3
    assert len({c.text for c in greedy.generate([CHATS[0]] * 6, SEEDS)}) == 1
    assert drawn.decode_settings(1) != drawn.decode_settings(2)
    assert greedy.decode_settings(1) == greedy.decode_settings(2)


def test_greedy_is_the_models_own_likeliest_continuation(tiny_model: Path) -> None:
    engine = _engine(tiny_model, temperature=0.0, max_new_tokens=5)
    model, tokenizer = engine._weights(), engine._tokenizer
    ids = tokenizer.apply_chat_template(CHATS[1], add_generation_prompt=True, return_tensors="pt")["input_ids"]
    first = ids.shape[1]
    for _ in range(5):
        token = model(ids).logits[0, -1].argmax()
        if token == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, token.view(1, 1)], 1)
    assert engine.generate(CHATS[1:2], [0])[0].text == tokenizer.decode(ids[0, first:]).strip()


def test_sampling_follows_the_tempered_distribution_of_the_top_k() -> None:
    logits_V = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    rows = 20_000
    draw = SeededSampling(range(rows), temperature=0.7, top_k=3, device=torch.device("cpu"))
    tokens_BL = torch.zeros(rows, 1, dtype=torch.int64)
    chosen_B = draw(tokens_BL, logits_V.expand(rows, -1)).argmax(1)
    expected_K = (logits_V[:3] / 0.7).softmax(0)
    found_V = torch.bincount(chosen_B, minlength=5) / rows
    assert found_V[3:].sum() == 0
    assert torch.allclose(found_V[:3], expected_K, atol=0.015)
    longer_BL = torch.zeros(rows, 2, dtype=torch.int64)
    assert (draw(longer_BL, logits_V.expand(rows, -1)).argmax(1) != chosen_B).float().mean() > 0.2


def test_repetition_penalty_spares_the_prompt(tiny_model: Path) -> None:
    engine = _engine(tiny_model, temperature=0.0, repetition_penalty=5.0, max_new_tokens=30)
    tokens = engine._tokenizer(engine.generate(CHATS[:1], [0])[0].text)["input_ids"]
    plain = _engine(tiny_model, temperature=0.0, max_new_tokens=30)
    assert len(set(tokens)) > len(set(plain._tokenizer(plain.generate(CHATS[:1], [0])[0].text)["input_ids"]))


def test_batches_keep_the_budget_and_similar_lengths(tiny_model: Path) -> None:
    engine = _engine(tiny_model, batch_tokens=100, max_batch=3)
    lengths = [30, 5, 12, 5, 40, 7, 200, 6]
    batches = engine.batches(lengths)
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    assert batches[0] == [6]  # too long for the budget, so alone
    for batch in batches[1:]:
        assert len(batch) <= 3
        assert max(lengths[i] for i in batch) * len(batch) + 12 * len(batch) <= 100
    steps = [-(-lengths[i] // 32) for batch in batches for i in batch]
    assert steps == sorted(steps, reverse=True)
    assert batches[1:] == [[4], [0, 1], [2, 3, 5], [7]]


def test_answers_that_leave_no_room_for_a_prompt_are_refused(tiny_model: Path) -> None:
    with refused("prompt-no-room", ModelError):
        _engine(tiny_model, max_new_tokens=512)


def test_several_samples_need_a_temperature() -> None:
    with pytest.raises(ValidationError, match="temperature 0"):
        TransformersEngineConfig(samples=3, temperature=0)


def test_a_batch_past_the_memory_is_halved(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _engine(tiny_model, temperature=0.9)
    whole, small = engine.generate(CHATS, SEEDS), engine._generate

    def tight(most: int) -> None:
        def generate(asked: list) -> list:
            if len(asked) > most:
                raise torch.OutOfMemoryError("no room")
            return small(asked)

        monkeypatch.setattr(engine, "_generate", generate)

    tight(2)
    assert [c.text for c in engine.generate(CHATS, SEEDS)] == [c.text for c in whole]
    tight(0)
    with refused("gpu-memory-full", ModelError) as error:
        engine.generate(CHATS, SEEDS)
    assert "max_prompt_tokens" in str(error.value)
