from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.llm.mix import MixReport, build_mix
from llmcf_cli.llm.models import load_tokenizer
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
    assert report.parts[1].counts == {"repeated": 1, "empty": 1, "too long": 0}
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
    [('{"question": "x"}\n', 'no column "instruction"'), ("{broken\n", "no JSON"), ("3\n", "object")],
)
def test_broken_files_are_named_with_their_line(tmp_path, tiny_data, tiny_model, text: str, message: str) -> None:
    file = tmp_path / "general.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        _build(tmp_path, tiny_data, tiny_model, file)
    assert error.value.where == f"{file}:1"
