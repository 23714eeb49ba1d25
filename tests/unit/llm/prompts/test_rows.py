"""Which train samples are chosen: by shares of strata, from train alone, and a larger choice contains the smaller."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcf_cli.llm.prompts.rows import choose_train
from llmcf_cli.recipe.sections import TrainSampleSection

STRATA = ("user", "label", "time", "popularity")
CHOICES = st.lists(st.sampled_from(STRATA), unique=True, max_size=4)


@pytest.fixture
def connection(tiny_data: Path) -> Any:
    with duckdb.connect(str(tiny_data), read_only=True) as connection:
        yield connection


def chosen(connection: Any, seed: int = 1, **sample: Any) -> list[int]:
    return choose_train(connection, TrainSampleSection(**sample), seed, "cot.sample").tolist()


@settings(max_examples=40, deadline=None)
@given(
    strata=CHOICES, balance=st.sampled_from(["none", "labels"]), seed=st.integers(0, 99), quantiles=st.integers(2, 6),
    fractions=st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)),
)  # fmt: skip
def test_a_larger_fraction_contains_the_smaller(tiny_data, strata, balance, seed, quantiles, fractions) -> None:
    with duckdb.connect(str(tiny_data), read_only=True) as connection:
        few, many = (
            chosen(connection, seed, fraction=f, balance=balance, stratify=strata, quantiles=quantiles)
            for f in sorted(fractions)
        )
        splits = connection.execute("SELECT DISTINCT split FROM sample WHERE sample_id IN (SELECT unnest(?))", [many])
        assert splits.fetchall() == [("train",)]
    assert set(few) <= set(many)
    assert many == sorted(set(many))


@settings(max_examples=40, deadline=None)
@given(strata=CHOICES.filter(bool), seed=st.integers(0, 99), count=st.integers(1, 60))
def test_every_stratum_gets_its_share_to_within_one_row(tiny_data, strata, seed, count) -> None:
    with duckdb.connect(str(tiny_data), read_only=True) as connection:
        of = strata_of(connection, strata)
        ids = chosen(connection, seed, count=count, stratify=strata)
    sizes, got = Counter(of.values()), Counter(of[i] for i in ids)
    assert len(ids) == count
    # Some share fits all strata at once: every one has that share of its rows, give or take one.
    least = max((got[s] - 1) / size for s, size in sizes.items())
    most = min((got[s] + 1) / size for s, size in sizes.items())
    assert least <= most


def strata_of(connection: Any, strata: list[str]) -> dict[int, tuple]:
    """Train sample → its stratum, counted apart from the code under test."""
    rows = connection.execute(
        "SELECT sample_id, user_row, item_row, label FROM sample WHERE split = 'train' ORDER BY time, sample_id"
    ).fetchall()
    counts = Counter(item for _, _, item, _ in rows)
    ranked = sorted(counts, key=lambda item: (counts[item], item))

    def quantile(place: int, total: int) -> int:
        large = total % 4 * (total // 4 + 1)  # as SQL's ntile: the larger groups first
        return place // (total // 4 + 1) if place < large else total % 4 + (place - large) // (total // 4)

    found = {}
    for place, (sample, user, item, label) in enumerate(rows):
        known = {
            "user": user, "label": label, "time": quantile(place, len(rows)),
            "popularity": quantile(ranked.index(item), len(ranked)),
        }  # fmt: skip
        found[sample] = tuple(known[name] for name in strata)
    return found


def test_small_strata_are_not_left_out_for_good(connection) -> None:
    """A stratum of one row is in a tenth of the choices of a tenth, not in none."""
    strata = ["user", "label", "time", "popularity"]
    sizes = Counter(strata_of(connection, strata).values())
    alone = {i for i, stratum in strata_of(connection, strata).items() if sizes[stratum] == 1}
    drawn = [len(alone & set(chosen(connection, seed, fraction=0.25, stratify=strata))) for seed in range(40)]
    assert 0.15 < sum(drawn) / len(drawn) / len(alone) < 0.35


def test_without_strata_the_order_is_that_of_the_digest(connection) -> None:
    ids = connection.execute(
        "SELECT sample_id FROM sample WHERE split = 'train' ORDER BY md5(concat(1::BIGINT, ':', sample_id)) LIMIT 9"
    ).fetchall()
    assert chosen(connection, count=9) == sorted(i for (i,) in ids)
