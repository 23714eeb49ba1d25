"""The audit of drawn negatives, made again from what ingest stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.plugin import registry
from llmcf_cli.store.open import connect_read, read_meta

if TYPE_CHECKING:
    from llmcf_cli.data.report import NegativesAudit
    from llmcf_cli.recipe.dataset import Repeats


def stored_audit(database: Path, label: ComponentConfig, repeats: Repeats, seed: int) -> NegativesAudit | None:
    """Check the negatives of a finished ingest; None where its label draws none.

    Args:
        database: Its DuckDB file.
        label: The recipe's `dataset.label`.
        repeats: The recipe's `dataset.repeats`.
        seed: Of the fresh draws; another than ingest's own audit used.
    """
    from llmcf_cli.data.cut import Cuts
    from llmcf_cli.data.negatives import PAIR, make_catalogue
    from llmcf_cli.data.negatives_audit import drawn_audit

    cuts = Cuts.from_meta(read_meta(database))
    with connect_read(database) as connection:
        connection.execute(
            f"CREATE TEMP VIEW event AS SELECT user_row, item_row, time, split, {PAIR} AS pair FROM sample "
            'JOIN "user" USING (user_row) JOIN item USING (item_row) WHERE label = 1'
        )
        connection.execute("CREATE TEMP VIEW item_number AS SELECT item_row, item_id FROM item")
        make_catalogue(connection, cuts)
        return drawn_audit(connection, label, repeats, derive_seed(seed, "stored audit"))


def audit_of(database: Path, material: Mapping[str, Any]) -> NegativesAudit | None:
    """The same for an artifact of ingest, by the settings that its manifest keeps."""
    dataset = material["dataset"]
    label = registry().get("label", dataset["label"]["type"]).config().model_validate(dataset["label"])
    return stored_audit(database, label, dataset["repeats"], material["seed"])
