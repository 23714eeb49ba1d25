"""A judge for llmcf. Only strings here: nothing heavy is imported until a recipe uses it."""

from __future__ import annotations

from llmcf_cli.plugin import Registry


def register(registry: Registry) -> None:
    """Called by llmcf, because `pyproject.toml` names it under `llmcf.plugins`."""
    registry.add(
        "judge",
        "grounded",
        config="llmcf_example_judge.config:GroundedJudgeConfig",
        target="llmcf_example_judge.judge:GroundedJudge",
        summary="the rubric, wary of names that the prompt does not have",
    )
