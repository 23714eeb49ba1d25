"""Wide & Deep for llmcf. Only strings here: nothing heavy is imported until a recipe uses the backbone."""

from __future__ import annotations

from llmcf_cli.plugin import Registry


def register(registry: Registry) -> None:
    """Called by llmcf, because `pyproject.toml` names it under `llmcf.plugins`."""
    registry.add(
        "backbone",
        "wide_deep",
        config="llmcf_example_backbone.config:WideDeepConfig",
        target="llmcf_example_backbone.model:WideDeep",
        summary="linear model + MLP (Cheng et al., 2016)",
    )
