"""What a recipe asks, in several steps and about users and items, is exported whole: elsewhere no call is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcf_cli.llm.engines.base import Completion
from llmcf_cli.llm.engines.transformers import TransformersEngine
from llmcf_cli.llm.writing import generate, knowledge
from llmcf_cli.llm.writing.travel import export_texts, import_texts
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.recipe.asking import KnowledgeSection
from llmcf_cli.recipe.dataset import HistorySection
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.prompt import load_prompt
from llmcf_cli.recipe.sections import CoTSection
from llmcf_cli.store.open import connect_read, read_parquet

ENGINE = {"type": "transformers", "max_new_tokens": 20, "precision": "fp32", "max_batch": 4, "max_prompt_tokens": 400}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that a model is asked, which answers with words of the question; a third of its answers is no good."""
    seen: list[str] = []

    def answer(self, chats, seeds):
        seen.extend(chat[-1]["content"] for chat in chats)
        return [
            Completion(" ".join(chat[-1]["content"].split()[-9:]) if seed % 3 else "", "stop", 1, 1, 0.0)
            for chat, seed in zip(chats, seeds, strict=True)
        ]

    monkeypatch.setattr(TransformersEngine, "generate", answer)
    return seen


def carried(calls, here: Path, there: Path, file: Path, **options) -> int:
    """Take the texts of some calls from one cache to another; how many."""
    with SharedTexts(here) as store:
        found = export_texts(store, calls, {}, file, **options)
    with SharedTexts(there) as store:
        assert import_texts(store, file).new == found.texts
    return found.texts


def test_chains_of_thought_in_steps_with_further_rounds(tmp_path, tiny_data, tiny_model, asked):
    prompt = tmp_path / "p.yaml"
    prompt.write_text((library_dir() / "prompts" / "decomposed.yaml").read_text().replace("block: 20", "block: 2"))
    judge = {"type": "rubric", "min_words": 1, "min_coherence": 0, "max_echo": 1, "truncated": "keep"}
    section = CoTSection.model_validate(
        {"prompt": str(prompt), "sample": {"count": 30}, "engine": ENGINE, "judge": judge, "regenerate": 2}
    )
    arguments = {
        "section": section, "data": tiny_data, "model": tiny_model, "model_digest": "m", "prompt": load_prompt(prompt),
        "seed": 1, "history": HistorySection(),
    }  # fmt: skip
    here, there = tmp_path / "here.sqlite", tmp_path / "there.sqlite"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = generate.generate_cots(**arguments, cache=here, out=tmp_path / "a")
    assert first.regenerated > 0
    calls = generate.list_calls(**arguments, cache=here)
    assert {call.about for call in calls} == {"user", "item"}
    assert carried(calls, here, there, tmp_path / "t.parquet") == first.generated == len(asked)
    asked.clear()
    second = generate.generate_cots(**arguments, cache=there, out=tmp_path / "b")
    assert (asked, second.generated, second.kept) == ([], 0, first.kept)
    assert (tmp_path / "a" / "cot.parquet").read_bytes() == (tmp_path / "b" / "cot.parquet").read_bytes()


def test_knowledge_about_items_alone(tmp_path, tiny_data, tiny_model, asked):
    prompts = {kind: load_prompt(library_dir() / "prompts" / f"kar_{kind}.yaml") for kind in ("user", "item")}
    section = KnowledgeSection.model_validate({"user_prompt": "u", "item_prompt": "i", "engine": ENGINE})
    arguments = {
        "section": section, "data": tiny_data, "model": tiny_model, "model_digest": "m", "seed": 1,
        "prompts": prompts,
    }  # fmt: skip
    here, there = tmp_path / "here.sqlite", tmp_path / "there.sqlite"
    first = knowledge.write_knowledge(**arguments, cache=here, out=tmp_path / "a.parquet")
    calls = knowledge.list_calls(**arguments, cache=here)
    users = sum(len(call.prompts) for call in calls if call.about == "user")
    texts = carried(calls, here, there, tmp_path / "t.parquet", without=["user"])
    assert 0 < users == first.generated - texts
    asked.clear()
    second = knowledge.write_knowledge(**arguments, cache=there, out=tmp_path / "b.parquet")
    assert (second.generated, second.cached) == (users, texts)


def test_the_texts_of_some_users_can_be_told_and_removed(tmp_path, tiny_data, tiny_model, monkeypatch):
    made = []

    def answer(self, chats, seeds):
        made.extend(seeds)
        return [Completion(f"They took it for reason {seed}, which no other has.", "stop", 1, 1, 0.0) for seed in seeds]

    monkeypatch.setattr(TransformersEngine, "generate", answer)
    prompt = load_prompt(library_dir() / "prompts" / "single.yaml")
    judge = {"type": "rubric", "min_words": 1, "min_coherence": 0, "max_echo": 1, "truncated": "keep"}
    section = CoTSection.model_validate({"prompt": "p", "sample": {"count": 30}, "engine": ENGINE, "judge": judge})
    arguments = {
        "section": section, "data": tiny_data, "model": tiny_model, "model_digest": "m", "prompt": prompt, "seed": 1,
        "history": HistorySection(),
    }  # fmt: skip
    cache = tmp_path / "here.sqlite"
    generate.generate_cots(**arguments, cache=cache, out=tmp_path)
    with connect_read(tiny_data) as con:
        kept = [row["sample_id"] for row in read_parquet(tmp_path / "cot.parquet").to_pylist()]
        owners = dict(con.execute("SELECT sample_id, user_row FROM sample").fetchall())
    users = sorted({owners[sample] for sample in kept})[:2]

    def prompts(users):
        return {p for call in generate.list_calls(**arguments, cache=cache, users=users) for p in call.prompts}

    theirs, everybody = prompts(users), prompts(None)
    assert set() < theirs < everybody
    assert prompts(set(owners.values())) == everybody
    with SharedTexts(cache) as store:
        counts = store.counts()
        gone = store.forget(theirs)
        assert gone == sum(counts[p] for p in theirs)
        assert store.counts() == {p: count for p, count in counts.items() if p not in theirs}
    content = cache.read_bytes()
    assert not any(p.encode() in content for p in theirs)
    made.clear()
    assert generate.generate_cots(**arguments, cache=cache, out=tmp_path).generated == len(made) == gone
