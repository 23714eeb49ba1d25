"""What files of instructions may hold: every value is read as JSON writes it, or its row is counted with its line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.llm.config import JsonlMixConfig, ParquetMixConfig
from llmcf_cli.llm.mix.build import build_mix
from llmcf_cli.llm.mix.instructions import REFUSED, UNREADABLE, FileSource
from llmcf_cli.llm.mix.mixture import MixContext
from llmcf_cli.llm.mix.records import text_of
from llmcf_cli.llm.models.load import load_tokenizer
from llmcf_cli.recipe.sections import LLMSection

Read = Callable[..., tuple[FileSource, list[tuple[list[str], str]]]]
NO_SYSTEM = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('in turn') }}"
    "{% endif %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture
def read(tmp_path: Path, tokenizer: Any) -> Read:
    """What a source of mixes makes of a file's content: rows, or the bytes of the file."""

    def run(content: list[Any] | bytes, *, kind: str = "jsonl", using: Any = tokenizer, **settings: Any):
        file = tmp_path / f"pairs.{kind}"
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content).encode()
        file.write_bytes(content)
        config = {"jsonl": JsonlMixConfig, "parquet": ParquetMixConfig}[kind](path="p", **settings)
        source = FileSource(config, MixContext(tmp_path, lambda _: file, using, 2000, 1))
        drawn = list(source.draw(1000))
        return source, [([m["content"] for m in sample.prompt], sample.completion) for sample in drawn]

    return run


def talk(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("output", "learned"),
    [
        (0, "0"), (1, "1"), (False, "false"), (True, "true"), (0.5, "0.5"),
        ({"a": 1, "ok": True}, '{"a": 1, "ok": true}'),
        ([1, "é"], '[1, "é"]'), ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ({"type": "text", "text": "a"}, "a"), ([{"type": "circle", "r": 1}], '[{"type": "circle", "r": 1}]'),
        (10**30, str(10**30)), ({}, "{}"), ([], "[]"),
    ],
)  # fmt: skip
def test_an_answer_is_any_value_as_json_writes_it(read: Read, output: Any, learned: str) -> None:
    source, pairs = read([{"instruction": "say", "input": "", "output": output}])
    assert pairs == [(["say"], learned)]
    assert not any(source.counts.values())


@pytest.mark.parametrize("output", [None, math.nan, "", " \t\u00a0\n"])
def test_null_nan_and_blank_are_no_answer(read: Read, output: Any) -> None:
    with_answer = {"instruction": "say", "output": "a"}
    source, pairs = read([with_answer, {"instruction": "be", "input": "", "output": output}])
    assert len(pairs) == 1
    assert source.counts["empty"] == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) |
    st.dictionaries(st.text().filter(lambda key: key != "type"), inner), max_leaves=6,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(VALUES)
def test_any_value_is_read_as_it_is_or_is_none(value: Any) -> None:
    found = text_of(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        assert found == ""
    elif isinstance(value, str):
        assert found == value.replace("\0", "").strip()
    elif isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        said = [part.replace("\0", "").strip() for part in value]
        assert found == "\n".join(part for part in said if part)
    else:
        assert repr(json.loads(found)) == repr(json.loads(json.dumps(value)))


def test_rows_may_lack_an_input_and_a_file_all_of_them(read: Read) -> None:
    rows = [{"instruction": "a", "output": "1"}, {"instruction": "b", "input": "x", "output": "2"},
            {"instruction": "c", "input": None, "output": "3"}]  # fmt: skip
    assert sorted(read(rows)[1]) == [(["a"], "1"), (["b\n\nx"], "2"), (["c"], "3")]
    assert sorted(read(rows[:1])[1]) == [(["a"], "1")]
    with refused("column-missing", DataError, names='"context"'):
        read(rows, input="context")


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"instruction": "a", "output": 0}\n', b'\n \n\r\n{"instruction": "a", "output": 0}',
        b'\xef\xbb\xbf\n[{"instruction": "a", "output": 0}]', b'\n\n  [\n {"instruction": "a", "output": 0}]\n',
        b'{"instruction": "a", "output": 0}\r\n\r\n',
    ],
)  # fmt: skip
def test_marks_and_blank_lines_are_passed_over(read: Read, content: bytes) -> None:
    assert read(content)[1] == [(["a"], "0")]


GOOD = [{"instruction": f"say {n}", "output": n} for n in range(8)]
BAD = {
    b"{broken": "not JSON", b"3": "not an object", b'"text"': "not an object", b"\xff{}": "not UTF-8",
    b'{"instruction": "a", "output": "\\ud83d"}': "half a character",
    b'{"instruction": [{"type": "image_url", "image_url": {}}], "output": 1}': "image_url",
}  # fmt: skip


@pytest.mark.parametrize("line", BAD)
def test_a_row_that_cannot_be_read_is_named_and_counted(read: Read, line: bytes) -> None:
    content = b"".join(json.dumps(row).encode() + b"\n" for row in GOOD) + line + b"\n"
    with pytest.raises(DataError) as error:
        read(content)
    assert str(error.value.where).endswith("pairs.jsonl:9")
    assert BAD[line] in error.value.what
    source, pairs = read(content, max_bad_rows=0.2)
    assert len(pairs) == 8
    assert source.counts[UNREADABLE] == 1
    assert "pairs.jsonl:9" in source.bad[0]
    assert BAD[line] in source.bad[0]


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ([("user", "a"), ("tool", "b"), ("assistant", "c")], "turn 2 is by 'tool'"),
        (["a", "b"], "turn 1 is not an object"), ("[half", "not a list"), ({"role": "user"}, "not a list"),
        (
            [("user", [{"type": "image_url", "image_url": "x"}]), ("assistant", "c")],
            "turn 1: a part of type 'image_url'",
        ),
    ],
)  # fmt: skip
def test_a_conversation_that_cannot_be_read_is_counted(read: Read, turns: Any, why: str) -> None:
    if isinstance(turns, list) and isinstance(turns[0], tuple):
        turns = talk(*turns)["messages"]
    source, pairs = read(
        [{"messages": turns}, talk(("user", "hi"), ("assistant", "yes"))], conversation="messages", max_bad_rows=0.5
    )
    assert pairs == [(["hi"], "yes")]
    assert why in source.bad[0]


def test_messages_of_parts_and_lists_written_as_text(read: Read) -> None:
    parts = talk(("user", [{"type": "text", "text": "What is"}, {"type": "text", "text": "0 + 1?"}]), ("assistant", 1))
    thought = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]
    rows = [
        parts, {"messages": json.dumps(talk(("user", "as JSON"), ("assistant", False))["messages"])},
        {"messages": str(talk(("user", "as Python"), ("assistant", "ü"))["messages"])},
        talk(("system", ""), ("human", "hi"), ("gpt", thought)), talk(("user", "no answer")), {"messages": None},
        talk(("user", "hi"), ("assistant", [])),
    ]  # fmt: skip
    source, pairs = read(rows, conversation="messages")
    assert sorted(pairs) == [
        (["What is\n0 + 1?"], "1"), (["as JSON"], "false"), (["as Python"], "ü"), (["hi"], "yes"),
    ]  # fmt: skip
    assert source.counts["empty"] == 3


def test_turns_that_the_template_refuses_are_counted_and_system_turns_join(read: Read, tiny_model: Path) -> None:
    strict = load_tokenizer(tiny_model)
    strict.chat_template = NO_SYSTEM
    rows = [talk(("system", f"be kind {n}"), ("user", "hi"), ("assistant", f"yes {n}")) for n in range(4)]
    source, pairs = read(rows, conversation="messages", using=strict)
    assert source.counts["system turn joined to the user's"] == 4
    assert not source.bad
    twice = [*rows, talk(("user", "hi"), ("user", "there"), ("assistant", "yes"))]
    with refused("rows-unusable", DataError) as error:
        read(twice, conversation="messages", using=strict)
    assert str(error.value.where).endswith(":5")
    source, pairs = read(twice, conversation="messages", using=strict, max_bad_rows=0.2)
    assert len(pairs) == 4
    assert source.counts[REFUSED] == 1


def test_parquet_reads_as_json_does(read: Read, tmp_path: Path) -> None:
    table = pa.table({
        "instruction": ["a", "b", "c", None], "output": pa.array([0, 1, None, 2], pa.int64()),
        "flag": [False, True, None, True], "score": [0.0, math.nan, 1.5, None],
        "talk": [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "0"}], [], None, None],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "made.parquet")
    content = (tmp_path / "made.parquet").read_bytes()
    assert sorted(read(content, kind="parquet")[1]) == [(["a"], "0"), (["b"], "1")]
    assert sorted(read(content, kind="parquet", output="flag")[1]) == [(["a"], "false"), (["b"], "true")]
    assert sorted(read(content, kind="parquet", output="score")[1]) == [(["a"], "0.0"), (["c"], "1.5")]
    assert read(content, kind="parquet", conversation="talk")[1] == [(["q"], "0")]
    with refused("column-missing", DataError, names='"answer"'):
        read(content, kind="parquet", output="answer")


def test_questions_about_nothing_are_refused(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    import duckdb

    blank = tmp_path / "blank.duckdb"
    blank.write_bytes(tiny_data.read_bytes())
    with duckdb.connect(str(blank)) as connection:
        connection.execute("UPDATE item SET text = ' ' WHERE item_row > 1")
    section = LLMSection.model_validate({
        "model": "m", "tune": {"type": "full", "max_length": 400}, "mix": [{"source": "recommendation", "share": 1}],
    })  # fmt: skip
    given = {"data": blank, "locate": Path, "tokenizer": load_tokenizer(tiny_model), "seed": 1}
    with refused("texts-blank", LlmcfError) as error:
        build_mix(section, out=tmp_path / "mix.parquet", **given)
    assert "blank_texts" in error.value.hint
    report = build_mix(section, out=tmp_path / "mix.parquet", blank_texts=1.0, **given)
    assert report.parts[0].counts["item without text"] > 0.9 * report.samples
