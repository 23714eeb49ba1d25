"""What an arm trains on and is evaluated with, read from the stages it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.collab import COLLABORATIVE
from llmcf_cli.store.open import read_lance, read_parquet

if TYPE_CHECKING:
    from llmcf_cli.rec.dataset import RankingData


def ranking_data(recipe: Recipe, folders: Mapping[str, Path]) -> RankingData:
    """Samples, catalogue and, as far as their stages are among the folders, text vectors, matched
    examples and collaborative vectors.

    Args:
        recipe: For the history's length.
        folders: Stage label → folder; `ingest`, and `embed`, `match` and `collab` if an arm reads them.
    """
    from llmcf_cli.features.collaborative import load_collaborative
    from llmcf_cli.rec.dataset import load_ranking_data

    item_text = examples = matches = collaborative = None
    if "embed" in folders:
        item_text = read_lance(folders["embed"] / "lance", "item_text")
    if "match" in folders:
        examples = read_lance(folders["embed"] / "lance", "cot_example")
        matches = read_parquet(folders["match"] / "example_match.parquet")
    if "collab" in folders:
        collaborative = load_collaborative(folders["collab"] / COLLABORATIVE)
    return load_ranking_data(
        folders["ingest"] / "data.duckdb",
        history_length=recipe.dataset.history.max_length,
        item_text=item_text,
        examples=examples,
        matches=matches,
        collaborative=collaborative,
    )
