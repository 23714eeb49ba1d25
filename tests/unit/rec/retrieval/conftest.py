"""The small world of `tests/retrieval_world.py`, by each split."""

from __future__ import annotations

import pytest
import retrieval_world


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """Split by time."""
    return retrieval_world.make_data(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def left_out(tmp_path_factory):
    """Each user's last two events left out."""
    return retrieval_world.make_data(tmp_path_factory.mktemp("left_out"), split={"type": "leave_one_out"})
