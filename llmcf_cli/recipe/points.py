"""The points of a sweep over share and amount of recommendation data, as tuning mixes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.recipe.asking import BalanceSection
from llmcf_cli.recipe.sections import LLMSection

RECOMMENDATION = "recommendation"
"""The mix source of recommendation data."""


@dataclass(frozen=True)
class Point:
    """A mix of the sweep.

    Attributes:
        share: Share of recommendation data at the full amount.
        amount: Part of these data that is used.
        recommendation: Their samples.
        general: Samples of all other sources.
        mix: As in `llm.mix`, as plain data.
    """

    share: float
    amount: float
    recommendation: int
    general: int
    mix: list[dict[str, Any]]

    @property
    def count(self) -> int:
        """Samples of the mix."""
        return self.recommendation + self.general

    @property
    def name(self) -> str:
        """What tables call it."""
        kind = {0.0: "general only", 1.0: "recommendation only"}.get(self.share, f"mixed {self.share:g}")
        return kind if self.amount == 1 else f"{kind}, {100 * self.amount:g} % of the data"


def recommendation_source(section: LLMSection) -> ComponentConfig | None:
    """The mix's source of recommendation data; None if it has none."""
    return next((part.source for part in section.mix if part.source.type == RECOMMENDATION), None)


def sweep_points(balance: BalanceSection, section: LLMSection) -> dict[str, Point]:
    """Name → point, that of the recipe's own mix first, then the other shares, then the other amounts.

    Raises:
        ValueError: The mix lacks recommendation or general data, `llm.count` is not set or too small.
    """
    own = sum(part.share for part in section.mix if part.source.type == RECOMMENDATION)
    if not 0 < own < 1:
        missing = "general" if own else "recommendation"
        raise ValueError(f"balance needs recommendation and general data in llm.mix, but it has no {missing} source")
    if section.count is None:
        raise ValueError("balance needs llm.count, the size of the mix at every share")
    wanted = [(own, 1.0), *((share, 1.0) for share in balance.shares), *((own, part) for part in balance.amounts)]
    found = [_point(section, section.count, own, share, amount) for share, amount in dict.fromkeys(wanted)]
    return {point.name: point for point in found}


def _point(section: LLMSection, count: int, own: float, share: float, amount: float) -> Point:
    recommendation = round(amount * round(share * count))
    general = count - round(share * count)
    if not recommendation + general or (share and not recommendation):
        raise ValueError(f"llm.count {count} leaves no recommendation sample at share {share:g}, amount {amount:g}")
    if (share, amount) == (own, 1):  # to the last digit, so that its model is the one that train-llm makes
        mix = [part.model_dump(mode="json") for part in section.mix]
    else:
        mix = [part for part in _parts(section, own, recommendation, general) if part["share"] > 0]
    return Point(share, amount, recommendation, general, mix)


def _parts(section: LLMSection, own: float, recommendation: int, general: int) -> Iterator[dict[str, Any]]:
    for part in section.mix:
        mine = part.source.type == RECOMMENDATION
        samples = part.share / own * recommendation if mine else part.share / (1 - own) * general
        yield {"source": part.source.model_dump(mode="json"), "share": samples / (recommendation + general)}
