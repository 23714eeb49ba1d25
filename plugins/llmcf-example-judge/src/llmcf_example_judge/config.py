"""Settings of the judge. This module must stay cheap to import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmcf_cli.llm.config import RubricJudgeConfig


class GroundedJudgeConfig(RubricJudgeConfig):
    """The rubric, with relevance lowered by names that the prompt does not have."""

    type: Literal["grounded"] = "grounded"
    """Registered name."""
    min_grounded: Annotated[float, Field(ge=0, le=1)] = 0.0
    """A text of whose names a smaller share stands in the prompt is dropped as `made up`."""
