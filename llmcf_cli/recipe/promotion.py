"""The section `promote`: when a new bundle takes the place of the one that is served."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from llmcf_cli.core.types import Broken, Config, rule


class Threshold(Config):
    """What one measure of the challenger, the new bundle, must reach."""

    not_worse_by: Annotated[float, Field(ge=0)] | None = None
    """By how much it may be worse than the champion's, in units of the measure. If not set: no limit."""
    at_least: float | None = None
    """Minimum value, whatever the champion's is."""
    at_most: float | None = None
    """Maximum value, whatever the champion's is."""

    @rule("not_worse_by", "at_least", "at_most")
    def _demands_something(self) -> Iterator[Broken]:
        if self.not_worse_by is None and self.at_least is None and self.at_most is None:
            yield Broken("give at least one of not_worse_by, at_least and at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            yield Broken(f"at_least {self.at_least:g} is above at_most {self.at_most:g}")


class PromoteSection(Config):
    """When a new bundle, the challenger, replaces the served one, the champion (`llmcf promote`)."""

    measures: dict[str, Threshold] = Field(min_length=1, max_length=100)
    """Measure of the task → what the challenger must reach, for example `auc: {not_worse_by: 0.002, at_least: 0.6}`.
    All conditions must hold."""
    evidence: Literal["difference", "interval"] = "difference"
    """What must stay within `not_worse_by`: the measured `difference`, or its whole 95 % confidence `interval`."""
    window_days: Annotated[float, Field(gt=0, le=36_500)] | None = None
    """Measure both bundles only on the test samples of this many most recent days. If not set: on all test samples."""
    rows: Annotated[int, Field(ge=2, le=10_000_000)] = 200_000
    """Maximum number of samples to score. If the window has more, this many are drawn."""
    latency_ratio: Annotated[float, Field(gt=0)] = 3.0
    """How many times as long as the champion the challenger may take to answer a request (ratio of medians)."""
    max_difference: Annotated[float, Field(ge=0)] | None = None
    """By how much any raw score may differ from the champion's. If not set: no limit. For example, `0.001` demands that
    both give the same scores, as they do after a refresh that leaves the weights unchanged."""
