"""What generating will cost before it starts: calls, tokens, time and money; and afterwards what it did cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmcf_cli.core.progress import Progress
from llmcf_cli.llm.texts import Ask, CallPace, TextCache
from llmcf_cli.recipe.sections import PriceSection

UNKNOWN = "unknown until measured"


@dataclass(frozen=True)
class Load:
    """Prompts of one kind that a run will put to an engine.

    Attributes:
        prompts: How many there are: one for each sample, user or item.
        part: All of them, or a random part, from which the rest is estimated.
    """

    prompts: int
    part: Sequence[Ask]


@dataclass(frozen=True)
class Demand:
    """What is to be made, whatever it takes.

    Attributes:
        calls: Texts to make.
        cached: Texts that are in the cache, or set aside.
        prompt_tokens: Tokens of the prompts of all calls, by the model's own tokenizer.
        exact: Whether every prompt was measured, not only a part.
    """

    calls: int
    cached: int
    prompt_tokens: int
    exact: bool


@dataclass(frozen=True)
class Cost:
    """Calls and what they take, expected or spent.

    Attributes:
        calls: Texts to make, or made.
        prompt_tokens: Tokens read.
        new_tokens: Tokens generated.
        seconds: Time of generating; None: unknown.
        money: By the recipe's prices; None without any.
    """

    calls: int
    prompt_tokens: int
    new_tokens: int
    seconds: float | None
    money: float | None


@dataclass(frozen=True)
class Estimate:
    """Cost before the work.

    Attributes:
        cost: As expected; without a pace, new tokens are the most there can be.
        cached: Texts that need not be made.
        exact: Whether calls and prompt tokens are counted, not estimated from a part of the prompts.
        pace: What calls took so far; None: unknown.
        currency: Of the money.
    """

    cost: Cost
    cached: int
    exact: bool
    pace: CallPace | None
    currency: str

    def report(self) -> dict[str, Any]:
        """As JSON data."""
        return {**asdict(self.cost), "cached": self.cached, "exact": self.exact, "currency": self.currency}


def demand(loads: Sequence[Load], texts: TextCache) -> Demand:
    """Count what is missing of some prompts' first texts."""
    calls = total = prompt_tokens = 0.0
    exact = True
    for load in loads:
        part = list({ask.prompt_hash: ask for ask in load.part}.values())
        if not part:
            continue
        missing = texts.missing(part)
        scale = load.prompts / len(load.part)
        exact = exact and scale == 1
        calls += scale * len(missing)
        total += scale * len(part) * texts.samples
        prompt_tokens += scale * sum(ask.tokens for ask in missing)
    return Demand(round(calls), round(total) - round(calls), round(prompt_tokens), exact)


def estimate(wanted: Demand, texts: TextCache, price: PriceSection | None) -> Estimate:
    """Expected tokens, time and money, at the pace of the last texts of the same model with the same settings."""
    pace = texts.pace()
    new_tokens = round(wanted.calls * (pace.new_tokens if pace else texts.longest))
    seconds = wanted.calls * pace.seconds if pace else None
    money = _money(price, wanted.prompt_tokens, new_tokens)
    cost = Cost(wanted.calls, wanted.prompt_tokens, new_tokens, seconds, money)
    return Estimate(cost, wanted.cached, wanted.exact, pace, price.currency if price else "")


def announce(
    wanted: Demand, texts: TextCache, asks: Sequence[Ask], price: PriceSection | None, progress: Progress
) -> Estimate:
    """Say what a run will cost. Where no pace is known, make one of its batches and say it again.

    Args:
        wanted: What is to be made.
        texts: What makes it.
        asks: The first prompts of the run.
        price: The recipe's prices.
        progress: Where to say it.
    """
    found = estimate(wanted, texts, price)
    progress.say(as_text(estimate_rows(found)))
    if found.pace is None and wanted.calls:
        texts.warm_up(asks)
        found = estimate(wanted, texts, price)
        progress.say(as_text([row for row in estimate_rows(found) if row[0] in ("new tokens", "time", "money")]))
    return found


def spent(texts: TextCache, price: PriceSection | None) -> Cost:
    """What a cache's calls took in this run."""
    money = _money(price, texts.prompt_tokens, texts.new_tokens)
    return Cost(texts.generated, texts.prompt_tokens, texts.new_tokens, texts.seconds, money)


def estimate_rows(found: Estimate) -> list[tuple[str, str]]:
    """An estimate as (what, how much) for people, with units."""
    cost, about = found.cost, "" if found.exact else "about "
    each = f", {cost.prompt_tokens / cost.calls:,.0f} a call" if cost.calls else ""
    rows = [
        ("calls to make", f"{about}{cost.calls:,} ({found.cached:,} texts are there already)"),
        ("prompt tokens", f"{about}{cost.prompt_tokens:,}{each}"),
        ("new tokens", f"{'about' if found.pace else 'at most'} {cost.new_tokens:,}"),
        ("time", _time(found)),
    ]
    return [*rows, ("money", f"about {cost.money:,.2f} {found.currency}")] if cost.money is not None else rows


def comparison_rows(expected: dict[str, Any], actual: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, expected, actual, difference) for people, with units, from the reports of both."""
    units = {
        "calls": "", "prompt_tokens": "tokens", "new_tokens": "tokens", "seconds": "s",
        "money": expected["currency"],
    }  # fmt: skip
    rows = []
    for name, unit in units.items():
        before, after = expected[name], actual[name]
        if after is None:
            continue
        change = f"{after / before - 1:+.0%}" if before else ""
        values = ("unknown" if v is None else f"{_number(v)} {unit}".strip() for v in (before, after))
        rows.append((name.replace("_", " "), *values, change))
    return rows


def as_text(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _money(price: PriceSection | None, prompt_tokens: int, new_tokens: int) -> float | None:
    if price is None:
        return None
    return (prompt_tokens * price.input_per_million + new_tokens * price.output_per_million) / 1e6


def _time(found: Estimate) -> str:
    if not found.cost.calls:
        return "none"
    if found.pace is None or found.cost.seconds is None:
        return UNKNOWN
    seconds = found.cost.seconds
    length = f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min" if seconds < 7200 else (
        f"{seconds / 3600:,.1f} h"
    )  # fmt: skip
    return f"about {length} at {1 / max(found.pace.seconds, 1e-9):,.2f} calls/s, measured on {found.pace.calls:,}"


def _number(value: float) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
