from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llmcf_cli.llm.models.load import load_tokenizer
from llmcf_cli.llm.prompts.chat import encode_pair, fit_histories

HISTORIES = st.lists(st.lists(st.text("ab", min_size=1, max_size=9), max_size=12), max_size=5)


@given(HISTORIES, st.integers(3, 60))
@settings(deadline=None, max_examples=200)
def test_keeps_the_longest_newest_part_that_fits(histories: list[list[str]], longest: int) -> None:
    def tokens(history: list[str]) -> int:
        return 5 + sum(map(len, history))

    kept, counts = fit_histories(histories, longest, lambda _, tried: [tokens(history) for history in tried])
    for history, got, count in zip(histories, kept, counts, strict=True):
        fitting = [history[i:] for i in range(len(history) + 1) if tokens(history[i:]) <= longest]
        assert got == (fitting[0] if fitting else [])
        assert count == tokens(got)


def test_pair_is_split_where_generation_starts(tiny_model) -> None:
    tokenizer = load_tokenizer(tiny_model)
    prompt, answer = [{"role": "user", "content": "a film?"}], [{"role": "assistant", "content": "Yes"}]
    ids, first = encode_pair(tokenizer, prompt, answer)
    assert tokenizer.decode(ids[:first]) == "<|user|>a film?<|end|>\n<|assistant|>"
    assert tokenizer.decode(ids[first:]) == "Yes<|end|>"
    assert ids[:first] == tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
