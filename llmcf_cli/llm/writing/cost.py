"""What generating will cost before it starts: calls, tokens, time and money; and afterwards what it did cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmcf_cli.core.progress import Progress
from llmcf_cli.llm.writing.texts import Ask, TextCache
from llmcf_cli.recipe.sections import PriceSection

UNKNOWN = "unknown until measured"


@dataclass(frozen=True)
class Load:
    """Prompts of one kind that a run will put to an engine.

    Attributes:
        prompts: How many there are: one for each sample, user or item.
        part: All of them, or a random part, from which the rest is estimated.
        texts: The cache that makes them.
    """

    prompts: int
    part: Sequence[Ask]
    texts: TextCache


@dataclass(frozen=True)
class Demand:
    """What is to be made of a load, whatever it takes.

    Attributes:
        calls: Texts to make.
        cached: Texts that are in the cache, or set aside.
        prompt_tokens: Tokens of the prompts of all calls, by the model's own tokenizer.
        exact: Whether every prompt was measured, not only a part.
        texts: The cache that makes them.
    """

    calls: int
    cached: int
    prompt_tokens: int
    exact: bool
    texts: TextCache


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
        cost: As expected; of calls that were never measured, new tokens are the most there can be.
        cached: Texts that need not be made.
        exact: Whether calls and prompt tokens are counted, not estimated from a part of the prompts.
        measured: Calls that the time rests on; 0: it is unknown.
        bounded: Whether new tokens are a bound, as of some calls nothing is known.
        currency: Of the money.
    """

    cost: Cost
    cached: int
    exact: bool
    measured: int
    bounded: bool
    currency: str

    def report(self) -> dict[str, Any]:
        """As JSON data."""
        return {**asdict(self.cost), "cached": self.cached, "exact": self.exact, "currency": self.currency}


def demand(load: Load) -> Demand:
    """Count what is missing of a load's first texts."""
    part = list({ask.prompt_hash: ask for ask in load.part}.values())
    if not part:
        return Demand(0, 0, 0, exact=True, texts=load.texts)
    missing = load.texts.missing(part)
    scale = load.prompts / len(load.part)
    total, calls = scale * len(part) * load.texts.samples, round(scale * len(missing))
    tokens = round(scale * sum(ask.tokens for ask in missing))
    return Demand(calls, round(total) - calls, tokens, exact=scale == 1, texts=load.texts)


def estimate(wanted: Sequence[Demand], price: PriceSection | None) -> Estimate:
    """Expected tokens, time and money, at the pace of the last texts of the same model with the same settings.

    Calls with settings that nothing was made with yet are taken to be as long as they may be, at the others' speed.
    """
    asked = [one for one in wanted if one.calls]
    paces = [one.texts.pace() for one in asked]
    known = [pace for pace in paces if pace]
    tokens = [pace.new_tokens if pace else one.texts.longest for one, pace in zip(asked, paces, strict=True)]
    new_tokens = [one.calls * each for one, each in zip(asked, tokens, strict=True)]
    seconds: float | None = None if asked else 0.0
    if known:
        slowest = max(pace.seconds / max(pace.new_tokens, 1) for pace in known)
        seconds = sum(
            one.calls * pace.seconds if pace else count * slowest
            for one, pace, count in zip(asked, paces, new_tokens, strict=True)
        )
    prompt_tokens, made = sum(one.prompt_tokens for one in asked), round(sum(new_tokens))
    cost = Cost(sum(one.calls for one in asked), prompt_tokens, made, seconds, _money(price, prompt_tokens, made))
    return Estimate(
        cost, sum(one.cached for one in wanted), all(one.exact for one in wanted), sum(pace.calls for pace in known),
        bounded=len(known) < len(asked), currency=price.currency if price else "",
    )  # fmt: skip


def announce(
    wanted: Sequence[Demand], warm_up: Callable[[], None], price: PriceSection | None, progress: Progress
) -> Estimate:
    """Say what a run will cost, if anything. Where that is not known, make one of its batches and say it again.

    Args:
        wanted: What is to be made.
        warm_up: Makes a batch of it.
        price: The recipe's prices.
        progress: Where to say it.
    """
    found = estimate(wanted, price)
    progress.say(as_text(estimate_rows(found)[: None if found.cost.calls else 1]))
    if found.cost.calls and not found.measured:
        warm_up()
        found = estimate(wanted, price)
        progress.say(as_text([row for row in estimate_rows(found) if row[0] in ("new tokens", "time", "money")]))
    return found


def spent(caches: Sequence[TextCache], price: PriceSection | None) -> Cost:
    """What the calls of some caches took in this run."""
    prompt_tokens, new_tokens = (sum(getattr(c, name) for c in caches) for name in ("prompt_tokens", "new_tokens"))
    money = _money(price, prompt_tokens, new_tokens)
    return Cost(sum(c.generated for c in caches), prompt_tokens, new_tokens, sum(c.seconds for c in caches), money)


def estimate_rows(found: Estimate) -> list[tuple[str, str]]:
    """An estimate as (what, how much) for people, with units."""
    cost, about = found.cost, "" if found.exact else "about "
    each = f", {cost.prompt_tokens / cost.calls:,.0f} a call" if cost.calls else ""
    rows = [
        (
            "calls to make",
            f"{about}{cost.calls:,} ({found.cached:,} of {cost.calls + found.cached:,} texts are cached)",
        ),
        ("prompt tokens", f"{about}{cost.prompt_tokens:,}{each}"),
        ("new tokens", f"{'at most' if found.bounded else 'about'} {cost.new_tokens:,}"),
        ("time", _time(found)),
    ]
    return [*rows, ("money", f"about {cost.money:,.2f} {found.currency}")] if cost.money is not None else rows


def comparison_rows(expected: dict[str, Any], actual: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, expected, actual, difference) for people, with units, from the reports of both."""
    units = {
        "calls": "", "prompt_tokens": "tokens", "new_tokens": "tokens", "seconds": "s",
        "money": expected["currency"],
    }  # fmt: skip
    rows: list[tuple[str, str, str, str]] = []
    for name, unit in units.items():
        before, after = expected[name], actual[name]
        if after is None:
            continue
        change = f"{after / before - 1:+.0%}" if before else ""
        old, new = ("unknown" if v is None else f"{_number(v)} {unit}".strip() for v in (before, after))
        rows.append((name.replace("_", " "), old, new, change))
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
    seconds = found.cost.seconds
    if seconds is None:
        return UNKNOWN
    length = f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
    if seconds >= 7200:
        length = f"{seconds / 3600:,.1f} h"
    return f"about {length} at {found.cost.calls / max(seconds, 1e-9):,.2f} calls/s, measured on {found.measured:,}"


def _number(value: float) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
