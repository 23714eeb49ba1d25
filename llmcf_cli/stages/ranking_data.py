"""What an arm trains on and is evaluated with, read from the stages it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.store.open import read_lance, read_parquet

if TYPE_CHECKING:
    from llmcf_cli.rec.dataset import RankingData


def ranking_data(recipe: Recipe, folders: Mapping[str, Path]) -> RankingData:
    """Samples, catalogue, and what those further stages made that are among the folders.

    Args:
        recipe: For the history's length.
        folders: Stage label → folder; `ingest`, and whichever of `embed`, `match`, `knowledge` and `teacher` are read.
    """
    from llmcf_cli.rec.dataset import load_ranking_data

    item_text = examples = matches = knowledge = teacher = None
    if "embed" in folders:
        item_text = read_lance(folders["embed"] / "lance", "item_text")
    if "match" in folders:
        examples = read_lance(folders["embed"] / "lance", "cot_example")
        matches = read_parquet(folders["match"] / "example_match.parquet")
    if "knowledge" in folders:
        knowledge = read_lance(folders["knowledge"] / "lance", "knowledge")
    if "teacher" in folders:
        teacher = read_parquet(folders["teacher"] / "teacher_score.parquet")
    return load_ranking_data(
        folders["ingest"] / "data.duckdb",
        history_length=recipe.dataset.history.max_length,
        item_text=item_text,
        examples=examples,
        matches=matches,
        teacher=teacher,
        knowledge=knowledge,
    )
