"""Texts that travel: what a file may hold, and what it does to a cache."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.core.hashing import digest_json, digest_text
from llmcf_cli.llm.writing.travel import MAX_TEXT, StepCalls, export_texts, import_texts
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.store.tables import GENERATION, TRAVELLING_TEXT

SETTINGS = {"temperature": 0.5}
DECODE = digest_json(SETTINGS)
MODEL = "a" * 64


def row(**changes):
    return {
        "prompt_hash": digest_text("p"), "model_digest": MODEL, "decode_hash": DECODE, "sample_index": 0,
        "step": "cot", "about": "user", "text": "a text", "finish_reason": "stop", "prompt_tokens": 3,
        "new_tokens": 2, "decode": json.dumps(SETTINGS), "coherence": 1.0, "completeness": 1.0, "relevance": 1.0,
        "consistency": 1.0, "score": 1.0, "kept": True, **changes,
    }  # fmt: skip


def written(tmp_path, *rows):
    file = tmp_path / "texts.parquet"
    schema = pa.schema([field.with_nullable(True) for field in TRAVELLING_TEXT.schema])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), file)
    return file


def taken(tmp_path, file, models=None):
    with SharedTexts(tmp_path / "cache.sqlite") as store:
        return import_texts(store, file, models)


def cached(tmp_path):
    with SharedTexts(tmp_path / "cache.sqlite") as store, store.transaction() as connection:
        return connection.execute(f"SELECT prompt_hash, sample_index, text FROM {GENERATION.name}").fetchall()


def test_what_is_here_stays(tmp_path):
    assert vars(taken(tmp_path, written(tmp_path, row()))) == {
        "texts": 1, "new": 1, "same": 0, "kept": 0, "models": {MODEL: 1}
    }  # fmt: skip
    found = taken(tmp_path, written(tmp_path, row(text="another"), row(sample_index=1)))
    assert (found.new, found.same, found.kept) == (1, 0, 1)
    assert {text for _, _, text in cached(tmp_path)} == {"a text"}
    again = taken(tmp_path, written(tmp_path, row(), row(sample_index=1)))
    assert (again.new, again.same, again.kept) == (0, 2, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_hash": "p"}, {"prompt_hash": None}, {"decode_hash": "0" * 64}, {"decode": "{"}, {"decode": "[" * 9999},
        {"sample_index": -1}, {"sample_index": 1 << 20}, {"new_tokens": -1}, {"finish_reason": "other"},
        {"about": "all"}, {"text": None}, {"text": "x" * (MAX_TEXT + 1)}, {"text": "a\0b"}, {"score": float("nan")},
        {"model_digest": "m" * 2000}, {"step": None},
    ],
)  # fmt: skip
def test_a_wrong_row_is_refused_and_nothing_of_the_file_is_taken(tmp_path, wrong):
    file = written(tmp_path, row(sample_index=7), row(**wrong))
    with refused("texts-invalid", DataError):
        taken(tmp_path, file)
    assert cached(tmp_path) == []


def test_a_text_twice_and_a_model_that_the_lock_does_not_have_are_refused(tmp_path):
    with refused("texts-invalid", DataError, names="duplicate"):
        taken(tmp_path, written(tmp_path, row(), row()))
    with refused("texts-invalid", DataError, names=MODEL):
        taken(tmp_path, written(tmp_path, row()), {"b" * 64})


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": ["a"]}), file)
    with refused("texts-format", DataError):
        taken(tmp_path, file)
    file.write_bytes(b"PAR1 nothing PAR1")
    with refused("file-format", DataError):
        taken(tmp_path, file)
    with refused("path-missing", DataError):
        taken(tmp_path, tmp_path / "none")


def test_what_is_exported_is_what_was_asked(tmp_path):
    taken(tmp_path, written(tmp_path, *(row(prompt_hash=digest_text(str(n)), sample_index=i)
                                        for n in range(5) for i in range(2))))  # fmt: skip
    asked = tuple(digest_text(str(n)) for n in (1, 3, 9))
    calls = [StepCalls("cot", "user", MODEL, DECODE, json.dumps(SETTINGS), asked, 2),
             StepCalls("again", "user", MODEL, DECODE, json.dumps(SETTINGS), asked[:1], 2)]  # fmt: skip
    out = tmp_path / "out.parquet"
    scores = {(asked[0], 1): {"score": 0.5, "kept": True}}
    with SharedTexts(tmp_path / "cache.sqlite") as store:
        found = export_texts(store, calls, scores, out)
    assert (found.texts, found.asked, found.left_out, found.steps) == (4, 6, {}, {"cot": 4})
    rows = pq.read_table(out).to_pylist()
    assert {(one["prompt_hash"], one["sample_index"]) for one in rows} == {(p, i) for p in asked[:2] for i in range(2)}
    assert [one["score"] for one in rows if one["kept"]] == [0.5]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(texts=st.lists(st.text(max_size=40).filter(lambda text: "\0" not in text), min_size=1, max_size=8))
def test_texts_arrive_as_they_were_written(tmp_path_factory, texts):
    tmp_path = tmp_path_factory.mktemp("texts")
    try:
        file = written(tmp_path, *(row(sample_index=i, text=text) for i, text in enumerate(texts)))
    except UnicodeEncodeError:  # half a character: no file holds it
        return
    try:
        taken(tmp_path, file)
    except LlmcfError:
        pytest.fail("a text was refused")
    assert [text for _, _, text in sorted(cached(tmp_path), key=lambda one: one[1])] == texts
