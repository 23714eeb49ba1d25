"""A stage and a command for llmcf. Only strings here: nothing is imported until one of them is run."""

from __future__ import annotations

from llmcf_cli.plugin import Registry


def register(registry: Registry) -> None:
    """Called by llmcf, because `pyproject.toml` names it under `llmcf.plugins`."""
    registry.add(
        "stage",
        "cot-stats",
        target="llmcf_example_stage.stage:CotStats",
        config="llmcf_example_stage.config:CotStatsConfig",
        summary="Measure how long the chains of thought are.",
        findings="llmcf_example_stage.commands:show_stats",
    )
    registry.add(
        "command",
        "cot-longest",
        target="llmcf_example_stage.commands:longest",
        summary="Print the longest chains of thought.",
    )
