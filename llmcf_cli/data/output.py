"""The layout of what `ingest` leaves; every stage above reads it."""

from __future__ import annotations

from llmcf_cli.store.layout import File, Output


class IngestOutput(Output):
    """Users, items, interactions and samples."""

    database = File("data.duckdb", "tables user, item, interaction, feature, sample, history, ingest_step and meta")
