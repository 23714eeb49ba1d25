"""The engine `facts`: its counts against plain Python, and that it never knows the future."""

from __future__ import annotations

import re
import shutil

import duckdb
import pytest

from llmcf_cli.llm.config import FactsEngineConfig
from llmcf_cli.llm.engines.base import Ingested
from llmcf_cli.llm.engines.facts import FactsEngine
from llmcf_cli.llm.prompts.rows import sample_texts
from llmcf_cli.llm.writing.subjects import read_subjects
from llmcf_cli.planted.config import PlantedConfig
from llmcf_cli.recipe.asking import KnowledgeSection
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.recipe.words import Words
from llmcf_cli.store.open import connect_read

SOURCE = PlantedConfig(users=60, items=40, ratings=500, seed=2)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    from llmcf_cli.data.ingest import ingest

    changes = [f"dataset.source.{name}={getattr(SOURCE, name)}" for name in ("users", "items", "ratings", "seed")]
    recipe = load_recipe("planted/base", changes).recipe
    out = tmp_path_factory.mktemp("facts") / "data.duckdb"
    ingest(recipe.dataset, locate=None, seed=recipe.seed, out=out)
    return out


def write(database, **settings):
    engine = FactsEngine(FactsEngineConfig(**settings))
    engine.open(Ingested(database, SOURCE, Words(), 1))
    with connect_read(database) as connection:
        ids = connection.execute("SELECT sample_id FROM sample WHERE split = 'train' ORDER BY 1").fetchall()
        rows = sample_texts(connection, [i for (i,) in ids])
    return dict(zip([row.sample_id for row in rows], engine.write(rows), strict=True))


def test_verdicts_are_those_of_earlier_train_rows(database):
    texts = write(database)
    with connect_read(database) as connection:
        rows = connection.execute(
            "SELECT sample_id, user_row, item_row, label, time FROM sample WHERE split = 'train'"
        ).fetchall()
    some = 0
    for sample, user, item, _, time in rows:
        earlier = [label for _, u, i, label, t in rows if i == item and t < time and u != user]
        found = re.search(r"\((\d+) of (\d+)\)", texts[sample])
        if not earlier:
            assert found is None
            assert "Nobody" in texts[sample]
            continue
        some += 1
        assert (int(found[1]), int(found[2])) == (sum(earlier), len(earlier))
    assert some > 100


def test_taste_is_counted_over_the_history(database):
    texts = write(database, most=20)
    with connect_read(database) as connection:
        genre = dict(connection.execute("SELECT item_row, genre FROM item").fetchall())
        rows = connection.execute("SELECT sample_id, history FROM sample WHERE split = 'train'").fetchall()
    for sample, history in rows:
        found = {g: int(n) for n, g in re.findall(r"(\d+) with genre (\w+)", texts[sample])}
        assert found == {g: [genre[h] for h in history].count(g) for g in {genre[h] for h in history}}


def test_what_comes_later_changes_no_text(database, tmp_path):
    """All rows after the median time are given another label, item and split's end; earlier texts stay."""
    before = write(database)
    changed = tmp_path / "changed.duckdb"
    shutil.copy(database, changed)
    with duckdb.connect(str(changed)) as connection:
        (median,) = connection.execute("SELECT median(time)::BIGINT FROM sample WHERE split = 'train'").fetchone()
        connection.execute("CREATE TABLE other AS SELECT * FROM sample")
        connection.execute("DROP TABLE sample")
        connection.execute(
            f"""
            CREATE TABLE sample AS SELECT * REPLACE (
                (CASE WHEN time > {median} THEN 1 - label ELSE label END)::TINYINT AS label,
                CASE WHEN time > {median} THEN 1 + item_row % 40 ELSE item_row END AS item_row
            ) FROM other
            """
        )
        early = {s for (s,) in connection.execute(f"SELECT sample_id FROM sample WHERE time <= {median}").fetchall()}
    after = write(changed)
    checked = before.keys() & early
    assert len(checked) > 100
    assert {s: before[s] for s in checked} == {s: after[s] for s in checked}


def test_held_out_rows_change_no_text(database, tmp_path):
    before = write(database)
    changed = tmp_path / "changed.duckdb"
    shutil.copy(database, changed)
    with duckdb.connect(str(changed)) as connection:
        connection.execute("DELETE FROM sample WHERE split <> 'train'")
    assert write(changed) == before


def test_without_a_shared_clock_no_text_knows_what_others_did(database, tmp_path):
    """Otherwise a row that reads a text as an example's would find its own label counted in it."""
    alone = tmp_path / "alone.duckdb"
    shutil.copy(database, alone)
    with duckdb.connect(str(alone)) as connection:
        connection.execute("UPDATE meta SET value = 'per_user' WHERE key = 'clock'")
    before = write(alone)
    assert not any("Nobody" in text or " users " in text for text in before.values())
    assert any("earlier choices" in text or "Among these" in text for text in before.values())
    with duckdb.connect(str(alone)) as connection:
        odd = {s for (s,) in connection.execute("SELECT sample_id FROM sample WHERE user_row % 2 = 1").fetchall()}
        connection.execute("UPDATE sample SET label = 1 - label WHERE user_row % 2 = 0")
    after = write(alone)
    checked = before.keys() & odd
    assert len(checked) > 100
    assert {s: before[s] for s in checked} == {s: after[s] for s in checked}


def test_the_decision_is_told_or_not(database):
    told, hidden = write(database), write(database, decision="hidden")
    assert all(re.search(r"The user (liked|did not like) it\.$", text) for text in told.values())
    assert {s: re.sub(r" The user (liked|did not like) it\.$", "", t) for s, t in told.items()} == hidden


def test_a_text_depends_on_its_own_sample_only(database):
    texts = write(database)
    engine = FactsEngine(FactsEngineConfig())
    engine.open(Ingested(database, SOURCE, Words(), 1))
    with connect_read(database) as connection:
        some = [*texts][50:53]
        assert engine.write(sample_texts(connection, some)) == [texts[s] for s in some]


def subjects(connection, entity):
    section = KnowledgeSection(engine={"type": "facts"}, user_events=0.6, max_history=5)
    _, blocks = read_subjects(section)[entity](connection)
    return [one for block in blocks for one in block]


def describe(database, entity, **settings):
    engine = FactsEngine(FactsEngineConfig(**settings))
    engine.open(Ingested(database, SOURCE, Words(), 1))
    with connect_read(database) as connection:
        asked = subjects(connection, entity)
    texts = engine.describe(entity, asked)
    return {one.row: one for one in asked}, dict(zip([one.row for one in asked], texts, strict=True))


def test_a_user_is_described_by_counts_over_the_events_to_write_from(database):
    asked, texts = describe(database, "user", most=20)
    with connect_read(database) as connection:
        genre = dict(connection.execute("SELECT item_row, genre FROM item").fetchall())
        circle = dict(connection.execute('SELECT user_row, circle FROM "user"').fetchall())
        rows = connection.execute(
            "SELECT user_row, item_row FROM sample WHERE split = 'train' AND label = 1 ORDER BY time, sample_id"
        ).fetchall()
    assert len(texts) > 30
    for user, text in texts.items():
        taken = [item for one, item in rows if one == user]
        first = taken[: max(1, int(0.6 * len(taken)))][-5:]
        assert asked[user].history_rows == first
        found = {g: int(n) for n, g in re.findall(r"(\d+) with genre (\w+)", text)}
        assert found == {g: [genre[i] for i in first].count(g) for g in {genre[i] for i in first}}
        assert f"Of the user's {len(first)} {Words().choices}," in text
        assert f"The user has circle {circle[user]}." in text


def test_an_item_is_described_without_anybodys_verdict(database, tmp_path):
    asked, before = describe(database, "item")
    assert len(before) == 40
    with connect_read(database) as connection:
        for row, genre in connection.execute("SELECT item_row, genre FROM item").fetchall():
            assert asked[row].text.removesuffix(".") in before[row]
            assert f"genre {genre}" in before[row]
    changed = tmp_path / "changed.duckdb"
    shutil.copy(database, changed)
    with duckdb.connect(str(changed)) as connection:
        connection.execute("UPDATE sample SET label = 1 - label")
    assert describe(changed, "item")[1] == before
