"""Where an answer begins, for the kinds of chat templates that models have; and turns that a template does not take."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from llmcf_cli.llm.models.load import load_tokenizer
from llmcf_cli.llm.prompts.chat import Chats, TemplateRefusal, encode_pair
from llmcf_cli.llm.prompts.spoken import CUT_OFF, ONLY_THOUGHT, spoken, storable

USER = [{"role": "user", "content": "a film?"}]
SYSTEM = [{"role": "system", "content": "be kind"}]
YES = [{"role": "assistant", "content": "Yes"}]


def _turns(before: str = "") -> str:
    return "{% for m in messages %}<|{{ m['role'] }}|>" + before + "{{ m['content'] }}<|end|>\n{% endfor %}"


def _ask(after: str = "") -> str:
    return "{% if add_generation_prompt %}<|assistant|>" + after + "{% endif %}"


_EMPTY = "<think>\n\n</think>\n\n"
_LAST = "{% if loop.last and m['role'] == 'assistant' %}" + _EMPTY + "{% endif %}"

TEMPLATES = {
    "plain": (_turns() + _ask(), "<|assistant|>"),
    "thinks unless told not to": (
        _turns(_LAST) + _ask("{% if enable_thinking is defined and not enable_thinking %}" + _EMPTY + "{% endif %}"),
        "<|assistant|>" + _EMPTY,
    ),
    "cannot be told not to think": (_turns(_LAST) + _ask(), "<|assistant|>" + _EMPTY),
    "always opens a block": (_turns(_LAST) + _ask("<think>\n"), "<|assistant|>" + _EMPTY),
    "opens a block that answers do not have": (_turns() + _ask("<think>\n"), "<|assistant|>" + _EMPTY),
    "opens a block at the line's end": (_turns() + _ask("<think>"), "<|assistant|><think>\n\n</think>\n\n"),
    "told by another name": (
        _turns() + _ask("{% if thinking is not defined or thinking %}<think>\n{% else %}</think>{% endif %}"),
        "<|assistant|></think>",
    ),
    "channels": (
        _turns("{% if m['role'] == 'assistant' %}final: {% endif %}") + _ask(), "<|assistant|>final:"
    ),
    "only asks in words": (_turns() + _ask("Answer:"), "<|assistant|>Answer:"),
}  # fmt: skip


@pytest.fixture
def made(tiny_model: Path) -> Callable[[str], Any]:
    """The tiny model's tokenizer with another template."""

    def make(template: str) -> Any:
        tokenizer = load_tokenizer(tiny_model)
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.mark.parametrize("kind", TEMPLATES)
def test_asked_and_trained_at_one_place_after_all_that_the_template_writes(made: Any, kind: str) -> None:
    template, prefix = TEMPLATES[kind]
    tokenizer = made(template)
    ids, start = encode_pair(tokenizer, USER, YES)
    assert tokenizer.decode(ids[:start]) == f"<|user|>a film?<|end|>\n{prefix}"
    assert tokenizer.decode(ids[start:]).strip() == "Yes<|end|>"
    assert Chats(tokenizer).prompts([USER]) == [ids[:start]]


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
IN_TURN = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('in turn!') }}"
    "{% endif %}{% endfor %}"
)
DEAF = "{% for m in messages if m['role'] != 'system' %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
BROKEN = "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + 1 }}{% endif %}"


@pytest.mark.parametrize("template", [NO_SYSTEM + _turns(), IN_TURN + _turns(), DEAF, BROKEN + _turns()])
def test_a_system_turn_joins_the_users_where_there_is_none(made: Any, template: str) -> None:
    tokenizer = made(template + _ask())
    chats = Chats(tokenizer)
    (ids,) = chats.prompts([[*SYSTEM, *USER]])
    assert tokenizer.decode(ids) == "<|user|>be kind\n\na film?<|end|>\n<|assistant|>"
    assert chats.as_read([*SYSTEM, *USER]) == [{"role": "user", "content": "be kind\n\na film?"}]
    ((pair, start),) = chats.pairs([([*SYSTEM, *USER], "Yes")])
    assert (pair[:start], tokenizer.decode(pair[start:])) == (ids, "Yes<|end|>")


@pytest.mark.parametrize("chat", [[*USER, *USER], [*SYSTEM], [*SYSTEM, *YES], [*SYSTEM, *USER, *USER]])
def test_turns_that_a_template_refuses_are_an_error(made: Any, chat: Any) -> None:
    chats = Chats(made(NO_SYSTEM + IN_TURN + _turns() + _ask()))
    for _ in range(2):
        with pytest.raises(TemplateRefusal) as error:
            chats.prompts([chat])
        assert ", ".join(m["role"] for m in chat) in str(error.value)


def test_a_template_that_leaves_a_turn_out_is_not_believed(made: Any) -> None:
    chats = Chats(made("{% for m in messages[-1:] %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"))
    with refused("model-chat-refused", TemplateRefusal):
        chats.prompts([[*USER, *YES, *USER]])


@pytest.mark.parametrize(
    ("text", "said", "why"),
    [
        ("Yes.", "Yes.", ""), ("", "", ""),
        ("<think>\nhm\n</think>\n\nYes.", "Yes.", ""),
        ("hm\n</think>\n\nYes.", "Yes.", ""),  # the prompt began the block
        ("<think>a <think> b</think> c</think>Yes.", "Yes.", ""),
        ("<think></think>Yes. <THINKING>more</thinking>No.", "Yes. No.", ""),
        ("[THINK]hm[/THINK]Yes.", "Yes.", ""), ("◁think▷hm◁/think▷Yes.", "Yes.", ""),
        ("<think>hm, I should", "", CUT_OFF), ("Yes. <think>hm", "", CUT_OFF),
        ("<think>hm</think>\n", "", ONLY_THOUGHT),
        ("I think that <b>think</b> fits.", "I think that <b>think</b> fits.", ""),
    ],
)  # fmt: skip
def test_think_blocks_are_no_part_of_what_is_said(text: str, said: str, why: str) -> None:
    assert spoken(text) == (said, why)
    assert spoken(said) == (said, "")


def test_what_utf8_cannot_hold_is_replaced() -> None:
    assert storable("a\ud83d b\0 \ud83d\ude00 é") == "a� b 😀 é"


@pytest.mark.parametrize(
    "template",
    ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{{ 'a' * 10**10 }}",
     "{{ '%9999999999d' % 1 }}", "{{ 9**(9**9) }}"],
)  # fmt: skip
def test_a_template_that_takes_too_much_is_ended(made: Any, template: str) -> None:
    before = time.process_time()
    with pytest.raises(TemplateRefusal):
        Chats(made(template)).prompts([[{"role": "user", "content": "hi"}]])
    assert time.process_time() - before < 2
