from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_llm


@pytest.fixture(scope="session")
def write_mix() -> Callable[[Path, int], Path]:
    """Write so many short samples, of different lengths, to a file as a tuning mix; the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from llmcf_cli.llm.mix.build import SCHEMA

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
    return tiny_llm.save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DuckDB file of a tiny ingested data set."""
    return tiny_llm.save_tiny_data(tmp_path_factory.mktemp("data") / "data.duckdb")
