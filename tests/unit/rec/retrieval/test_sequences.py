"""Sequences and seen items against the tables that ingest wrote."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
import retrieval_world
import torch
from hypothesis import given, strategies
from refusals import refused

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.rec.input.base import default_inputs
from llmcf_cli.rec.input.stored import Stored, Storing
from llmcf_cli.rec.retrieval.sequences import SHORTEST, alike, sequences


def asked(found, length):
    """(events before the target, target) of every target."""
    pairs = []
    parts = (found.event_BL, found.target_BP, found.place_BP)
    for events, targets, places in zip(*(part.tolist() for part in parts), strict=True):
        for target, place in zip(targets, places, strict=True):
            if target:
                pairs.append((tuple(e for e in events[:place] if e), target))
    return pairs


@pytest.mark.parametrize("name", ["shop", "left_out"])
@pytest.mark.parametrize("length", [1, 3, 8])
def test_every_target_is_asked_once_with_the_history_of_its_sample(request, name, length):
    data = request.getfixturevalue(name)
    train = data.splits["train"]
    # Histories of the samples, as ingest wrote them: the last 8 events strictly before.
    expected = defaultdict(list)
    for history, target in zip(train.history_row_NL.tolist(), train.item_row_N.tolist(), strict=True):
        expected[target].append(tuple(e for e in history if e))
    pairs = asked(sequences(data.resources.get("events"), train, length), length)
    assert Counter(target for _, target in pairs) == Counter(train.item_row_N.tolist())
    by_target = defaultdict(list)
    for before, target in pairs:
        by_target[target].append(before)
    for target, histories in by_target.items():
        rest = list(expected[target])
        for before in sorted(histories, key=len, reverse=True):
            # At least half of the length, or all there are; never an event that the sample's history does not end with.
            match = next(h for h in rest if h[len(h) - len(before) :] == before
                         and len(before) >= min(len(h), length - length // 2 or 1))  # fmt: skip
            rest.remove(match)
        assert not rest


def test_a_target_knows_its_sample(shop):
    train = shop.splits["train"]
    found = sequences(shop.resources.get("events"), train, 8)
    row, column = found.target_BP.nonzero(as_tuple=True)
    sample = found.sample_BP[row, column].numpy()
    assert sorted(sample.tolist()) == list(range(len(train)))
    np.testing.assert_array_equal(train.item_row_N[sample], found.target_BP[row, column].numpy())
    for event, place, history in zip(found.event_BL[row].tolist(), found.place_BP[row, column].tolist(),
                                     train.history_row_NL[sample].tolist(), strict=True):  # fmt: skip
        before = [item for item in event[:place] if item]
        assert before == [item for item in history if item][len([item for item in history if item]) - len(before) :]


def test_events_of_one_time_do_not_see_each_other(shop):
    train = shop.splits["train"]
    times = Counter(zip(train.user_row_N.tolist(), train.time_N.tolist(), strict=True))
    assert max(times.values()) > 1
    found = sequences(shop.resources.get("events"), train, 8)
    assert len({(e, p) for events, places in zip(found.event_BL.tolist(), found.place_BP.tolist(), strict=True)
                for p in places if p for e in [tuple(events)]}) < len(train)  # fmt: skip


def test_low_ratings_are_read_where_histories_hold_all_events(tmp_path):
    retrieval_world.write_events(tmp_path)
    section = retrieval_world.section(tmp_path, history={"max_length": 30, "events": "all"})
    from pathlib import Path

    from llmcf_cli.data.ingest import ingest

    ingest(section, locate=Path, seed=1, out=tmp_path / "data.duckdb")
    data = retrieval_world.load(tmp_path / "data.duckdb", 30, "all")
    train = data.splits["train"]
    expected = sorted(
        (tuple(e for e in h if e), t)
        for h, t in zip(train.history_row_NL.tolist(), train.item_row_N.tolist(), strict=True)
    )
    assert sorted(asked(sequences(data.resources.get("events"), train, 30), 30)) == expected


def test_seen_are_all_events_strictly_before(shop):
    test, events = shop.splits["test"], shop.resources.get("events")
    owner_S, item_S = events.seen(test.user_row_N, test.time_N)
    taken = events.taken
    for number in range(len(test)):
        user = test.user_row_N[number]
        own = slice(taken.offset_U[user], taken.offset_U[user + 1])
        pairs = zip(taken.item_E[own].tolist(), taken.time_E[own].tolist(), strict=True)
        expected = sorted(item for item, time in pairs if time < test.time_N[number])
        assert sorted(item_S[owner_S == number].tolist()) == expected
        history = set(test.history_row_NL[number].tolist()) - {0}
        assert history <= set(expected)
        assert test.item_row_N[number] not in expected
    assert len(events.seen(np.zeros(3, np.int32), np.full(3, 1 << 60))[0]) == 0


def test_a_bundles_events_cannot_be_learned_from(shop, tmp_path):
    one = default_inputs(["events"])["events"]
    kept = one.stored(shop.resources.get("events"))
    with refused("rows-out-of-range", DataError):
        sequences(shop.resources.get("events"), shop.splits["test"], 8)
    with refused("no-positives", DataError):
        sequences(kept, shop.splits["train"], 8)
    assert not len(one.forgotten(kept).taken.item_E)
    one.save(kept, Storing(tmp_path, one.files))
    found = one.read(Stored(tmp_path, one.files), shop.resources)
    one.check(found, shop.resources, tmp_path)
    found.taken.item_E[0] = 10_000
    with pytest.raises(ModelError):
        one.check(found, shop.resources, tmp_path)


def test_only_positives_are_queries(shop):
    for samples in shop.splits.values():
        assert (samples.label_N == 1).all()


@given(strategies.integers(1, 40), strategies.lists(strategies.integers(0, 40), min_size=1, max_size=30))
def test_groups_hold_every_row_once_at_the_narrowest_width(length, sizes):
    sizes = [min(size, length) for size in sizes]
    event_BL = torch.tensor([[0] * (length - size) + [7] * size for size in sizes])
    order_B, groups = alike(event_BL)
    assert sorted(order_B.tolist()) == list(range(len(sizes)))
    assert sum(count for count, _ in groups) == len(sizes)
    widths = [width for count, width in groups for _ in range(count)]
    for row, width in zip(order_B.tolist(), widths, strict=True):
        assert sizes[row] <= width <= max(min(SHORTEST, length), 2 * sizes[row])
