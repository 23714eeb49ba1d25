"""Loading: every join is by id, and what does not fit is refused."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
from rec_world import load_data
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.rec.config import RankingConfig
from llmcf_cli.rec.input.dataset import load_task_data
from llmcf_cli.rec.tasks.ranking import Ranking


def load(world, folder, **changes):
    tables = {"item_text": world.item_text, "examples": world.examples, "matches": world.matches} | changes
    return load_data(world.database, folder, **tables)


def shuffled(table, seed=0):
    return table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows)))


def test_matches_point_at_the_right_examples_whatever_the_order_of_rows(world, tmp_path):
    data = load(world, tmp_path, **{n: shuffled(getattr(world, n)) for n in ("item_text", "examples", "matches")})
    expected = dict(zip(*(world.matches[n].to_pylist() for n in ("sample_id", "example_sample_id")), strict=True))
    bank = data.resources.get("examples")
    known = np.append(bank.samples.sample_id_N, -1)
    for split, samples in data.splits.items():
        found = known[data.loaded["examples"][split]]
        assert found.tolist() == [expected[i] for i in samples.sample_id_N.tolist()]
    vectors = dict(zip(world.examples["sample_id"].to_pylist(), world.examples["cot_vector"].to_pylist(), strict=True))
    for at in (0, 7):
        np.testing.assert_allclose(bank.cot_ET[at], vectors[int(bank.samples.sample_id_N[at])])
    np.testing.assert_allclose(data.resources.get("text")[3], world.item_text["vector"][2].as_py())
    assert not data.resources.get("text")[0].any()


def test_splits_are_disjoint_and_complete(world):
    ids = [set(s.sample_id_N.tolist()) for s in world.data.splits.values()]
    assert sum(map(len, ids)) == len(set.union(*ids)) == world.samples.num_rows


def test_vocabulary_ignores_what_train_does_not_show(world):
    train = world.data.splits["train"]
    seen = set(train.item_row_N.tolist()) | set(train.history_row_NL.reshape(-1).tolist()) - {0}
    assert len(world.data.resources.vocab.values["item.item_id"]) == len(seen)


def test_without_examples_nothing_needs_them(world):
    data = load_task_data(world.database, Ranking(RankingConfig()), history_length=3)
    assert data.resources.get("examples") is None
    assert data.batch("test", inputs=["text", "examples"]).inputs == {}
    assert data.splits["train"].history_row_NL.shape[1] == 3


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda w: {"matches": w.matches.slice(1)}, "match-broken"),
        (lambda w: {"item_text": w.item_text.slice(1)}, "vectors-unfit"),
        (lambda w: {"examples": w.examples.slice(5)}, "match-broken"),
        (lambda w: {"examples": foreign(w.examples)}, "not-train"),
    ],
)
def test_parts_that_do_not_fit_are_refused(world, tmp_path, change, code):
    with refused(code, DataError):
        load(world, tmp_path, **change(world))


def foreign(examples):
    at = examples.column_names.index("split")
    return examples.set_column(at, examples.schema.field(at), pa.array(["test"] * examples.num_rows))


def test_an_unknown_split_is_named(world):
    with refused("split-unknown", DataError):
        world.data.batch("holdout")


def test_shuffled_chains_of_thought_come_from_another_example_of_the_label():
    from llmcf_cli.rec.input.examples import shuffle_cot

    label = np.array([1, 0, 1, 0, 1, 0, 0], np.int8)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(1, 8, dtype=np.float32)), 1)
    table = pa.table({"sample_id": np.arange(7), "label": label, "cot_vector": vector})
    found = shuffle_cot(table, 3)
    source = found["cot_vector"].combine_chunks().flatten().to_numpy().astype(int) - 1
    assert sorted(source) == list(range(7))
    assert (source != np.arange(7)).all()
    assert (label[source] == label).all()
    assert found.drop_columns(["cot_vector"]).equals(table.drop_columns(["cot_vector"]))
    assert shuffle_cot(table, 3).equals(found)
    assert not shuffle_cot(table, 4).equals(found)


def test_samples_read_in_blocks_and_out_of_order_are_the_same(world, tmp_path, monkeypatch):
    database = tmp_path / "shuffled.duckdb"
    database.write_bytes(world.database.read_bytes())
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TABLE mixed AS FROM sample ORDER BY hash(sample_id)")
        connection.execute("DELETE FROM sample")
        connection.execute("INSERT INTO sample FROM mixed")
    monkeypatch.setattr("llmcf_cli.rec.input.dataset.ROWS_AT_ONCE", 7)
    data = load_task_data(database, Ranking(RankingConfig()), history_length=5)
    for split, samples in world.data.splits.items():
        for name in samples.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(data.splits[split], name), getattr(samples, name))
    assert data.resources.spec == world.data.resources.spec


def test_a_whole_split_is_not_copied(world):
    samples = world.data.splits["train"]
    batch = world.data.batch("train", inputs=["examples"])
    assert np.shares_memory(batch.history_row_BL.numpy(), samples.history_row_NL)
    assert np.shares_memory(batch.inputs["examples"].numpy(), world.data.loaded["examples"]["train"])
    taken = batch.take(torch.arange(3))
    assert {taken.user_row_B.dtype, taken.history_row_BL.dtype, taken.inputs["examples"].dtype} == {torch.int64}
