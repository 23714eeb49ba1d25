"""Work of strangers ends, whatever it does."""

from __future__ import annotations

import faulthandler
import os
import signal
import time

import psutil
import pytest
from refusals import refused

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


@pytest.mark.parametrize("crashes", [1, 2, 3])
def test_a_copy_that_crashes_is_made_again(tmp_path, crashes):
    def work():
        number = len(list(tmp_path.iterdir()))
        (tmp_path / str(number)).touch()
        if number < crashes:
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGSEGV)
        return "done"

    if crashes < 3:
        assert confined(work, seconds=5, most=MOST) == "done"
    else:
        with refused("confined-failed", LlmcfError, names="SIGSEGV"):
            confined(work, seconds=5, most=MOST)
    assert len(list(tmp_path.iterdir())) == min(crashes + 1, 3)


def test_a_copy_that_hangs_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("llmcf_cli.core.confined._PATIENCE", 1.0)

    def work():
        first = not list(tmp_path.iterdir())
        (tmp_path / str(os.getpid())).touch()
        if first:
            time.sleep(60)
        return "done"

    assert confined(work, seconds=5, most=MOST) == "done"
    assert len(list(tmp_path.iterdir())) == 2
