"""Serving gives what offline evaluation gave, and copes with what training never saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import rec_world
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.plugin import registry
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import (
    BCEConfig,
    CoTReconstructionConfig,
    DeepFMConfig,
    ICTConfig,
    KARConfig,
    MeanConfig,
    NoneConfig,
    RankingConfig,
    SignalsConfig,
    TextConfig,
)
from llmcf_cli.rec.input.config import ExamplesInputConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.predict import predict
from llmcf_cli.recipe.component import names_for
from llmcf_cli.serve.scorer import Added, KeptHistories, Scorer, Unknown

ARMS = {"none": NoneConfig(), "text": TextConfig(), "mean": MeanConfig(), "ict": ICTConfig(), "kar": KARConfig(),
        "kar with texts": KARConfig(features=("text",))}  # fmt: skip
SIGNALS = {
    "signals": SignalsConfig(),
    "text with signals": TextConfig(features=("text", "signals")),
    "ict with signals": ICTConfig(features=("text", "signals")),
}


def make(world, folder, arm="ict", backbone=None):
    objectives = (BCEConfig(), CoTReconstructionConfig())
    model = RecModel(world.data.resources, backbone or DeepFMConfig(), (ARMS | SIGNALS)[arm], objectives, seed=4)
    for parameter in model.parameters():
        parameter.data *= 3  # away from logits near 0
    save_bundle(folder, model, task=RankingConfig(), recipe={}, clock="global", inputs=rec_world.SERVED)
    return model, Scorer.load(folder)


@pytest.fixture(scope="module")
def served(world, tmp_path_factory):
    return make(world, tmp_path_factory.mktemp("serve") / "bundle")


def requests(world, split, *, time=True):
    rows = world.data.splits[split]
    users = [f"u{u}" for u in rows.user_row_N]
    history = [[f"i{i}" for i in h if i] for h in rows.history_row_NL]
    table = {"user_id": users, "item_id": [f"i{i}" for i in rows.item_row_N], "history": history}
    return pa.table(table | ({"time": times(rows.time_N)} if time else {}))


def times(time_N):
    """Times of samples as requests have them."""
    return pa.array(time_N).cast(pa.timestamp("us", "UTC"))


@pytest.mark.parametrize("backbone", names_for("backbone", RankingConfig()))
@pytest.mark.parametrize("arm", ARMS)
def test_replayed_test_rows_give_the_offline_logits(world, tmp_path, arm, backbone):
    model, scorer = make(world, tmp_path / "bundle", arm, registry().get("backbone", backbone).config()())
    for split in ("test", "train"):
        scores = scorer.score(requests(world, split))
        offline = predict(model, world.data, split)
        assert offline.std() > 1e-3
        np.testing.assert_allclose(scores["logit"].to_numpy(), offline, atol=1e-5)
    np.testing.assert_allclose(scores["probability"].to_numpy(), 1 / (1 + np.exp(-offline.astype(float))), atol=1e-5)
    assert scores.column_names == ["user_id", "item_id", "logit", "probability"]


@pytest.mark.parametrize("given", ["no column", "null"])
def test_a_known_user_without_history_is_scored_by_the_kept_events(world, served, given):
    model, scorer = served
    rows = requests(world, "test")
    column = rows.column_names.index("history")
    nulls = pa.nulls(rows.num_rows, pa.list_(pa.string()))
    asked = rows.remove_column(column) if given == "no column" else rows.set_column(column, "history", nulls)
    offline = predict(model, world.data, "test")
    np.testing.assert_allclose(scorer.score(asked)["logit"].to_numpy(), offline, atol=1e-5)
    with_events = int((world.data.splits["test"].history_row_NL > 0).any(1).sum())
    assert scorer.kept_histories(asked) == KeptHistories(rows.num_rows, with_events)
    assert scorer.kept_histories(rows) == KeptHistories(0, 0)
    empty = pa.array([[]] * rows.num_rows, pa.list_(pa.string()))
    without = scorer.score(rows.set_column(column, "history", empty))["logit"].to_numpy()
    assert np.abs(without - offline).max() > 1e-3


def test_a_bundle_without_histories_says_that_there_are_none(world, tmp_path):
    resources = replace(world.data.resources, histories=None)
    model = RecModel(resources, DeepFMConfig(), NoneConfig(), (BCEConfig(),), seed=4)
    save_bundle(tmp_path / "b", model, task=RankingConfig(), recipe={}, clock="global", inputs=rec_world.SERVED)
    scorer = Scorer.load(tmp_path / "b")
    asked = requests(world, "test").select(["user_id", "item_id"])
    assert scorer.kept_histories(asked) == KeptHistories(asked.num_rows, 0)


@pytest.mark.parametrize("arm", SIGNALS)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_signals_of_requests_are_those_of_offline_rows(world, tmp_path, split, arm):
    """Only outside the train split, whose rows are matched out of their user's fold."""
    model, scorer = make(world, tmp_path / "bundle", arm)
    offline = predict(model, world.data, split)
    assert offline.std() > 1e-3
    np.testing.assert_allclose(scorer.score(requests(world, split))["logit"].to_numpy(), offline, atol=1e-5)


def test_new_users_and_items_have_signals(world, tmp_path):
    _, scorer = make(world, tmp_path / "bundle", "signals")
    history = [["i1", "i4"], ["i2", "i5"], ["i1", "i4"]]
    ask = pa.table({"user_id": ["new", "new", "new"], "item_id": ["i7", "i7", "fresh"], "history": history})
    near, far, unknown = scorer.score(ask)["logit"].to_numpy()
    assert abs(near - far) > 1e-4
    scorer.add_items(pa.table({"item_id": ["fresh"]}), world.data.resources.get("text")[3:4])
    collaborative = scorer.model.resources.get("collaborative")
    assert not collaborative.item_FID[:, -1].any()
    after = scorer.score(ask)["logit"].to_numpy()
    np.testing.assert_allclose(after[:2], [near, far], atol=1e-5)
    assert abs(after[2] - unknown) > 1e-4


def test_a_bundle_of_approximate_search_serves_what_exact_search_does(world, tmp_path):
    """With all partitions looked into, they find the same; the scorer builds the index when it loads the bundle."""
    larger = rec_world.make_world(tmp_path, per_user=24, num_examples=200)
    model, exact = make(larger, tmp_path / "exact")
    search = {"type": "ann", "index": "ivf_flat", "partition_rows": 16, "probes": 1000, "time_block": 16}
    inputs = [ExamplesInputConfig(**rec_world.MATCH_SECTION | {"search": search})]
    save_bundle(tmp_path / "approximate", model, task=RankingConfig(), recipe={}, clock="global", inputs=inputs)
    approximate = Scorer.load(tmp_path / "approximate")
    assert {pool["kind"] for pool in approximate._answers["examples"]._search._index.kinds.values()} == {"ivf_flat"}
    for time in (True, False):
        asked = requests(larger, "test", time=time)
        expected = exact.score(asked)["logit"].to_numpy()
        assert expected.std() > 1e-3
        np.testing.assert_allclose(approximate.score(asked)["logit"].to_numpy(), expected, atol=1e-6)


def test_without_a_time_every_example_is_past(world, served):
    _, scorer = served
    timed, now = (scorer.score(requests(world, "train", time=t))["logit"].to_numpy() for t in (True, False))
    assert np.abs(timed - now).max() > 1e-4
    late = requests(world, "train").set_column(3, "time", times(np.full(len(now), 10**9)))
    np.testing.assert_allclose(scorer.score(late)["logit"].to_numpy(), now)


def test_unknown_users_and_items_are_scored(served):
    _, scorer = served
    table = pa.table({
        "user_id": ["stranger", "u1", None, "stranger"], "item_id": ["i1", "strange", "i2", "strange"],
        "history": [["i1", "nowhere", "i2"], None, [], ["nowhere"]],
    })  # fmt: skip
    logits = scorer.score(table)["logit"].to_numpy()
    assert np.isfinite(logits).all()
    known = pa.table({"user_id": ["stranger"], "item_id": ["i1"], "history": [["i1", "i2"]]})
    np.testing.assert_allclose(scorer.score(known)["logit"].to_numpy(), logits[:1], atol=1e-5)


def test_the_optional_columns_may_be_missing_and_there_may_be_no_rows(served):
    _, scorer = served
    bare = scorer.score(pa.table({"user_id": ["nobody"], "item_id": ["i1"]}))
    no_history = pa.array([[]], pa.list_(pa.string()))
    empty = scorer.score(pa.table({"user_id": ["nobody"], "item_id": ["i1"], "history": no_history}))
    assert bare["logit"].to_pylist() == empty["logit"].to_pylist()
    nothing = pa.array([], pa.string())
    assert scorer.score(pa.table({"user_id": nothing, "item_id": nothing})).num_rows == 0


def test_new_items_are_scored_by_their_text_and_features(world, tmp_path):
    _, scorer = make(world, tmp_path / "bundle")
    ask = pa.table({"user_id": ["u1", "u1"], "item_id": ["new", "i3"], "history": [["i1"], ["i1"]]})
    before = scorer.score(ask)["logit"].to_numpy()
    text = world.data.resources.get("text")[3:4]
    scorer.add_items(pa.table({"item_id": ["new"], "brand": ["b3"], "tags": [["t0"]]}), text)
    after = scorer.score(ask)["logit"].to_numpy()
    assert abs(after[0] - before[0]) > 1e-4
    assert after[1] == pytest.approx(before[1], abs=1e-5)
    with refused("items-known", DataError):
        scorer.add_items(pa.table({"item_id": ["new"]}), text)
    with refused("vectors-unfit", DataError):
        scorer.add_items(pa.table({"item_id": ["newer"]}), text[:, :3])


def test_knowledge_is_served_from_the_time_on_that_it_is_for(world, tmp_path):
    _, scorer = make(world, tmp_path / "bundle", "kar")
    users = scorer.model.resources.get("knowledge").users
    as_of = int(users.as_of_N[users.slot_R[1]])
    ask = pa.table({
        "user_id": ["u1"] * 4, "item_id": ["i2"] * 4, "time": times([as_of - 1, as_of, as_of + 1, as_of + 99]),
        "history": [["i5"]] * 4,
    })  # fmt: skip
    logits = scorer.score(ask)["logit"].to_numpy()
    np.testing.assert_allclose(logits[[0, 2]], logits[[1, 3]], atol=1e-6)
    assert abs(logits[2] - logits[1]) > 1e-4
    now = scorer.score(ask.drop_columns("time"))["logit"].to_numpy()
    np.testing.assert_allclose(now, logits[3], atol=1e-6)
    scorer.add_items(pa.table({"item_id": ["new"], "brand": ["b3"]}))
    strangers = pa.table({"user_id": ["u1", "stranger", "stranger"], "item_id": ["new", "new", "i3"]})
    assert np.isfinite(scorer.score(strangers)["logit"].to_numpy()).all()


@pytest.mark.parametrize(
    ("table", "code"),
    [
        ({"user_id": ["u1"]}, "column-missing"),
        ({"user_id": [["u1"]], "item_id": ["i1"]}, "request-value"),
        ({"user_id": ["u1"], "item_id": ["i1"], "history": ["i1 i2"]}, "request-value"),
        ({"user_id": ["u1"], "item_id": ["i1"], "time": ["soon"]}, "request-value"),
    ],
)
def test_bad_requests_are_explained(served, table, code):
    with refused(code, DataError):
        served[1].score(pa.table(table))


def test_ids_of_digits_may_come_as_numbers(served):
    scores = served[1].score(pa.table({"user_id": [1], "item_id": [2], "history": [[3]]}))
    assert scores.num_rows == 1


def test_a_request_without_a_time_is_made_after_everything(world, served):
    _, scorer = served
    asked = requests(world, "train", time=False)
    times = pa.array([None] * asked.num_rows, pa.int64())
    expected = scorer.score(asked)["logit"].to_numpy()
    np.testing.assert_allclose(scorer.score(asked.append_column("time", times))["logit"].to_numpy(), expected)


def test_what_the_bundle_does_not_know_is_counted_by_id_and_by_request(world, served):
    _, scorer = served
    known = requests(world, "test").slice(0, 1).to_pylist()[0]
    asked = pa.table({
        "user_id": [known["user_id"], "somebody", "somebody", None],
        "item_id": [known["item_id"], "new", known["item_id"], known["item_id"]],
        "history": [known["history"], ["gone", "new"], None, ["gone"]],
    })  # fmt: skip
    assert scorer.unknown(asked) == {
        "users": Unknown(1, 2, ("somebody",), missing=1), "items": Unknown(1, 1, ("new",)),
        "items of histories": Unknown(2, 2, ("gone", "new")),
    }  # fmt: skip
    nothing = dict.fromkeys(scorer.unknown(asked), Unknown(0, 0))
    assert scorer.unknown(asked.drop_columns(["history"]).slice(0, 1)) == nothing


def test_a_request_without_an_item_is_refused(served):
    _, scorer = served
    with pytest.raises(DataError) as caught:
        scorer.score([{"user_id": "u1", "item_id": "i1"}, {"user_id": "u1", "item_id": " "}])
    assert caught.value.code == "request-value"
    assert "1 of 2" in caught.value.what


def test_new_items_without_a_text_are_counted(world, tmp_path):
    _, scorer = make(world, tmp_path / "bundle", "text")
    vectors = world.data.resources.get("text")[3:5].copy()
    vectors[1] = 0
    assert scorer.add_items(pa.table({"item_id": ["a", "b"]}), vectors) == Added(2, 1)
    assert scorer.add_items(pa.table({"item_id": ["c"]})) == Added(1, 1)


def test_a_text_where_an_item_has_lists_is_refused(served):
    _, scorer = served
    field = next(f for f in scorer.model.resources.spec.fields if f.entity == "item" and f.kind == "multi")
    with pytest.raises(DataError) as caught:
        scorer.add_items(pa.table({"item_id": ["fresh"], field.name: ["Drama"]}))
    assert caught.value.code == "feature-kind"
