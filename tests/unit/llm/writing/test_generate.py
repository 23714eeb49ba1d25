from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from refusals import refused

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SilentProgress
from llmcf_cli.llm.prompts.rows import choose_train
from llmcf_cli.llm.writing import generate as generate_module
from llmcf_cli.llm.writing.generate import generate_cots
from llmcf_cli.recipe.dataset import HistorySection
from llmcf_cli.recipe.prompt import load_prompt
from llmcf_cli.recipe.sections import CoTSection, TrainSampleSection
from llmcf_cli.store.tables import COT

PROMPT = """
name: tiny
variables: [history, item, decision]
messages:
  - {role: user, content: "{{#history}}{{.}}, {{/history}}then {{item}}: {{decision}}. Why?"}
sections:
  - {name: any, words: [a]}
"""
ENGINE = {"type": "transformers", "max_new_tokens": 8, "precision": "fp32"}
LENIENT = {"type": "rubric", "min_words": 1, "min_coherence": 0, "truncated": "keep"}


def _section(sample: dict[str, object], engine: dict[str, object] | None = None, judge: object = LENIENT) -> CoTSection:
    return CoTSection.model_validate(
        {"prompt": "p", "sample": sample, "engine": {**ENGINE, **(engine or {})}, "judge": judge}
    )


@pytest.fixture
def run(tmp_path: Path, tiny_data: Path, tiny_model: Path):
    prompt = tmp_path / "prompt.yaml"
    prompt.write_text(PROMPT)

    def generate(sample: dict[str, object], engine: dict[str, object] | None = None, **changes: object):
        options = {"cache": tmp_path / "cache.sqlite", "seed": 1, "judge": LENIENT, **changes}
        section = _section(sample, engine, options.pop("judge"))
        report = generate_cots(
            section, data=tiny_data, model=tiny_model, model_digest="m", prompt=load_prompt(prompt),
            out=tmp_path, history=HistorySection(), **options,
        )  # fmt: skip
        return report, pq.read_table(tmp_path / "cot.parquet")

    return generate


def test_writes_a_row_for_every_chosen_train_sample(run, tiny_data: Path) -> None:
    report, table = run({"count": 15})
    assert table.schema.equals(COT.schema)
    ids = table["sample_id"].to_pylist()
    assert ids == sorted(set(ids))
    assert len(ids) == report.kept == report.wanted == 15
    with duckdb.connect(str(tiny_data), read_only=True) as connection:
        rows = connection.execute(
            "SELECT split, label, item.text FROM sample JOIN item USING (item_row) "
            "WHERE sample_id IN (SELECT unnest(?)) ORDER BY sample_id", [ids],
        ).fetchall()  # fmt: skip
    assert {split for split, _, _ in rows} == {"train"}
    for (_, label, item), prompt in zip(rows, table["prompt"].to_pylist(), strict=True):
        assert prompt.endswith(f"then {item}: {'liked' if label else 'did not like'}. Why?")


def test_larger_samples_contain_and_reuse_the_smaller(run) -> None:
    small, few = run({"fraction": 0.2})
    large, many = run({"fraction": 0.5})
    assert (small.wanted, large.wanted) == (12, 30)
    assert (small.generated, small.cached) == (12, 0)
    assert (large.generated, large.cached) == (18, 12)
    texts = dict(zip(many["sample_id"].to_pylist(), many["text"].to_pylist(), strict=True))
    assert all(texts[i] == text for i, text in zip(few["sample_id"].to_pylist(), few["text"].to_pylist(), strict=True))


def test_same_texts_whatever_the_cache_held(run, tmp_path: Path) -> None:
    run({"count": 7}, {"max_batch": 3})
    _, pieced = run({"count": 20}, {"max_batch": 5})
    _, whole = run({"count": 20}, cache=tmp_path / "other.sqlite")
    assert pieced.equals(whole)
    _, other = run({"count": 20}, seed=2)
    assert not set(other["text"].to_pylist()) & set(whole["text"].to_pylist())


def test_more_samples_per_row_add_to_the_cache_and_raise_the_score(run) -> None:
    one, _ = run({"count": 10})
    three, _ = run({"count": 10}, {"samples": 3})
    assert (three.generated, three.cached) == (20, 10)
    assert three.scores["score"] >= one.scores["score"]


@pytest.mark.parametrize(("count", "positive"), [(10, 5), (40, 20), (50, 30)])
def test_balance_takes_both_labels_as_far_as_they_go(tiny_data: Path, count: int, positive: int) -> None:
    with duckdb.connect(str(tiny_data), read_only=True) as connection:
        ids, fewer = (
            choose_train(connection, TrainSampleSection(count=n, balance="labels"), 1, "cot.sample")
            for n in (count, count - 1)
        )
        labels = connection.execute(
            "SELECT sum(label) FROM sample WHERE sample_id IN (SELECT unnest(?))", [ids.tolist()]
        )
        assert labels.fetchone()[0] == positive
    assert set(fewer) < set(ids)


def test_more_than_the_train_split_is_refused(run) -> None:
    with refused("sample-too-large", LlmcfError, names="61.*60"):
        run({"count": 61})


def test_long_prompts_lose_their_oldest_history_and_are_counted(run) -> None:
    report, table = run({"count": 30}, {"max_prompt_tokens": 120})
    assert report.histories_shortened > 0
    assert all("Why?" in prompt for prompt in table["prompt"].to_pylist())
    with refused("cot-none-usable", LlmcfError, names="5.*5"):
        run({"count": 5}, {"max_prompt_tokens": 10})


def test_unusable_texts_are_dropped_and_counted(run) -> None:
    strict = {"type": "rubric", "min_words": 3}
    report, table = run({"count": 30}, judge=strict)
    assert report.dropped["empty"] > 0
    assert report.kept + sum(report.dropped.values()) == report.wanted == 30
    assert table.num_rows == report.kept
    with refused("cot-none-usable", LlmcfError, names="30"):
        run({"count": 30}, judge={"type": "rubric", "min_words": 500})


def test_what_it_costs_is_measured_and_said_only_where_a_text_is_missing(run, monkeypatch) -> None:
    class Notes(SilentProgress):
        def __init__(self) -> None:
            self.said: list[str] = []

        def say(self, text: str) -> None:
            self.said.append(text)

    first, again, more = Notes(), Notes(), Notes()
    report, _ = run({"count": 10}, progress=first)
    assert first.said[0].startswith("calls to make  10 (0 of 10 texts are cached)")
    assert report.estimate["calls"] == 10
    with monkeypatch.context() as patch:
        patch.setattr(generate_module, "_demand", lambda *_: pytest.fail("measured although all texts are there"))
        report, table = run({"count": 10}, progress=again)
    assert again.said == []
    assert (report.generated, report.cached, table.num_rows) == (0, 10, report.kept)
    assert (report.estimate["calls"], report.estimate["seconds"]) == (0, 0.0)
    report, _ = run({"count": 12}, progress=more)
    assert [text.split("  ")[0] for text in more.said] == ["calls to make"]
    assert report.estimate["calls"] == report.generated == 2
