"""What items are called, for people who look at a list of ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.stages.look.made import run_of_folder
from llmcf_cli.store.open import connect_read


def texts_beside(bundle: Path, item_ids: Sequence[str]) -> dict[str, str]:
    """Item id → text, of those that have one, from the samples that a bundle was trained on.

    A bundle holds no texts; they are found only while it lies in the artifact folder of the run that made it. Elsewhere
    there are none.

    Args:
        bundle: Its folder.
        item_ids: The items.
    """
    try:
        ingests = run_of_folder(bundle.absolute().parent).ingests
    except LlmcfError:
        return {}
    found: dict[str, str] = {}
    for made in ingests:
        with connect_read(IngestOutput(made.folder).database) as connection:
            rows = connection.execute(
                "SELECT item_id, text FROM item WHERE trim(text) <> '' AND item_id IN (SELECT unnest($ids))",
                {"ids": list(item_ids)},
            ).fetchall()
        found.update(rows)
    return found
