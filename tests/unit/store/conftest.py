"""Stores of assets in the test's own cache, and files to fetch."""

import pytest

from llmcf_cli.store.assets import AssetStore


@pytest.fixture
def store(tmp_path):
    """Make a store of the given assets in the test's own cache."""
    return lambda *assets: AssetStore({found.name: found for found in assets}, tmp_path / "cache")


@pytest.fixture
def source(tmp_path):
    """Write a file to fetch and return its `file:` source."""

    def source(name: str, content: bytes) -> str:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"file:{path}"

    return source
