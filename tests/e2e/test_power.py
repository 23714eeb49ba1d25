"""The positive control: `readout` sees reasoning that is there, and gains nothing from texts that say nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from llmcf_cli.rec.config import ReadoutConfig

FILE = Path(__file__).parents[2] / "benchmarks" / "power.py"


@pytest.fixture(scope="module")
def power() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_power", FILE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_readout_closes_the_gap_from_text_to_the_ceiling_and_controls_do_not(power, tmp_path):
    found = power.measure(tmp_path, 1, (1, 2), (0.0, 1.0), (0.5,), ("shuffled",), (ReadoutConfig(),))
    true, false = found["0.5 1.0"], found["0.5 0.0"]

    def closed(aucs):
        return power.closed(aucs, true["text"], true["ceiling"])

    assert sum(true["ceiling"]) / 2 > sum(true["text"]) / 2 + 0.01
    assert closed(true["readout"]) >= 0.7
    assert closed(true["readout shuffled"]) <= 0.1
    assert closed(false["readout"]) <= 0.1
