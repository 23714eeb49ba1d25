from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def _tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_llm", Path(__file__).parents[2] / "tiny_llm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def write_mix() -> Callable[[Path, int], Path]:
    """Write so many short samples, of different lengths, to a file as a tuning mix; the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from llmcf_cli.llm.mix import SCHEMA

    def write(file: Path, samples: int) -> Path:
        rows = [
            {"prompt": [{"role": "user", "content": f"film {n} " + "the " * (n % 7)}],
             "completion": [{"role": "assistant", "content": "Yes it is" if n % 2 else "No"}],
             "source": "x", "prompt_tokens": 1, "completion_tokens": 1}
            for n in range(samples)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file)
        return file

    return write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny chat model."""
    return _tiny().save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DuckDB file of a tiny ingested data set."""
    return _tiny().save_tiny_data(tmp_path_factory.mktemp("data") / "data.duckdb")
