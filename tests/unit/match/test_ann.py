"""Approximate search: exact guards, order and scores on any data; recall as measured; builds resumed and extended."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.match.ann import AnnSearcher
from llmcf_cli.match.config import AnnSearchConfig
from llmcf_cli.match.exact import ExactSearcher
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.match.lance import kind_for, trained_on
from llmcf_cli.match.limits import Limits
from llmcf_cli.match.recall import Probe, cheapest, recalled, require, runs_in_time
from llmcf_cli.store.open import open_lance

D = 32


def config(**changes) -> AnnSearchConfig:
    settings = {"index": "ivf_flat", "partition_rows": 16, "probes": 2, "time_block": 50, "checked_queries": 64}
    return AnnSearchConfig(**{**settings, **changes})


def keys(rng, count, first_id, users=30, items=40, times=1000) -> Keys:
    return Keys(
        np.arange(first_id, first_id + count), rng.integers(1, users + 1, count), rng.integers(1, items + 1, count),
        rng.integers(0, times, count),
    )  # fmt: skip


def vectors(rng, count, topics=12) -> np.ndarray:
    """Around a few directions, as texts are."""
    centre_TD = np.random.default_rng(99).standard_normal((topics, D))
    return (centre_TD[rng.integers(0, topics, count)] + 0.5 * rng.standard_normal((count, D))).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(3)
    return vectors(rng, 200), keys(rng, 200, 5000), vectors(rng, 1500), keys(rng, 1500, 0), rng.integers(0, 2, 1500)


def prepared(world, guard, balance="labels", folder=None, rows=slice(None), **changes):
    _, _, example_ED, example_keys, label_E = world
    searcher = AnnSearcher(config(**changes))
    searcher = searcher.kept_in(folder) if folder else searcher
    return searcher.prepare(example_ED[rows], example_keys.take(rows), label_E[rows], balance=balance, guard=guard)


@pytest.mark.parametrize("limits", [Limits(), Limits(1, True)], ids=["free", "limited"])
@pytest.mark.parametrize("clock", ["global", "per_user"])
@pytest.mark.parametrize("balance", ["labels", "none"])
@pytest.mark.parametrize("kind", ["flat", "ivf_flat"])
def test_with_all_partitions_it_is_exact_search_to_the_bit(world, clock, balance, kind, limits):
    query_ND, query_keys, example_ED, example_keys, label_E = world
    guard = Guard(clock, limits=limits)
    found = prepared(world, guard, balance, index=kind, probes=1000).search(query_ND, query_keys, k=4)
    exact = ExactSearcher().search(
        query_ND, query_keys, example_ED, example_keys, label_E, k=4, balance=balance, guard=guard
    )
    assert np.array_equal(found.index_NK, exact.index_NK)
    assert np.array_equal(found.score_NK, exact.score_NK)


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_pq", "ivf_rq", "ivf_hnsw_sq"])
def test_every_kind_is_built_guarded_and_as_good_as_measured(world, kind):
    query_ND, query_keys, _, example_keys, _ = world
    guard = Guard("global")
    index = prepared(world, guard, index=kind, probes=16, refine=8)
    assert {pool["kind"] for pool in index.kinds.values()} == {kind}
    probe = Probe(index, query_ND, query_keys, 4)
    measured = probe.measure(index)
    assert 0.8 < measured.recall <= 1.0
    found = index.search(query_ND, query_keys, k=4)
    hits, places = recalled(found, probe.exact, index.examples.label_E, by_label=True)
    assert hits / places == measured.recall
    assert (found.index_NK >= 0).sum() == places, "as many places are filled as exact search fills"
    check_guards(found, query_keys, example_keys, guard)


def check_guards(found, query_keys, example_keys, guard):
    allowed_NE = guard.allowed(query_keys, example_keys)
    for n, row in enumerate(found.index_NK):
        filled = row[row >= 0]
        assert allowed_NE[n, filled].all()
        assert len(set(filled)) == len(filled)
        assert (row[len(filled) :] == -1).all()
        assert (np.diff(found.score_NK[n, : len(filled)]) <= 0).all()


def test_a_query_finds_the_same_alone_and_among_others(world):
    query_ND, query_keys = world[:2]
    index = prepared(world, Guard("global"), query_block=64)
    whole = index.search(query_ND, query_keys, k=4)
    again = index.search(lambda block: query_ND[block], query_keys, k=4)
    assert np.array_equal(whole.index_NK, again.index_NK)
    for n in (0, 17, 101):
        alone = index.search(query_ND[n : n + 1], query_keys.take(slice(n, n + 1)), k=4)
        assert np.array_equal(alone.index_NK[0], whole.index_NK[n])
        assert np.array_equal(alone.score_NK[0], whole.score_NK[n])


@given(
    seed=st.integers(0, 10**6), users=st.sampled_from([1, 2, 40]), times=st.sampled_from([1, 3, 1000]),
    positives=st.sampled_from([0.0, 0.5, 1.0]), distinct=st.sampled_from([1, 4, 10**6]),
    empty=st.booleans(), clock=st.sampled_from(["global", "per_user"]), balance=st.sampled_from(["labels", "none"]),
    exclude=st.sampled_from(["strict", "own_item", "reference"]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_guards_hold_and_no_place_is_lost(seed, users, times, positives, distinct, empty, clock, balance, exclude):
    """Ties in score and time, one user, one label, empty histories, queries that are examples themselves."""
    rng = np.random.default_rng(seed)
    example_ED = vectors(rng, 260)[rng.integers(0, min(distinct, 260), 260)]
    if empty:
        example_ED[:, : D // 2] = 0
    example_keys = keys(rng, 260, 0, users, 5, times)
    label_E = (rng.random(260) < positives).astype(int)
    own = rng.integers(0, 260, 20)
    query_keys = Keys(
        *(np.concatenate([getattr(example_keys.take(own), name), getattr(keys(rng, 20, 900, users, 5, times), name)])
          for name in ("sample_id_N", "user_row_N", "item_row_N", "time_N"))
    )  # fmt: skip
    query_ND = np.concatenate([example_ED[own], vectors(rng, 20)])
    query_ND[3] = 0
    guard = Guard(clock, exclude=exclude)
    found = AnnSearcher(config(probes=1)).search(
        query_ND, query_keys, example_ED, example_keys, label_E, k=4, balance=balance, guard=guard
    )
    check_guards(found, query_keys, example_keys, guard)
    allowed_NE = guard.allowed(query_keys, example_keys)
    for n, row in enumerate(found.index_NK):
        if balance == "labels":
            room = sum(min(2, (allowed_NE[n] & (label_E == label)).sum()) for label in (0, 1))
        else:
            room = min(4, allowed_NE[n].sum())
        assert (row >= 0).sum() == room


def test_sizes_choose_the_kind():
    auto = AnnSearchConfig()
    assert [kind_for(auto, n) for n in (0, 19_999, 20_000, 2_000_000)] == ["flat", "flat", "ivf_flat", "ivf_rq"]
    for kind in ("ivf_pq", "ivf_rq", "ivf_hnsw_sq"):
        assert [kind_for(config(index=kind), n) for n in (63, 64, 511, 512)] == ["flat", "ivf_flat", "ivf_flat", kind]


def test_appended_examples_are_found_as_in_a_new_index(world, tmp_path):
    query_ND, query_keys, example_ED, example_keys, label_E = world
    guard, first, rest = Guard("global"), slice(0, 1000), slice(1000, 1500)
    old = prepared(world, guard, folder=tmp_path / "grown", rows=first, probes=16)
    grown = old.append(example_ED[rest], example_keys.take(rest), label_E[rest])
    new = prepared(world, guard, folder=tmp_path / "new", probes=16)
    for name, pool in grown.kinds.items():
        assert pool["trained_on"] == old.kinds[name]["trained_on"] < pool["examples"] == new.kinds[name]["examples"]
    table = open_lance(tmp_path / "grown" / "positive").open_table("example")
    assert all(index.num_unindexed_rows == 0 for index in table.list_indices())
    probe = Probe(new, query_ND, query_keys, 4)
    recorded = probe.measure(new).recall
    assert probe.measure(grown).recall >= recorded - 0.02
    here, there = (index.search(query_ND, query_keys, k=4).index_NK for index in (grown, new))
    same = np.mean([len(set(a) & set(b)) / len(set(b)) for a, b in zip(here, there, strict=True)])
    assert same >= recorded - 0.03
    assert (np.unique(here) >= 1000).any(), "new examples are among those found"


def test_the_examples_decide_whether_an_index_is_reused_grown_or_made_anew(world, tmp_path):
    guard = Guard("global")

    def version(rows, **changes):
        prepared(world, guard, folder=tmp_path, rows=rows, **changes)
        table = open_lance(tmp_path / "positive").open_table("example")
        return table.version, table.count_rows(), trained_on(table)[1]

    positive = [int(world[4][:n].sum()) for n in (500, 600, 1500)]
    made = version(slice(0, 500))
    assert made[1:] == (positive[0], positive[0])
    assert version(slice(0, 500)) == made, "nothing is written for the same examples"
    assert version(slice(0, 600))[1:] == (positive[1], positive[0]), "grown, partitions kept"
    assert version(slice(0, 1500))[1:] == (positive[2], positive[2]), "more than twice as many: trained again"
    assert version(slice(0, 500))[1:] == (positive[0], positive[0]), "fewer: made anew"
    assert version(slice(0, 500), partition_rows=32)[0] > made[0], "another size of partitions: trained again"


def test_changed_vectors_make_the_index_anew(world, tmp_path):
    query_ND, query_keys, example_ED, example_keys, label_E = world
    prepared(world, Guard("global"), folder=tmp_path)
    turned = np.ascontiguousarray(example_ED[:, ::-1])
    found = prepared((query_ND, query_keys, turned, example_keys, label_E), Guard("global"), folder=tmp_path, probes=99)
    there = found.search(query_ND, query_keys, k=4)
    exact = found.exact().search(query_ND, query_keys, k=4)
    assert np.array_equal(there.index_NK, exact.index_NK)


def test_readers_keep_their_version_while_a_writer_appends(world, tmp_path):
    query_ND, query_keys, example_ED, example_keys, label_E = world
    guard = Guard("global")
    readers = [prepared(world, guard, folder=tmp_path, rows=slice(0, 900)) for _ in range(2)]
    before = readers[0].search(query_ND, query_keys, k=4)
    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(readers[0].append, example_ED[900:], example_keys.take(slice(900, None)), label_E[900:])
        during = [pool.submit(reader.search, query_ND, query_keys, k=4) for reader in readers * 4]
        written = writing.result()
        results = [task.result() for task in during] + [reader.search(query_ND, query_keys, k=4) for reader in readers]
    for found in results:
        assert np.array_equal(found.index_NK, before.index_NK)
        assert np.array_equal(found.score_NK, before.score_NK)
    assert (written.search(query_ND, query_keys, k=4).index_NK >= 900).any()


BUILD = """
    import sys, numpy as np
    from pathlib import Path
    from llmcf_cli.match import lance
    from llmcf_cli.match.ann import AnnSearcher
    from llmcf_cli.match.config import AnnSearchConfig
    from llmcf_cli.match.guard import Guard, Keys
    rng = np.random.default_rng(1)
    n = 10_000
    made = lance._vector_index
    def slow(*given):
        print("training", flush=True)
        return made(*given)
    lance._vector_index = slow
    keys = Keys(np.arange(n), rng.integers(1, 900, n), rng.integers(1, 900, n), rng.integers(0, n, n))
    vector_ED = rng.standard_normal((n, 128)).astype(np.float32)
    searcher = AnnSearcher(AnnSearchConfig(index="ivf_flat", partition_rows=64)).kept_in(Path(sys.argv[1]))
    index = searcher.prepare(vector_ED, keys, rng.integers(0, 2, n), balance="none", guard=Guard("global"))
    found = index.search(vector_ED[:50], keys.take(slice(50)), k=4)
    print("done", found.index_NK.tolist(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_a_build_that_is_killed_is_resumed(tmp_path, delay):
    command = [sys.executable, "-c", textwrap.dedent(BUILD), str(tmp_path / "index")]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert killed.stdout.readline() == "training\n"
    written = open_lance(tmp_path / "index" / "all").open_table("example")
    time.sleep(delay)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    version = written.version
    resumed = subprocess.run(command, capture_output=True, text=True, check=True)
    table = open_lance(tmp_path / "index" / "all").open_table("example")
    assert table.count_rows() == 10_000
    assert trained_on(table) == ("ivf_flat", 10_000, 64)
    assert table.version <= version + 3, "the rows are not written again"
    assert resumed.stdout.splitlines()[-1].startswith("done [[")


def test_what_a_kill_leaves_of_a_table_is_no_obstacle(world, tmp_path):
    (tmp_path / "positive" / "example.lance" / "data").mkdir(parents=True)
    (tmp_path / "positive" / "example.lance" / "data" / "half.lance").write_bytes(b"nothing")
    query_ND, query_keys = world[:2]
    found = prepared(world, Guard("global"), folder=tmp_path).search(query_ND, query_keys, k=4)
    assert (found.index_NK >= 0).any()


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_index_is_built_anew(world, tmp_path, seed):
    """Flipped or truncated anywhere; Lance itself would give other rows, or errors of its own."""
    query_ND, query_keys, *_ = world
    chance = random.Random(seed)
    expected = prepared(world, Guard("global"), folder=tmp_path, probes=99).search(query_ND, query_keys, k=4)
    file = chance.choice(sorted(f for f in tmp_path.rglob("*") if f.is_file() and f.stat().st_size))
    content = bytearray(file.read_bytes())
    if seed % 2:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    else:
        del content[chance.randrange(len(content)) :]
    file.write_bytes(content)
    found = prepared(world, Guard("global"), folder=tmp_path, probes=99).search(query_ND, query_keys, k=4)
    assert np.array_equal(found.index_NK, expected.index_NK)


def test_an_index_below_its_recall_is_refused_with_the_numbers(world):
    query_ND, query_keys = world[:2]
    index = prepared(world, Guard("per_user"), probes=1)
    measured = Probe(index, query_ND, query_keys, 4).measure(index)
    assert measured.recall < 0.999
    require(measured, measured.recall)
    with refused("recall-too-low", LlmcfError, names=f"{measured.recall:.4f}") as told:
        require(measured, 0.9999)
    assert "llmcf match tune" in told.value.hint


def test_a_sweep_ends_at_the_recall_and_the_cheapest_is_taken(world):
    query_ND, query_keys = world[:2]
    index = prepared(world, Guard("per_user"))
    tried = list(Probe(index, query_ND, query_keys, 4).sweep(0.98))
    assert [m.recall >= 0.98 for m in tried] == [False] * (len(tried) - 1) + [True]
    assert [m.probes for m in tried] == [2**n for n in range(len(tried))]
    assert cheapest(tried, 0.98) is tried[-1]
    with refused("recall-unreachable", LlmcfError):
        cheapest(tried[:1], 0.98)


def test_recall_counts_places_not_which_of_equal_examples():
    from llmcf_cli.match.searcher import Matches

    exact = Matches(np.array([[0, 1, 2, -1]]), np.array([[3, 2, 1, 0]], np.float32))
    other = Matches(np.array([[0, 3, 5, -1]]), np.array([[3, 1, 0.5, 0]], np.float32))
    label_E = np.array([1, 0, 1, 1, 0, 0])
    assert recalled(exact, exact, label_E, True) == (3, 3)
    assert recalled(other, exact, label_E, True) == (2, 3)
    assert recalled(other, exact, label_E, False) == (2, 3)


def test_runs_are_seeded_distinct_and_cover_small_samples():
    assert runs_in_time(100, 1000, 0).tolist() == [0, 64]
    chosen = runs_in_time(10_000, 640, 5)
    assert len(set(chosen)) == 10
    assert (chosen % 64 == 0).all()
    assert np.array_equal(chosen, runs_in_time(10_000, 640, 5))


def test_an_odd_k_and_unfit_vectors_are_refused(world):
    query_ND, query_keys = world[:2]
    index = prepared(world, Guard("global"))
    with refused("k-uneven", LlmcfError):
        index.search(query_ND, query_keys, k=3)
    with refused("vectors-not-finite", DataError):
        index.search(query_ND[:, 1:], query_keys, k=4)
