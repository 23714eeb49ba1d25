"""Kept events of users, against plain lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmcf_cli.features.histories import Histories


@given(
    events=st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), max_size=6), min_size=1, max_size=5),
    asked=st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 11)), max_size=8), length=st.integers(1, 8),
)  # fmt: skip
def test_before(events, asked, length):
    events = [sorted(of_user, key=lambda event: event[0]) for of_user in events]
    counts = [len(of_user) for of_user in events]
    flat = [event for of_user in events for event in of_user]
    histories = Histories(
        np.cumsum([0, 0, *counts]), np.array([i for _, i in flat], np.int32), np.array([t for t, _ in flat], np.int64)
    )
    asked = [(user, time) for user, time in asked if user <= len(events)]
    found = histories.before(
        np.array([u for u, _ in asked], np.int32), np.array([t for _, t in asked], np.int64), length
    )
    for (user, time), row in zip(asked, found.tolist(), strict=True):
        past = [item for at, item in (events[user - 1] if user else []) if at < time][-length:]
        assert row == [0] * (length - len(past)) + past
    again = Histories.from_arrow(histories.to_arrow())
    assert all(np.array_equal(a, b) for a, b in zip(vars(again).values(), vars(histories).values(), strict=True))
