"""The gate before stages that read texts: nothing is paid for prompts and vectors of nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmcf_cli.data.alarms import stop_at_blank_texts
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job
from llmcf_cli.store.open import connect_read


def require_texts(job: Job) -> None:
    """Stop unless enough items have a text.

    Raises:
        LimitError: More than `dataset.limits.blank_texts` of the items have none.
    """
    with connect_read(job.database) as connection:
        rows, blank = connection.execute("SELECT count(*), count(*) FILTER (text = '') FROM item").fetchone()
    stop_at_blank_texts(rows, blank, job.recipe.dataset.limits.blank_texts)


def judge_texts(ingested: Mapping[str, Any], recipe: Recipe) -> None:
    """The same for a stage whose result is there already, by what ingest reported.

    Raises:
        LimitError: More than `dataset.limits.blank_texts` of the items have none.
    """
    for texts in ingested["texts"]:
        if texts["entity"] == "item":
            stop_at_blank_texts(texts["rows"], texts["blank"], recipe.dataset.limits.blank_texts)
