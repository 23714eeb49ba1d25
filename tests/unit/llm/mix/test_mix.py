from __future__ import annotations

import json
import os
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import refused

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.llm.mix.build import build_mix
from llmcf_cli.llm.mix.decontaminate import EvaluationRuns
from llmcf_cli.llm.mix.reports import MixReport
from llmcf_cli.llm.models.load import load_tokenizer
from llmcf_cli.recipe.sections import LLMSection

PAIRS = [{"instruction": f"say {n}", "input": "loudly" if n % 2 else "", "output": f"it is {n}"} for n in range(30)]


@pytest.fixture
def general(tmp_path: Path) -> Path:
    file = tmp_path / "general.jsonl"
    rows = [*PAIRS, PAIRS[0], {"instruction": "nothing", "input": "", "output": " "}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _build(tmp_path: Path, data: Path, model: Path, general: Path, seed: int = 1, **changes: object):
    source = {"type": "jsonl", "path": "general"}
    section = {
        "model": "m", "tune": {"type": "full", "max_length": 400},
        "mix": [{"source": "recommendation", "share": 0.5}, {"source": source, "share": 0.5}], **changes,
    }  # fmt: skip
    out = tmp_path / f"mix-{seed}.parquet"
    report = build_mix(
        LLMSection.model_validate(section), data=data, locate=lambda _: general,
        tokenizer=load_tokenizer(model), seed=seed, out=out,
    )  # fmt: skip
    return report, pq.read_table(out).to_pylist()


def test_takes_the_most_the_shares_allow_without_repeating(tmp_path, tiny_data, tiny_model, general) -> None:
    report, rows = _build(tmp_path, tiny_data, tiny_model, general)
    # 60 train rows, 20 of them negative: 40 balanced questions; 30 different pairs of general data are the limit.
    assert [part.samples for part in report.parts] == [30, 30]
    assert len({json.dumps([row["prompt"], row["completion"]]) for row in rows}) == 60
    assert {reason: n for reason, n in report.parts[1].counts.items() if n} == {"repeated": 1, "empty": 1}
    assert [(part.available, part.asked, part.share) for part in report.parts] == [(40, 0.5, 0.5), (30, 0.5, 0.5)]
    answers = [row["completion"][0]["content"] for row in rows if row["source"] == "recommendation"]
    assert answers.count("Yes") == answers.count("No") == 15
    assert report.tokens == sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)


def test_asks_only_about_train_rows_with_their_true_label(tmp_path, tiny_data, tiny_model, general) -> None:
    mix = [{"source": {"type": "recommendation", "balance": "none", "template": "{{history}}|{{item}}|{{user}}"},
            "share": 1}]  # fmt: skip
    _, rows = _build(tmp_path, tiny_data, tiny_model, general, mix=mix)
    with duckdb.connect(str(tiny_data), read_only=True) as connection:
        texts = dict(connection.sql("SELECT item_row, text FROM item").fetchall())
        users = dict(connection.sql('SELECT user_row, text FROM "user"').fetchall())
        expected = {
            (
                "; ".join(texts[row] for row in history) + f"|{texts[item]}|{users[user]}",
                "Yes" if label else "No",
            )
            for user, item, label, history in connection.sql(
                "SELECT user_row, item_row, label, history FROM sample WHERE split = 'train'"
            ).fetchall()
        }
    assert {(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows} == expected


def test_same_seed_same_mix_other_seed_another(tmp_path, tiny_data, tiny_model, general) -> None:
    first, again = (_build(tmp_path, tiny_data, tiny_model, general, count=20)[1] for _ in range(2))
    other = _build(tmp_path, tiny_data, tiny_model, general, seed=2, count=20)[1]
    assert first == again
    assert first != other


def test_drops_the_oldest_history_to_fit_and_says_so(tmp_path, tiny_data, tiny_model, general) -> None:
    report, rows = _build(tmp_path, tiny_data, tiny_model, general, tune={"type": "full", "max_length": 150})
    assert report.parts[0].counts["history shortened"] > 0
    assert max(row["prompt_tokens"] + row["completion_tokens"] for row in rows) <= 150
    asked = [row["prompt"][0]["content"] for row in rows if row["source"] == "recommendation"]
    assert all("Will the user like it?" in text for text in asked)


@pytest.mark.parametrize(("count", "share", "numbers"), [(100, 0.5, ("50", "40", "60")), (40, 0.1, ("36", "30"))])
def test_more_than_there_is_is_refused_with_numbers(
    tmp_path, tiny_data, tiny_model, general, count: int, share: float, numbers: tuple[str, ...]
) -> None:
    mix = [{"source": "recommendation", "share": share},
           {"source": {"type": "jsonl", "path": "general"}, "share": 1 - share}]  # fmt: skip
    with pytest.raises(LlmcfError) as error:
        _build(tmp_path, tiny_data, tiny_model, general, count=count, mix=mix)
    assert all(number in str(error.value) for number in numbers)


def test_reads_parquet_with_named_columns(tmp_path, tiny_data, tiny_model) -> None:
    file = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"q": ["what?", "who?"], "a": ["this", "she"]}), file)
    source = {"type": "parquet", "path": "p", "instruction": "q", "input": "", "output": "a"}
    report, rows = _build(tmp_path, tiny_data, tiny_model, file, mix=[{"source": source, "share": 1}])
    assert isinstance(report, MixReport)
    assert {(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows} == {
        ("what?", "this"), ("who?", "she"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"question": "x"}\n', 'no column "instruction"'), ("{broken\n", "not JSON"), ("3\n", "object")],
)
def test_broken_files_are_named_with_their_line(tmp_path, tiny_data, tiny_model, text: str, message: str) -> None:
    file = tmp_path / "general.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        _build(tmp_path, tiny_data, tiny_model, file)
    assert str(error.value.where) == f"{file}:1"


def test_a_cap_holds_the_others_to_their_shares(tmp_path, tiny_data, tiny_model, general) -> None:
    source = {"type": "jsonl", "path": "general"}
    mix = [{"source": "recommendation", "share": 0.5}, {"source": source, "share": 0.5, "max_count": 7}]
    report, _ = _build(tmp_path, tiny_data, tiny_model, general, mix=mix)
    assert [(part.available, part.samples) for part in report.parts] == [(40, 7), (30, 7)]


def test_phrasings_are_drawn_and_the_same_for_the_same_seed(tmp_path, tiny_data, tiny_model, general) -> None:
    source = {"type": "recommendation", "template": "A {{item}}", "templates": ["B {{item}} {{user}}", "C {{item}}"]}
    mix = [{"source": source, "share": 1}]
    rows, again = (_build(tmp_path, tiny_data, tiny_model, general, mix=mix)[1] for _ in range(2))
    first = [row["prompt"][0]["content"][0] for row in rows]
    assert {"A", "B", "C"} == set(first)
    assert rows == again
    assert all("years old" in row["prompt"][0]["content"] for row in rows if row["prompt"][0]["content"][0] == "B")
    with pytest.raises(ValueError, match="unknown variable"):
        RecommendationMixConfig(templates=("{{itm}}",))


@pytest.mark.parametrize("style", ["messages", "sharegpt", "array"])
def test_reads_conversations_and_arrays(tmp_path, tiny_data, tiny_model, style: str) -> None:
    roles = {"messages": ("system", "user", "assistant"), "sharegpt": ("system", "human", "gpt")}.get(style)
    file = tmp_path / "general.json"
    if roles is None:
        file.write_text(json.dumps(PAIRS[:2]))
        source = {"type": "jsonl", "path": "general"}
        expected = (["say 0"], "it is 0")
    else:
        keys = ("role", "content") if style == "messages" else ("from", "value")
        said = [(roles[0], "be kind"), (roles[1], "hi"), (roles[2], "hello"), (roles[1], "why?"), (roles[2], "so"),
                (roles[1], "bye")]  # fmt: skip
        talk = {"talk": [dict(zip(keys, turn, strict=True)) for turn in said]}
        file.write_text(json.dumps(talk) + "\n" + json.dumps({"talk": talk["talk"][:2]}) + "\n")
        source = {"type": "jsonl", "path": "general", "conversation": "talk"}
        expected = (["be kind", "hi", "hello", "why?"], "so")
    report, rows = _build(tmp_path, tiny_data, tiny_model, file, mix=[{"source": source, "share": 1}])
    found = [([m["content"] for m in row["prompt"]], row["completion"][0]["content"]) for row in rows]
    assert expected in found
    if roles:
        assert report.parts[0].counts["empty"] == 1
        assert [m["role"] for m in rows[0]["prompt"]] == ["system", "user", "assistant", "user"]


def test_a_conversation_where_pairs_are_expected_is_pointed_out(tmp_path, tiny_data, tiny_model) -> None:
    file = tmp_path / "general.jsonl"
    file.write_text(json.dumps({"conversations": []}) + "\n")
    with pytest.raises(DataError) as error:
        _build(tmp_path, tiny_data, tiny_model, file)
    assert "conversation: conversations" in error.value.hint


def test_sources_do_not_repeat_each_other(tmp_path, tiny_data, tiny_model) -> None:
    file = tmp_path / "general.jsonl"
    loud = {"instruction": "SAY  3!", "input": "loudly", "output": "It is 3"}
    file.write_text("".join(json.dumps(row) + "\n" for row in [*PAIRS[:10], loud]))
    source = {"type": "jsonl", "path": "general"}
    with refused("mix-source-empty", LlmcfError):
        _build(tmp_path, tiny_data, tiny_model, file, mix=[{"source": source, "share": 0.5}] * 2)
    report, _ = _build(tmp_path, tiny_data, tiny_model, file, mix=[{"source": source, "share": 1}])
    assert report.parts[0].samples == 10
    assert report.parts[0].counts["repeated but for case or spacing"] == 1


def test_evaluation_texts_stay_out(tmp_path, tiny_data, tiny_model, general) -> None:
    words = [f"w{n}" for n in range(30)]
    long, short = " ".join(words), "one two three four five six seven eight nine"
    pq.write_table(pa.table({"question": [long, short], "choices": [["a", "b"], []]}), tmp_path / "eval.parquet")
    runs = EvaluationRuns([tmp_path / "eval.parquet"])
    assert runs.meet("before " + " ".join(words[5:18]).upper() + ", after")
    assert not runs.meet(" ".join(words[5:17]) + " after")
    assert runs.meet(f"I count: {short}.")
    assert not runs.meet("one two three four five six seven eight and nine")
    leak = {"instruction": "count", "input": "", "output": short}
    general.write_text("".join(json.dumps(row) + "\n" for row in [*PAIRS, leak]))
    with (tmp_path / "eval.jsonl").open("w") as file:
        file.write(json.dumps({"q": [short]}) + "\n")
    section = LLMSection.model_validate({
        "model": "m", "tune": {"type": "full", "max_length": 400}, "decontaminate": [str(tmp_path / "eval.jsonl")],
        "mix": [{"source": {"type": "jsonl", "path": str(general)}, "share": 1}],
    })  # fmt: skip
    report = build_mix(
        section, data=tiny_data, locate=Path, tokenizer=load_tokenizer(tiny_model), seed=1, out=tmp_path / "mix.parquet"
    )
    assert report.parts[0].counts["in an evaluation set"] == 1
    assert report.samples == 30


def test_no_sample_is_longer_than_the_models_context(tmp_path, tiny_data, tiny_model, general) -> None:
    section = LLMSection.model_validate({
        "model": "m", "tune": {"type": "full", "max_length": 400}, "mix": [{"source": "recommendation", "share": 1}],
    })  # fmt: skip
    report = build_mix(
        section, data=tiny_data, locate=Path, tokenizer=load_tokenizer(tiny_model), seed=1,
        out=tmp_path / "mix.parquet", context=130,
    )  # fmt: skip
    assert report.max_length == 130
    assert report.parts[0].longest <= 130
    assert report.parts[0].counts["history shortened"] > 0


def test_the_evaluation_sets_of_general_ability_are_read() -> None:
    folder = Path(os.environ.get("LLMCF_SHARED_DATA") or Path(__file__).parents[5] / "shared" / "data") / "eval_general"
    if not folder.is_dir():
        pytest.skip(f"no evaluation sets in {folder}")
    file = folder / "piqa.parquet"
    runs = EvaluationRuns([file])
    texts = [" ".join(v for v in row.values() if isinstance(v, str)) for row in pq.read_table(file).to_pylist()]
    long = [text for text in texts if len(text.split()) > 20]
    assert all(runs.meet(f"Question: {text}") for text in long[:50])
    assert not any(runs.meet(f"{pair['instruction']} {pair['output']}") for pair in PAIRS)
