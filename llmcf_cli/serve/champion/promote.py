"""Whether a new bundle takes the champion's place, and the way back.

Legend: N samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError, ModelError, StoreError
from llmcf_cli.rec.measure.base import Measure, Values
from llmcf_cli.rec.tasks.base import ListTask, Task
from llmcf_cli.recipe.promotion import PromoteSection, Threshold
from llmcf_cli.serve.champion.canary import ask_both
from llmcf_cli.serve.champion.pointer import (
    Answered,
    Champion,
    Check,
    Compared,
    Decision,
    Standing,
    bundle_of,
    changing,
    name_of,
    read_pointer,
    write_pointer,
)
from llmcf_cli.serve.champion.predicted import answers, predicted
from llmcf_cli.serve.champion.window import Window, newest
from llmcf_cli.serve.golden import try_out
from llmcf_cli.serve.scorer import Scorer

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Promotion:
    """What became of a challenger.

    Attributes:
        challenger: Its folder.
        before: The champion until now; None: there was none.
        decision: Why; None where the challenger is the champion already.
        measures: What was measured, in the order of `decision.measures`.
        moved: Whether the pointer names it now.
    """

    challenger: Path
    before: Path | None
    decision: Decision | None
    measures: tuple[Measure, ...]
    moved: bool


def promote(
    challenger: Path, pointer: Path, section: PromoteSection, database: Path, *, recipe: str, task: Task | None = None,
    signers: Path | None = None, dry_run: bool = False,
) -> Promotion:  # fmt: skip
    """Let a bundle take the place of the champion if it reaches what a recipe demands; else nothing is changed.

    Args:
        challenger: The new bundle.
        pointer: File that names the champion; where there is none, the challenger becomes the first one, by the
            conditions that need no other.
        section: The conditions.
        database: What ingest made of the recipe, with the newest rows.
        recipe: The recipe's name.
        task: What both are asked for; None: what the challenger was trained for, or of a cascade, its model that ranks.
        signers: Public keys, one of which must have signed both bundles; None: anybody.
        dry_run: Decide only.

    Raises:
        StoreError: A bundle or the pointer is damaged, or another process changes the pointer.
        ModelError: A bundle does not answer, or they cannot be compared.
        DataError: There are too few samples.
    """
    with changing(pointer):
        before = read_pointer(pointer) if pointer.exists() else None
        served = None if before is None else bundle_of(pointer, before.champion)
        theirs = _loaded(challenger, signers)
        ours = None if served is None else _loaded(served, signers)
        if ours is not None and ours.digest == theirs.digest:
            return Promotion(challenger, served, None, (), moved=False)
        task = task or theirs.task
        decision = decide(ours, theirs, section, database, recipe=recipe, task=task)
        measures = tuple(task.measure(compared.name) for compared in decision.measures)
        moved = decision.accepted and not dry_run
        if moved:
            _check_unchanged(pointer, before)
            now = Standing(bundle=name_of(pointer, challenger), digest=theirs.digest, since=decision.time,
                           decision=decision)  # fmt: skip
            was = None
            if before is not None and ours is not None:
                was = before.champion.model_copy(update={"digest": ours.digest})
            write_pointer(pointer, Champion(champion=now, previous=was))
        return Promotion(challenger, served, decision, measures, moved)


def rollback(pointer: Path, *, signers: Path | None = None) -> Champion:
    """Put the previous champion back, if it still is what it was and answers as when it was made.

    It has no previous one then, so that a rollback that is asked for twice does not bring the withdrawn bundle back.

    Returns:
        What the pointer holds now.

    Raises:
        StoreError: There is no previous one, it was changed or is damaged, or another process changes the pointer.
        ModelError: It does not answer.
    """
    with changing(pointer):
        before = read_pointer(pointer)
        if before.previous is None:
            raise StoreError("no bundle was the champion before this one", code="rollback-none", where=str(pointer),
                             hint=f"llmcf promote BUNDLE --to {pointer} --recipe RECIPE")  # fmt: skip
        folder = bundle_of(pointer, before.previous)
        found = _loaded(folder, signers)
        if before.previous.digest not in (None, found.digest):
            raise StoreError(
                "has changed since it was the champion", code="champion-changed", where=str(folder),
                hint=f"llmcf promote {folder} --to {pointer} --recipe RECIPE",
            )  # fmt: skip
        _check_unchanged(pointer, before)
        back = before.previous.model_copy(update={"since": _now(), "digest": found.digest})
        now = Champion(champion=back, withdrawn=before.champion)
        write_pointer(pointer, now)
        return now


def decide(
    champion: Scorer | None, challenger: Scorer, section: PromoteSection, database: Path, *, recipe: str, task: Task
) -> Decision:
    """Whether a challenger reaches what a recipe demands. See `promote`."""
    for name, one in (("challenger", challenger), ("champion", champion)):
        if one is not None and (not answers(one, task) or one.clock != challenger.clock):
            what = "makes lists" if one.makes_lists else f"is for the task `{one.task.config.type}`"
            raise ModelError(
                f"the {name} {what} with the clock {one.clock}, but the recipe needs the task "
                f"`{task.config.type}` and bundles with the clock {challenger.clock}", code="promote-task",
                where="promote", hint="use the recipe that made the bundle, and a separate pointer",
            )  # fmt: skip
    window = newest(database, task, section)
    if window.clock != challenger.clock:
        raise ModelError(f"the bundle has the clock {challenger.clock}, but the samples have {window.clock}",
                         code="promote-task", where="promote", hint="use the recipe that made the bundle")  # fmt: skip
    if isinstance(task, ListTask) and len(np.unique(window.truth.user_row_N)) < 2:
        raise DataError("the window has samples of only one user, but tests are over users", code="promote-window",
                        where="promote", hint="raise promote.window_days")  # fmt: skip
    chosen = {name: task.measure(name) for name in section.measures}
    theirs = predicted(challenger, window, task, [*chosen.values()])
    ours = None if champion is None else predicted(champion, window, task, [*chosen.values()])
    compared = tuple(
        _compared(measure, window, None if ours is None else ours.prediction, theirs.prediction)
        for measure in chosen.values()
    )
    canary = ask_both(champion, challenger, window, task)
    checks = [
        check for one in compared
        for check in _measure_checks(one, chosen[one.name], section.measures[one.name], section)
    ]  # fmt: skip
    return Decision(
        time=_now(), recipe=recipe, samples=len(window.truth), available=window.available, first=window.first,
        last=window.last, refused=theirs.refused, measures=compared, canary=canary,
        checks=(*checks, *_canary_checks(canary, section)),
    )  # fmt: skip


def _compared(measure: Measure, window: Window, ours_N: NDArray[Any] | None, theirs_N: NDArray[Any]) -> Compared:
    """A measure of both, with its own paired test."""
    theirs = _values(measure, theirs_N, window)
    if ours_N is None:
        return Compared(name=measure.name, challenger=theirs.total)
    ours = _values(measure, ours_N, window)
    with np.errstate(all="ignore"):
        tested = measure.test(ours, theirs)
    # The test may be of a mean over units that the measure's total is a function of; the totals are what is demanded.
    difference = theirs.total - ours.total
    if not np.isfinite([tested.p_value, *tested.interval, difference]).all():
        raise _too_few(measure, window)
    return Compared(name=measure.name, challenger=theirs.total, champion=ours.total, difference=difference,
                    interval=tested.interval, p_value=tested.p_value)  # fmt: skip


def _values(measure: Measure, score_N: NDArray[Any], window: Window) -> Values:
    try:
        return measure.values(score_N, window.truth)
    except DataError as error:
        raise _too_few(measure, window) from error


def _too_few(measure: Measure, window: Window) -> DataError:
    counted = ", ".join(f"{count:,} {kind}" for kind, count in measure.counts(window.truth).items())
    return DataError(f"too few samples for a test of {measure.title}: {counted}", code="promote-window",
                     where=f"promote.measures.{measure.name}", hint="raise promote.window_days")  # fmt: skip


def _measure_checks(one: Compared, measure: Measure, limits: Threshold, section: PromoteSection) -> Iterator[Check]:
    if limits.at_least is not None:
        yield Check(of=one.name, rule="at_least", limit=limits.at_least, found=one.challenger,
                    holds=one.challenger >= limits.at_least)  # fmt: skip
    if limits.at_most is not None:
        yield Check(of=one.name, rule="at_most", limit=limits.at_most, found=one.challenger,
                    holds=one.challenger <= limits.at_most)  # fmt: skip
    if limits.not_worse_by is not None and one.difference is not None and one.interval is not None:
        ends = one.interval if section.evidence == "interval" else (one.difference,)
        worse = max(-measure.sign * end for end in ends)
        yield Check(of=one.name, rule="not_worse_by", limit=limits.not_worse_by, found=worse,
                    holds=worse <= limits.not_worse_by + _ROUNDING)  # fmt: skip


def _canary_checks(canary: Answered, section: PromoteSection) -> Iterator[Check]:
    yield Check(of="canary", rule="answered", limit=canary.requests, found=canary.requests - canary.unanswered,
                holds=not canary.unanswered)  # fmt: skip
    if canary.champion_ms:
        ratio = canary.challenger_ms / canary.champion_ms
        yield Check(of="canary", rule="latency_ratio", limit=section.latency_ratio, found=ratio,
                    holds=ratio <= section.latency_ratio)  # fmt: skip
    if section.max_difference is not None and canary.champion_ms is not None:
        # Without a pair that both know nothing was shown to be equal.
        found = canary.largest_difference
        yield Check(of="canary", rule="max_difference", limit=section.max_difference, found=found or 0.0,
                    holds=found is not None and found <= section.max_difference)  # fmt: skip
        if canary.differing is not None:
            yield Check(of="canary", rule="same_items", limit=0, found=canary.differing, holds=not canary.differing)


def _loaded(bundle: Path, signers: Path | None) -> Scorer:
    """A bundle that answers as when it was made."""
    scorer = Scorer.load(bundle, signers=signers)
    try_out(scorer)
    return scorer


def _check_unchanged(pointer: Path, before: Champion | None) -> None:
    """Whoever writes a pointer by hand holds no lock."""
    if (read_pointer(pointer) if pointer.exists() else None) != before:
        raise StoreError("was changed by another process meanwhile", code="pointer-changed", where=str(pointer),
                         hint="run this again")  # fmt: skip


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
