from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcf_cli.recipe.library import library_dir


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, str]]:
    file: Path = library_dir() / "data" / "general.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_pairs_are_complete_and_unique(pairs: list[dict[str, str]]) -> None:
    assert len(pairs) >= 120
    assert all(set(pair) == {"instruction", "input", "output"} for pair in pairs)
    assert all(pair["instruction"].strip() and pair["output"].strip() for pair in pairs)
    assert len({(pair["instruction"].lower(), pair["input"].lower()) for pair in pairs}) == len(pairs)


def test_pairs_are_varied_and_short(pairs: list[dict[str, str]]) -> None:
    assert len({pair["instruction"].split()[0] for pair in pairs}) >= 60
    assert len({pair["output"] for pair in pairs}) >= len(pairs) - 2
    assert 30 <= sum(bool(pair["input"]) for pair in pairs) <= len(pairs) - 60
    assert all(len(pair["output"].split()) <= 60 for pair in pairs)
