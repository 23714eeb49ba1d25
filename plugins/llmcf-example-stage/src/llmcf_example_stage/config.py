"""What a recipe may set under `stages.cot-stats`."""

from typing import Annotated, Literal

from pydantic import Field

from llmcf_cli.core.types import ComponentConfig


class CotStatsConfig(ComponentConfig):
    """Which words of a chain of thought count."""

    type: Literal["cot-stats"] = "cot-stats"
    min_letters: Annotated[int, Field(ge=1)] = 1
    """Words with fewer characters do not count."""
