"""Work of strangers ends, whatever it does."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from llmcf_cli.core.confined import confined
from llmcf_cli.core.errors import LlmcfError

MOST = 1 << 26


def children() -> set[int]:
    """Processes that this one started; the server of commands may be one of them."""
    return {child.pid for child in psutil.Process().children()}


def spin():
    while True:
        pass


def test_what_is_computed_comes_back():
    text = "é\ud800" * 100_000
    assert confined(lambda: text, seconds=5, most=MOST) == text
    assert confined(lambda: str(os.getpid()), seconds=5, most=MOST) != str(os.getpid())


@pytest.mark.parametrize(
    "work", [spin, lambda: "x" * (1 << 33), lambda: "x" * (MOST + 1), lambda: str(9**9**9), lambda: os._exit(0)],
    ids=["time", "memory", "length", "one long operation", "end"],
)  # fmt: skip
def test_what_takes_too_much_is_ended(work):
    before, others = time.process_time(), children()
    with pytest.raises(LlmcfError, match="takes more than"):
        confined(work, seconds=1, most=MOST)
    assert time.process_time() - before < 1
    assert children() <= others, "none is left"


def test_its_error_is_told():
    with pytest.raises(LlmcfError, match="division by zero"):
        confined(lambda: str(1 / 0), seconds=5, most=MOST)
