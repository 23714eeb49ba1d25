from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest
from refusals import refused

from llmcf_cli.core.errors import LlmcfError, ModelError
from llmcf_cli.llm.writing.preview import Preview, preview_prompts
from llmcf_cli.recipe.dataset import HistorySection
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.prompt import Prompt, load_prompt
from llmcf_cli.recipe.sections import CoTSection

SINGLE = Prompt.model_validate({
    "name": "short",
    "steps": [{
        "name": "answer", "variables": ["history", "item", "decision"],
        "messages": [{"role": "user", "content": "{{history}} then {{item}}: Decision: the user {{decision}}"}],
    }],
})  # fmt: skip
DECOMPOSED = load_prompt(library_dir() / "prompts" / "decomposed.yaml")


@pytest.fixture
def tokenizer_only(tiny_model: Path, tmp_path: Path) -> Path:
    """A model folder whose weights cannot be loaded."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def look(data: Path, model: Path, prompt: Prompt, **engine: int) -> Preview:
    settings = {"type": "transformers", "max_new_tokens": 20, **engine}
    section = CoTSection.model_validate({"prompt": "p", "sample": {"count": 30}, "engine": settings})
    return preview_prompts(
        section, data=data, model=model, prompt=prompt, seed=1, history=HistorySection(), count=3
    )  # fmt: skip


def test_prompts_of_real_rows_without_weights(tiny_data: Path, tokenizer_only: Path) -> None:
    found = look(tiny_data, tokenizer_only, SINGLE)
    assert [one.step for one in found.prompts] == ["answer"] * 3
    assert (found.samples, found.calls) == (30, {"answer": 30})
    assert found.longest == {"answer": 512 - 20}
    assert all(one.fits and not one.shortened and one.answer == 20 for one in found.prompts)
    assert all("Decision: the user" in one.messages[0]["content"] for one in found.prompts)
    shorter = look(tiny_data, tokenizer_only, SINGLE, max_prompt_tokens=found.prompts[-1].tokens - 1)
    assert shorter.prompts[-1].shortened
    assert not any(one.fits for one in look(tiny_data, tokenizer_only, SINGLE, max_prompt_tokens=9).prompts)


def test_texts_to_come_are_marked_and_counted(tiny_data: Path, tokenizer_only: Path) -> None:
    early = DECOMPOSED.model_copy(update={"block": 2})
    found = look(tiny_data, tokenizer_only, early)
    steps = {step: [one for one in found.prompts if one.step == step] for step in ("profile", "description", "match")}
    assert len(steps["description"]) == len(steps["match"]) == 3
    assert steps["profile"]
    assert all("events" in one.about for one in steps["profile"])
    for one in steps["match"]:
        assert "[description]" in one.messages[0]["content"]
        assert one.tokens > 8 + 8  # the texts to come, 8 tokens each, are counted in
    assert any("[profile]" in one.messages[0]["content"] for one in steps["match"])
    assert {step: some[0].answer for step, some in steps.items()} == {"profile": 8, "description": 8, "match": 4}


def test_a_model_without_a_chat_template_is_refused(tiny_data: Path, tokenizer_only: Path) -> None:
    for file in tokenizer_only.glob("chat_template*"):
        file.unlink()
    with refused("model-chat-template-missing", ModelError):
        look(tiny_data, tokenizer_only, SINGLE)


def test_prompts_about_nothing_are_refused(tiny_data: Path, tokenizer_only: Path, tmp_path: Path) -> None:
    blank = tmp_path / "blank.duckdb"
    blank.write_bytes(tiny_data.read_bytes())
    with duckdb.connect(str(blank)) as connection:
        connection.execute("UPDATE item SET text = '' WHERE item_row > 5")
    assert 0 < look(blank, tokenizer_only, SINGLE).blank < 30
    with duckdb.connect(str(blank)) as connection:
        connection.execute("UPDATE item SET text = ' '")
    with refused("texts-blank", LlmcfError):
        look(blank, tokenizer_only, SINGLE)


def _turns(*roles: str) -> Prompt:
    messages = [{"role": role, "content": f"{role} says {{{{item}}}}"} for role in roles]
    return Prompt.model_validate({
        "name": "turns", "steps": [{"name": "answer", "variables": ["item"], "messages": messages}],
    })  # fmt: skip


def test_prompts_are_shown_as_the_model_gets_them(tiny_data: Path, tokenizer_only: Path) -> None:
    (template,) = tokenizer_only.glob("chat_template*")
    template.write_text(
        "{% for m in messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('in turn') }}{% endif %}"
        "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    )
    found = look(tiny_data, tokenizer_only, _turns("system", "user"))
    for one in found.prompts:
        assert [m["role"] for m in one.messages] == ["user"]
        assert one.messages[0]["content"].startswith("system says ")
        assert one.changed
    with refused("prompt-turns", ModelError) as error:
        look(tiny_data, tokenizer_only, _turns("user", "user"))
    assert str(error.value.where) == "cot.prompt p"
