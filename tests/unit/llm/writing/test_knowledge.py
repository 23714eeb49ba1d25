"""Knowledge texts: about whom, from what, never twice, and never from what a sample must not know."""

from __future__ import annotations

import random
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from refusals import refused

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.llm.engines.base import Completion
from llmcf_cli.llm.engines.transformers import TransformersEngine
from llmcf_cli.llm.writing.knowledge import write_knowledge, write_knowledge_from_data
from llmcf_cli.llm.writing.subjects import ALWAYS
from llmcf_cli.recipe.asking import KnowledgeSection
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.prompt import load_prompt
from llmcf_cli.store.tables import ITEM, KNOWLEDGE_TEXT, SAMPLE, USER

PROMPTS = {
    "user": """
name: user
variables: [history, user]
messages:
  - {role: user, content: "{{user}}: {{#history}}<{{.}}>{{/history}}"}
""",
    "item": """
name: item
variables: [item]
messages:
  - {role: user, content: "What is <{{item}}>?"}
""",
}
ENGINE = {"type": "transformers", "max_new_tokens": 8, "precision": "fp32", "max_batch": 4}


@pytest.fixture
def write(tmp_path: Path, tiny_data: Path, tiny_model: Path):
    for name, text in PROMPTS.items():
        (tmp_path / f"{name}.yaml").write_text(text)

    def run(data: Path = tiny_data, user: str = "user", item: str = "item", **section: object):
        engine = {**ENGINE, **section.pop("engine", {})}
        prompts = {kind: load_prompt(tmp_path / f"{name}.yaml") for kind, name in
                   (("user", user), ("item", item))}  # fmt: skip
        report = write_knowledge(
            KnowledgeSection.model_validate({"user_prompt": "u", "item_prompt": "i", "engine": engine, **section}),
            data=data, model=tiny_model, model_digest="m", cache=tmp_path / "cache.sqlite",
            out=tmp_path / "text.parquet", seed=1, prompts=prompts,
        )  # fmt: skip
        return report, pq.read_table(tmp_path / "text.parquet")

    return run


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers with the question: what it was told can be read from its texts."""

    def generate(self, chats, seeds):
        return [Completion(chat[-1]["content"], "stop", 1, 1, 0.0) for chat in chats]

    monkeypatch.setattr(TransformersEngine, "generate", generate)


def random_data(file: Path, seed: int) -> Path:
    """Few times, so that many events are at one; every user and item in all splits, as they come."""
    chance = random.Random(seed)
    with duckdb.connect(str(file)) as connection:
        for table in (USER, ITEM, SAMPLE):
            connection.execute(table.ddl())
        connection.executemany('INSERT INTO "user" VALUES (?, ?, ?)', [(u, f"u{u}", f"user {u}") for u in range(1, 7)])
        connection.executemany("INSERT INTO item VALUES (?, ?, ?)", [(i, f"i{i}", f"item {i}") for i in range(1, 16)])
        rows = sorted((chance.randint(0, 12), chance.randint(1, 6), chance.randint(1, 15)) for _ in range(90))
        samples = [
            (
                n,
                user,
                item,
                int(chance.random() < 0.6),
                time,
                chance.choice(["train", "train", "validation", "test"]),
                [],
            )
            for n, (time, user, item) in enumerate(rows)
        ]
        connection.executemany("INSERT INTO sample VALUES (?, ?, ?, ?, ?, ?, ?)", samples)
    return file


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_no_sample_can_see_a_text_that_tells_of_it_or_of_what_is_later(write, echo, tmp_path, seed, share) -> None:
    """Of the user's samples after `as_of`, of whatever split, none is among the events the text was written from."""
    data = random_data(tmp_path / "data.duckdb", seed)
    _, table = write(data, user_events=share, max_history=1000)
    with duckdb.connect(str(data), read_only=True) as connection:
        samples = connection.execute("SELECT user_row, item_row, label, time, split FROM sample").fetchall()
    texts = {row["row"]: row for row in table.to_pylist() if row["entity"] == "user"}
    assert set(texts) == {user for user, _, label, _, split in samples if label and split == "train"}
    for user, row in texts.items():
        told = [int(part.split(">")[0].removeprefix("item ")) for part in row["text"].split("<")[1:]]
        mine = sorted(
            (time, item) for u, item, label, time, split in samples if u == user and label and split == "train"
        )
        count = max(1, int(share * len(mine)))
        assert len(told) == count
        assert row["as_of"] == mine[count - 1][0]
        past = [item for time, item in mine if time <= row["as_of"]]
        for item in told:
            past.remove(item)  # every event told of is a positive train event, at or before `as_of`


def test_everything_has_a_text_or_is_counted_as_empty(write) -> None:
    report, table = write()
    assert table.schema.equals(KNOWLEDGE_TEXT.schema)
    assert report.users + report.items == table.num_rows
    assert table.num_rows + report.empty == 4 + 20  # two users have no positive train event
    items = [row for row in table.to_pylist() if row["entity"] == "item"]
    assert {row["as_of"] for row in items} == {ALWAYS}
    assert all(row["text"].strip() for row in table.to_pylist())
    assert {example["entity"] for example in report.examples} == {"user", "item"}


def test_texts_of_white_space_alone_are_left_out_and_counted(write, monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(self, chats, seeds):
        return [Completion(" " if "years old" in chat[-1]["content"] else "good", "stop", 1, 1, 0.0) for chat in chats]

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    report, table = write()
    assert (report.users, report.items, report.empty) == (0, 20, 4)
    assert set(table["entity"].to_pylist()) == {"item"}


def test_the_most_active_come_first_and_more_reuse_fewer(write, echo, tiny_data: Path) -> None:
    few, small = write(users=2, items=5)
    many, large = write(users=4, items=9)
    assert (few.users, few.items, many.users, many.items) == (2, 5, 4, 9)
    assert (few.generated, many.generated, many.cached) == (7, 6, 7)
    with duckdb.connect(str(tiny_data), read_only=True) as connection:
        for entity, count in (("user", 2), ("item", 5)):
            top = connection.execute(
                f"SELECT {entity}_row FROM sample WHERE split = 'train' AND label = 1 GROUP BY 1 "
                f"ORDER BY count(*) DESC, 1 LIMIT {count}"
            ).fetchall()
            rows = [row["row"] for row in small.to_pylist() if row["entity"] == entity]
            assert rows == [row for (row,) in top]
            assert rows == [row["row"] for row in large.to_pylist() if row["entity"] == entity][:count]


def test_items_alone_will_do_but_nothing_will_not(write, echo) -> None:
    report, table = write(users=0, items=3)
    assert set(table["entity"].to_pylist()) == {"item"}
    assert report.users == 0
    with refused("knowledge-none", LlmcfError):
        write(users=0, items=0)


def test_a_prompt_names_the_most_recent_events_it_may(write, echo) -> None:
    _, whole = write(items=0, max_history=1000)
    _, recent = write(items=0, max_history=2)
    for long, short in zip(whole["text"].to_pylist(), recent["text"].to_pylist(), strict=True):
        head, *events = long.split("<")
        assert short == "<".join([head, *events[-2:]])
    report, _ = write(items=0, max_history=1000, engine={"max_prompt_tokens": 60})
    assert report.histories_shortened > 0


@pytest.mark.parametrize(("kind", "variable"), [("user", "item"), ("user", "decision"), ("item", "history")])
def test_a_prompt_must_not_know_more_than_its_text_is_about(write, tmp_path: Path, kind: str, variable: str) -> None:
    text = PROMPTS[kind].replace("variables: [", f"variables: [{variable}, ").replace('"}', f' {{{{{variable}}}}}"}}')
    (tmp_path / "nosy.yaml").write_text(text)
    with refused("prompt-depends", LlmcfError, names=rf"{kind}.*{variable}"):
        write(**{kind: "nosy"})


def test_the_librarys_prompts_do(write, echo, tmp_path: Path) -> None:
    for kind in ("user", "item"):
        (tmp_path / f"kar_{kind}.yaml").write_text((library_dir() / "prompts" / f"kar_{kind}.yaml").read_text())
    _, table = write(user="kar_user", item="kar_item", users=1, items=1)
    user, item = table["text"].to_pylist()
    assert "Earlier favourites, oldest first: " in user
    assert "years old" in user
    assert item.startswith("Item: ")


@pytest.mark.parametrize("seed", range(4))
def test_an_engine_that_writes_from_the_data_writes_about_the_same_of_the_same(write, echo, tmp_path, seed) -> None:
    """Users, items and times are those of a language model, and a text rests on no event after its `as_of`."""
    data = random_data(tmp_path / "data.duckdb", seed)
    with duckdb.connect(str(data)) as connection:
        connection.execute("CREATE TABLE feature AS SELECT 'item' AS entity, 'kind' AS name, 'categorical' AS kind")
        connection.execute("CREATE TABLE meta AS SELECT 'clock' AS key, 'global' AS value")
        connection.execute("ALTER TABLE item ADD COLUMN kind VARCHAR")
        connection.execute("UPDATE item SET kind = CASE WHEN item_row % 2 = 0 THEN 'even' ELSE 'odd' END")
    _, asked = write(data, user_events=0.5, max_history=1000)
    section = KnowledgeSection.model_validate({"engine": "facts", "user_events": 0.5, "max_history": 1000})

    def told(out: str):
        report = write_knowledge_from_data(
            section, data=data, source=section.engine, out=tmp_path / out, seed=1
        )  # fmt: skip
        return report, pq.read_table(tmp_path / out)

    report, table = told("a.parquet")
    assert table.schema.equals(KNOWLEDGE_TEXT.schema)
    assert table.drop_columns(["text"]).equals(asked.drop_columns(["text"]))
    assert (report.users, report.items) == (len([r for r in table.to_pylist() if r["entity"] == "user"]), 15)
    assert (report.generated, report.cached, report.new_tokens) == (table.num_rows, 0, 0)
    as_of = {row["row"]: row["as_of"] for row in table.to_pylist() if row["entity"] == "user"}
    with duckdb.connect(str(data)) as connection:
        for user, time in as_of.items():
            connection.execute("UPDATE sample SET item_row = 1 + item_row % 15 WHERE user_row = ? AND time > ?",
                               [user, time])  # fmt: skip
    by = [("entity", "ascending"), ("row", "ascending")]  # the busiest come first, which later events decide
    assert told("b.parquet")[1].sort_by(by).equals(table.sort_by(by))
