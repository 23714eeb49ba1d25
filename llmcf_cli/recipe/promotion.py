"""The section `promote`: when a new bundle takes the place of the one that is served."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from llmcf_cli.core.types import Broken, Config, rule


class Threshold(Config):
    """What one measure of the challenger must reach."""

    not_worse_by: Annotated[float, Field(ge=0)] | None = None
    """By how much it may be worse than the champion's, in the measure's unit; None: by anything."""
    at_least: float | None = None
    """Least value, whatever the champion's is."""
    at_most: float | None = None
    """Greatest value, whatever the champion's is."""

    @rule("not_worse_by", "at_least", "at_most")
    def _demands_something(self) -> Iterator[Broken]:
        if self.not_worse_by is None and self.at_least is None and self.at_most is None:
            yield Broken("give at least one of not_worse_by, at_least and at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            yield Broken(f"at_least {self.at_least:g} is above at_most {self.at_most:g}")


class PromoteSection(Config):
    """When a new bundle takes the place of the one that is served (`llmcf promote`)."""

    measures: dict[str, Threshold] = Field(min_length=1, max_length=100)
    """Measure of the task → what the challenger must reach, e.g. `auc: {not_worse_by: 0.002, at_least: 0.6}`. All
    of them must hold."""
    evidence: Literal["difference", "interval"] = "difference"
    """What `not_worse_by` limits: the `difference` that was measured, or all of its 95 % confidence `interval`."""
    window_days: Annotated[float, Field(gt=0, le=36_500)] | None = None
    """Both are measured on the test samples of the latest so many days; None: on all test samples."""
    rows: Annotated[int, Field(ge=2, le=10_000_000)] = 200_000
    """Most samples of the window that are scored; of more, so many are drawn."""
    latency_ratio: Annotated[float, Field(gt=0)] = 3.0
    """How many times as long as the champion the challenger may take to answer a request (medians)."""
    max_difference: Annotated[float, Field(ge=0)] | None = None
    """By how much any raw score may differ from the champion's; None: by anything. `0.001` demands that both serve the
    same, as after a refresh that leaves the weights as they are."""
