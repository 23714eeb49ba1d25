"""The positive controls: reasoning that is there is seen, and texts that say nothing give nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from llmcf_cli.rec.config import ReadoutConfig

FOLDER = Path(__file__).parents[2] / "benchmarks"


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def power() -> ModuleType:
    return benchmark("power")


@pytest.fixture(scope="module")
def cold(power) -> ModuleType:
    return benchmark("cold")


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


@pytest.mark.slow
def test_texts_about_items_reach_new_items_and_texts_of_other_items_do_not(cold, tmp_path):
    arms = ("text", "kar, every book", "kar, every book, shuffled")
    found = {arm: aucs[0] for arm, aucs in cold.measure(tmp_path, 1, (1,), arms).items()}
    for slice_, _ in enumerate(cold.SLICES):
        assert found["kar, every book"][slice_] > found["text"][slice_] + 0.05
        assert found["kar, every book, shuffled"][slice_] < found["text"][slice_] + 0.02
