"""The layout of what `ingest` leaves; every stage above reads it."""

from __future__ import annotations

from llmcf_cli.store.layout import File, Output


class IngestOutput(Output):
    """Users, items, interactions and samples."""

    database = File("data.duckdb", "tables user, item, interaction, feature, sample, history, ingest_step and meta")
    """Or the two files below; `store.open.connect_read` opens either."""
    base = File("data.base.duckdb", "the same under earlier cuts", optional=True)
    recut = File("data.recut.json", "the later cuts", optional=True)
