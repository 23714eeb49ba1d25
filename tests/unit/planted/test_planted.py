"""The planted world, its source and its engine: what is hidden stays hidden, texts are as true as asked for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.data.ingest import ingest
from llmcf_cli.llm.config import PlantedEngineConfig
from llmcf_cli.llm.engines.base import Ingested, Subject
from llmcf_cli.llm.engines.planted import PlantedEngine
from llmcf_cli.llm.prompts.rows import sample_texts
from llmcf_cli.planted.config import PlantedConfig
from llmcf_cli.planted.world import ATTRIBUTES, make_world
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.recipe.words import Words
from llmcf_cli.store.open import connect_read

SMALL = PlantedConfig(users=200, items=150, ratings=2000, seed=5)


@pytest.fixture(scope="module")
def world():
    return make_world(SMALL)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    changes = [f"dataset.source.{name}={getattr(SMALL, name)}" for name in ("users", "items", "ratings", "seed")]
    recipe = load_recipe("planted/base", changes).recipe
    out = tmp_path_factory.mktemp("planted") / "data.duckdb"
    ingest(recipe.dataset, locate=None, seed=recipe.seed, out=out)
    return out


def test_the_settings_decide_the_world(world):
    again, other = make_world(SMALL), make_world(SMALL.model_copy(update={"seed": 6}))
    for field in dataclasses.fields(world):
        assert np.array_equal(getattr(world, field.name), getattr(again, field.name)), field.name
    assert not np.array_equal(world.hidden_IA, other.hidden_IA)


def test_ratings_are_as_many_as_asked_for_and_pairs_do_not_repeat(world):
    assert len(world.user_N) == SMALL.ratings
    assert len({*zip(world.user_N.tolist(), world.item_N.tolist(), strict=True)}) == SMALL.ratings
    assert set(np.unique(world.rating_N)) <= {1, 2, 3, 4, 5}
    assert np.all(np.diff(world.time_N) >= 0)


def test_repeats_are_the_share_asked_for_and_later():
    world = make_world(SMALL.model_copy(update={"repeats": 0.25}))
    pairs = [*zip(world.user_N.tolist(), world.item_N.tolist(), strict=True)]
    assert len(pairs) - len(set(pairs)) == round(0.25 * SMALL.ratings)


def test_cold_books_have_no_rating_before_the_last_fifth():
    world = make_world(SMALL.model_copy(update={"cold_items": 0.5}))
    first = {item: world.time_N[world.item_N == item].min() for item in np.unique(world.item_N)}
    late = world.time_N[0] + 0.8 * (world.time_N[-1] - world.time_N[0])
    assert 0.3 < np.mean([time >= late * 0.999 for time in first.values()]) < 0.6


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_texts_state_the_share_of_attributes_asked_for(share):
    world = make_world(SMALL.model_copy(update={"in_text": share}))
    words = {word for values in ATTRIBUTES.values() for word in values}
    for item, blurb in enumerate(world.tables()["items"]["blurb"].to_pylist()):
        stated = [ATTRIBUTES[name][v] for name, v in zip(world.attributes, world.hidden_IA[item], strict=True)]
        assert [word in blurb for word in stated] == [bool(share)] * len(stated)
        assert share or not words & set(blurb.rstrip(".").split())


def test_no_column_has_what_is_hidden(database):
    with connect_read(database) as connection:
        columns = {table: {c for c, *_ in connection.execute(f'DESCRIBE "{table}"').fetchall()}
                   for table in ("item", "user")}  # fmt: skip
    assert columns == {"item": {"item_row", "item_id", "text", "genre"},
                       "user": {"user_row", "user_id", "text", "circle"}}  # fmt: skip


def test_strength_is_the_deviation_of_what_attributes_do():
    world = make_world(PlantedConfig(strength=1.5, seed=3))
    total_U = world.taste_UAV.var(2).sum(1)
    assert np.sqrt(np.mean(total_U[np.unique(world.circle_U, return_index=True)[1]])) == pytest.approx(1.5, rel=0.02)


def written(database, **settings):
    engine = PlantedEngine(PlantedEngineConfig(**settings))
    engine.open(Ingested(database, SMALL, Words(), 1))
    with connect_read(database) as connection:
        ids = [i for (i,) in connection.execute("SELECT sample_id FROM sample WHERE split = 'train'").fetchall()]
        names = dict(connection.execute("SELECT item_row, item_id FROM item").fetchall())
        rows = sample_texts(connection, ids)
    return rows, engine.write(rows), [int(names[row.item_row][1:]) for row in rows]


@pytest.mark.parametrize("truth", [0.0, 0.5, 1.0])
def test_statements_are_as_true_as_asked_for(database, world, truth):
    _, texts, items = written(database, truth=truth, knows=("item",))
    right = [
        f"{ATTRIBUTES[name][world.hidden_IA[item, a]]} {name}" in text
        for text, item in zip(texts, items, strict=True) for a, name in enumerate(world.attributes)
    ]  # fmt: skip
    expected = truth + (1 - truth) / SMALL.values
    assert np.mean(right) == pytest.approx(expected, abs=4 * np.sqrt(0.25 / len(right)))


def test_a_text_depends_on_its_own_sample_only(database):
    rows, texts, _ = written(database, truth=0.5)
    engine = PlantedEngine(PlantedEngineConfig(truth=0.5))
    engine.open(Ingested(database, SMALL, Words(), 1))
    assert engine.write(rows[3:5]) == texts[3:5]


def test_other_data_are_refused(database):
    class Other(ComponentConfig):
        type: str = "csv"

    with pytest.raises(LlmcfError, match="planted"):
        PlantedEngine(PlantedEngineConfig()).open(Ingested(database, Other(), Words(), 1))


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_books_and_readers_are_described_as_truly_as_asked_for(database, world, truth):
    engine = PlantedEngine(PlantedEngineConfig(truth=truth))
    engine.open(Ingested(database, SMALL, Words(), 1))
    expected = truth + (1 - truth) / SMALL.values
    taste_UAV = world.taste_UAV
    for entity in ("item", "user"):
        with connect_read(database) as connection:
            ids = connection.execute(f'SELECT {entity}_row, {entity}_id FROM "{entity}"').fetchall()
        asked = [Subject(row, 0, "") for row, _ in ids]
        right = []
        for (_, name), text in zip(ids, engine.describe(entity, asked), strict=True):
            number = int(name[1:])
            value_A = world.hidden_IA[number] if entity == "item" else taste_UAV[number].argmax(1)
            said = [f"{ATTRIBUTES[name][value_A[a]]} {name}" in text for a, name in enumerate(world.attributes)]
            right += said if entity == "item" else [said[a] for a in np.argsort(-taste_UAV[number].max(1))[:2]]
        assert np.mean(right) == pytest.approx(expected, abs=4 * np.sqrt(0.25 / len(right)))
        assert engine.describe(entity, asked[3:5]) == engine.describe(entity, asked)[3:5]
