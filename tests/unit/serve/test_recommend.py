"""Lists from a bundle against scores of all pairs, and what is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import retrieval_world
from refusals import refused

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import NoneConfig, RankingConfig
from llmcf_cli.rec.input.base import forgetful
from llmcf_cli.rec.model import RecModel
from llmcf_cli.serve.golden import replay
from llmcf_cli.serve.lists import Wanted
from llmcf_cli.serve.requests import to_users
from llmcf_cli.serve.scorer import Scorer


def bundle(folder, resources, backbone="sasrec", augment="text_tower", task=None):
    return Scorer.load(retrieval_world.save(folder, resources, backbone, augment, task))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return retrieval_world.make_data(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def scorer(data, tmp_path_factory):
    return bundle(tmp_path_factory.mktemp("bundle") / "b", data.resources)


def catalogue(scorer):
    return scorer.model.resources.catalog.items.ids.to_pylist()


def expected(scorer, request, k, leave):
    """The best items by `score` of every pair."""
    ids = [item for item in catalogue(scorer) if item not in leave]
    scores = scorer.score([{**request, "item_id": item} for item in ids])["score"].to_numpy()
    order = np.argsort(-scores, kind="stable")[:k]
    return [ids[place] for place in order], scores[order]


def taken(data, user):
    events, row = data.resources.get("events").taken, data.resources.catalog.users.ids.to_pylist().index(user) + 1
    ids = data.resources.catalog.items.ids.to_pylist()
    return {ids[item - 1] for item in events.item_E[events.offset_U[row] : events.offset_U[row + 1]]}


@pytest.mark.parametrize("user", ["u0", "u7", "u195"])
def test_a_known_user_is_asked_about_by_its_id(scorer, data, user):
    found = scorer.recommend([{"user_id": user}], 10)
    names, scores = expected(scorer, {"user_id": user}, 10, taken(data, user))
    assert found["item_id"].to_pylist() == names
    assert found["rank"].to_pylist() == list(range(1, 11))
    np.testing.assert_allclose(found["score"].to_numpy(), scores, rtol=1e-4, atol=1e-5)
    assert not taken(data, user) & set(names)


@pytest.mark.parametrize(("backbone", "augment"), [("gru4rec", "none"), ("youtubednn", "text_init")])
def test_every_model_is_served(data, tmp_path, backbone, augment):
    scorer = bundle(tmp_path / "b", data.resources, backbone, augment)
    found = scorer.recommend([{"user_id": "u3"}, {"user_id": "u4"}], 5)
    for number, user in enumerate(("u3", "u4")):
        names, _ = expected(scorer, {"user_id": user}, 5, taken(data, user))
        assert found["item_id"].to_pylist()[5 * number : 5 * number + 5] == names


def test_a_new_user_brings_a_history_of_any_length(scorer):
    history = [f"i{item:02d}" for item in range(0, 36, 2)]  # longer than what the model reads
    found = scorer.recommend([{"user_id": "somebody", "history": history}], 40)
    assert not set(history) & set(found["item_id"].to_pylist())
    names, _ = expected(scorer, {"user_id": "somebody", "history": history}, 40, set(history))
    assert found["item_id"].to_pylist() == names
    table = pa.table({"user_id": ["somebody"], "history": [history]})
    assert scorer.recommend(table, 40).equals(found)


def test_only_what_was_taken_before_the_requests_time_is_left_out(scorer, data):
    test = data.splits["test"]
    user = data.resources.catalog.users.ids[int(test.user_row_N[-1]) - 1].as_py()
    target = data.resources.catalog.items.ids[int(test.item_row_N[-1]) - 1].as_py()
    owner, _ = data.resources.get("events").seen(test.user_row_N[-1:], test.time_N[-1:])
    left = len(catalogue(scorer)) - len(owner)
    now = {"user_id": user, "time": int(test.time_N[-1]) // 1_000_000}
    assert target in scorer.recommend([now], left)["item_id"].to_pylist()
    later = len(catalogue(scorer)) - len(taken(data, user))
    assert later < left
    assert target not in scorer.recommend([{"user_id": user}], later)["item_id"].to_pylist()


def test_lists_of_what_may_be_chosen(scorer, data):
    free = [item for item in catalogue(scorer) if item not in taken(data, "u0")]
    only = scorer.recommend([{"user_id": "u0"}], 3, allow=free[:5], deny=free[:1])["item_id"].to_pylist()
    assert set(only) <= set(free[1:5])
    everything = scorer.recommend([{"user_id": "u0"}], len(catalogue(scorer)), filter_seen=False)
    assert sorted(everything["item_id"].to_pylist()) == sorted(catalogue(scorer))


def test_each_user_of_a_batch_gets_the_list_that_is_wanted(scorer, data):
    free = [item for item in catalogue(scorer) if item not in taken(data, "u0")]
    wanted = [Wanted.of(3, None, (), True), Wanted.of(4, free[:9], free[:2], True), Wanted.of(1, None, free, False),
              Wanted.of(40, None, (), False)]  # fmt: skip
    users = ["u0", "u0", "u7", "u3"]
    together = scorer.user_lists(to_users([{"user_id": user} for user in users], scorer.form), wanted)
    alone = [scorer.recommend([{"user_id": "u0"}], 3), scorer.recommend([{"user_id": "u0"}], 4, allow=free[:9],
             deny=free[:2]), scorer.recommend([{"user_id": "u7"}], 1, deny=free, filter_seen=False),
             scorer.recommend([{"user_id": "u3"}], 40, filter_seen=False)]  # fmt: skip
    expected = pa.concat_tables(alone)
    found = together.to_arrow()
    assert found.drop_columns("score").equals(expected.drop_columns("score"))
    np.testing.assert_allclose(found["score"].to_numpy(), expected["score"].to_numpy(), rtol=1e-5, atol=1e-6)
    assert together.size_N.tolist() == [3, 4, 1, 40]
    assert together.user_known_N.all()


def test_items_of_a_history_that_the_catalogue_lacks_are_counted(scorer):
    asked = [{"user_id": "new", "history": ["i01", "gone", "i02", "lost"]}, {"user_id": "u0"}]
    found = scorer.user_lists(to_users(asked, scorer.form), [Wanted.of(2, None, (), True)] * 2)
    assert found.lacking_N.tolist() == [2, 0]
    assert found.event_N[0] == 2
    assert found.user_known_N.tolist() == [False, True]


def test_the_search_is_asked_the_golden_requests_too(scorer):
    assert replay(scorer, scorer.golden) == len(scorer.golden.requests) > 0
    model = scorer.model
    kept_ID = model.kept_ID.value
    try:
        model.kept_ID.value = kept_ID.roll(1, 0)  # the search alone reads it
        with refused("golden-differs", ModelError):
            replay(scorer, scorer.golden)
    finally:
        model.kept_ID.value = kept_ID


def test_new_items_are_listed_by_their_texts(data, tmp_path):
    scorer = bundle(tmp_path / "b", data.resources)
    text = data.resources.get("text")[5]
    scorer.add_items(pa.table({"item_id": ["new"]}), text[None])
    found = scorer.recommend([{"user_id": "u0"}], 1, allow=["new"])
    assert found["item_id"].to_pylist() == ["new"]
    assert found["score"][0].as_py() != 0


def test_what_cannot_be_answered_is_refused(scorer, data, tmp_path):
    with refused("list-too-short", DataError, names="2 items .*3"):
        scorer.recommend([{"user_id": "u0"}], 3, allow=[i for i in catalogue(scorer) if i not in taken(data, "u0")][:2])
    with refused("history-missing", DataError, names="nobody"):
        scorer.recommend([{"user_id": "u0"}, {"user_id": "nobody"}], 3)
    with refused("history-missing", DataError):
        scorer.recommend([{"user_id": "nobody", "history": ["no item"]}], 3)
    with refused("id-unknown", DataError, names="no item"):
        scorer.recommend([{"user_id": "u0"}], 3, deny=["no item"])
    for wrong in ({"k": 0}, {"k": 3, "deny": [" "]}, {"k": 3, "allow": [None]}):
        with refused("request-value", DataError):
            scorer.recommend([{"user_id": "u0"}], **wrong)
    with refused("list-too-short", DataError):  # nothing of that size is made
        scorer.recommend([{"user_id": "u0"}], 10**12)
    forgetting = bundle(tmp_path / "forgetting", forgetful(data.resources))
    with refused("history-missing", DataError, names="u0"):
        forgetting.recommend([{"user_id": "u0"}], 3)
    assert forgetting.recommend([{"user_id": "u0", "history": ["i01"]}], 3).num_rows == 3


def test_a_model_of_pairs_makes_no_lists(world, tmp_path):
    config = retrieval_world.default("backbone", "deepfm")
    model = RecModel(world.data.resources, config, NoneConfig(), seed=1)
    save_bundle(tmp_path / "b", model, task=RankingConfig(), recipe={}, clock="global")
    with refused("lists-unsupported", ModelError):
        Scorer.load(tmp_path / "b").recommend([{"user_id": "u1"}], 3)
