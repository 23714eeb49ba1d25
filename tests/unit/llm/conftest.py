from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_llm", Path(__file__).parents[2] / "tiny_llm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny chat model."""
    return _tiny().save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DuckDB file of a tiny ingested data set."""
    return _tiny().save_tiny_data(tmp_path_factory.mktemp("data") / "data.duckdb")
