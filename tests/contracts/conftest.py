"""The small world of `tests/rec_world.py`, made once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("rec_world", Path(__file__).parents[1] / "rec_world.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["rec_world"] = module
    spec.loader.exec_module(module)
    return module.make_world(tmp_path_factory.mktemp("world"))
