"""What a block of a test takes of the machine."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Used:
    """Seconds of CPU of this process, and MiB of memory that it had at most beyond what it began with."""

    seconds = 0.0
    mebibytes = 0.0


@contextmanager
def used() -> Iterator[Used]:
    """Measure a block, by Linux's own count of memory; skips the test elsewhere."""
    found, started = Used(), time.process_time()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    except OSError:
        pytest.skip("the peak of memory cannot be measured here")
    before = _kibibytes("VmRSS")
    try:
        yield found
    finally:
        found.seconds = time.process_time() - started
        found.mebibytes = (_kibibytes("VmHWM") - before) / 1024


def _kibibytes(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])
