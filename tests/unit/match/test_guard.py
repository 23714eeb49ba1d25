"""The guard's rule, and that nothing but train rows passes."""

from __future__ import annotations

import numpy as np
import pytest
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.match.guard import Guard, Keys

# id, user, item, time
EXAMPLES = Keys([0, 1, 2, 3], [1, 1, 2, 2], [5, 6, 5, 7], [10, 20, 20, 30])


@pytest.mark.parametrize(
    ("clock", "query", "want"),
    [
        ("global", (9, 1, 9, 20), [True, False, False, False]),  # equal times are not before
        ("global", (9, 3, 9, 31), [True, True, True, True]),
        ("global", (9, 3, 9, 10), [False, False, False, False]),
        ("global", (9, 1, 6, 99), [True, False, True, True]),  # the same pair, though long past
        ("global", (3, 2, 7, 30), [True, True, True, False]),  # itself
        ("per_user", (9, 1, 9, 20), [True, False, True, True]),  # only the own user's order counts
        ("per_user", (9, 2, 5, 99), [True, True, False, True]),
        ("per_user", (-1, 0, 0, 0), [True, True, True, True]),  # an unknown user has no rows
    ],
)
def test_rule(clock, query, want):
    keys = Keys(*([value] for value in query))
    guard = Guard(clock)
    assert guard.allowed(keys, EXAMPLES).tolist() == [want]
    repeated = keys.take(np.zeros(4, np.int64))
    assert guard.allowed_pairs(repeated, EXAMPLES).tolist() == want


def test_itself_is_refused_even_if_its_keys_disagree():
    query = Keys([2], [8], [8], [99])
    assert Guard("per_user").allowed(query, EXAMPLES).tolist() == [[True, True, False, True]]


def test_only_train_rows_may_be_examples():
    Guard("global", ["train", "train"])
    with refused("not-train", DataError):
        Guard("global", ["train", "validation", "test"])


def test_bad_clock_and_ragged_keys():
    with pytest.raises(ValueError, match="clock"):
        Guard("utc")
    with pytest.raises(ValueError, match="one length"):
        Keys([1, 2], [1, 2], [1, 2], [1])


def test_the_reference_rule_refuses_the_own_users_later_rows_alone():
    query = Keys(np.array([5]), np.array([1]), np.array([2]), np.array([10]))
    example = Keys(
        np.array([5, 6, 7, 8, 9]), np.array([1, 1, 1, 2, 1]), np.array([2, 2, 3, 4, 5]), np.array([10, 9, 11, 99, 10])
    )
    for clock in ("global", "per_user"):
        guard = Guard(clock, exclude="reference")
        # The sample itself, its own pair, another user's future, and an event of its own time all pass.
        assert guard.allowed(query, example).tolist() == [[True, True, False, True, True]]
        assert not guard.by_time
    assert Guard("global").by_time


@pytest.mark.parametrize("clock", ["global", "per_user"])
def test_examples_of_the_own_item_may_be_refused_besides(clock):
    query = Keys([9, -1], [3, 0], [5, 0], [99, 99])
    allowed = Guard(clock, exclude="own_item").allowed(query, EXAMPLES)
    assert allowed.tolist() == [[False, True, False, True], [True, True, True, True]]
    assert Guard("global", exclude="own_item").by_time
