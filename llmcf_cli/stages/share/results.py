"""The results of a finished run as a lock keeps them, and where another run's part from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.progress import Progress
from llmcf_cli.stages.engine.base import Node
from llmcf_cli.stages.engine.run import Step
from llmcf_cli.stages.share.lock import TOLERANCE, Expected, Lock, Now, Trace
from llmcf_cli.stages.share.traces import PARTS, trace_of
from llmcf_cli.stages.steps.evaluate import Comparison, Evaluate

ASPECTS = ("data", "texts", "vectors", "matches", "weights", "predictions", "measures")
"""In the order in which one is made of the others."""

Verdict = Literal["same", "within", "parts", "missing"]
"""To the last digit; within the tolerance; apart; not made here."""


@dataclass(frozen=True)
class Checked:
    """One thing that the lock says of a run, and what is here.

    Attributes:
        aspect: One of `ASPECTS`.
        name: The stage; of a measure, arm and measure.
        verdict: How they compare.
        locked: What the lock has: rows, or the measure.
        here: The same here; None where it is not made.
        parts: How many of the parts that rows are divided into differ.
        largest: Largest difference among the numbers that the lock keeps; of a measure, the difference.
        tolerance: Of a measure.
    """

    aspect: str
    name: str
    verdict: Verdict
    locked: float
    here: float | None = None
    parts: int = 0
    largest: float | None = None
    tolerance: float | None = None


def with_results(now: Now, progress: Progress, tolerance: float = TOLERANCE) -> Lock:
    """A lock with the measures and traces of the run that it is of.

    Args:
        now: The lock, and the plan in which everything is made.
        progress: Where to report.
        tolerance: How far another run's measures may be from these.
    """
    traces: dict[str, Trace] = {}
    with progress.task("trace", len(now.steps), "stages") as task:
        for step in now.steps:
            if (found := trace_of(step.node)) is not None:
                traces[step.node.label] = found
            task.advance()
    measures = {
        arm: {name: Expected(value=value, tolerance=tolerance) for name, value in found.items()}
        for arm, found in measures_of(now.steps[-1].node).items()
    }
    update = {"traces": traces, "measures": measures, "versions": made_by(now.steps)[now.steps[-1].node.label]}
    return now.lock.model_copy(update=update)


def made_by(steps: Sequence[Step]) -> dict[str, dict[str, str]]:
    """Stage → versions of the libraries that made its result, of those that are made."""
    found = ((step.node, step.node.context.store.look(step.node.stage.name, step.node.key).whole) for step in steps)
    return {node.label: manifest.versions for node, manifest in found if manifest is not None}


def is_finished(steps: Sequence[Step]) -> bool:
    """Whether a comparison and all behind it are made."""
    return not any(step.runs for step in steps)


def measures_of(node: Node) -> dict[str, dict[str, float]]:
    """Arm → measure → mean over the seeds, of a comparison that is made; undefined measures are left out.

    Raises:
        StoreError: It is not made, or damaged.
    """
    assert isinstance(node.stage, Evaluate)
    report = cast("Comparison", node.require())
    return {
        arm["arm"]: {name: float(value["mean"]) for name, value in arm["measures"].items() if value is not None}
        for arm in report.arms
    }


def verify(lock: Lock, steps: Sequence[Step], progress: Progress) -> list[Checked]:
    """Compare a run with a lock, in the order in which results are made of one another.

    Args:
        lock: With results.
        steps: The recipe's comparison, as planned here.
        progress: Where to report.

    Raises:
        StoreError: The lock has no results, or a result here is damaged.
    """
    if not lock.traces and not lock.measures:
        raise StoreError(
            "the lock has no results: it was made before the run had finished", code="lock-no-results", where=lock.name,
            hint="ask for a lock made after the run: llmcf recipe lock RECIPE",
        )  # fmt: skip
    nodes = {step.node.label: step.node for step in steps}
    with progress.task("verify", len(lock.traces), "stages") as task:
        found = []
        for label, trace in lock.traces.items():
            found.append(compared(label, trace, nodes.get(label)))
            task.advance()
    found += _measures(lock.measures, steps[-1].node)
    return sorted(found, key=lambda one: ASPECTS.index(one.aspect))


def first_parting(found: Sequence[Checked]) -> Checked | None:
    """Where numbers part: the first thing that differs, in the order in which results are made; None: nowhere."""
    return next((one for one in found if one.verdict == "parts"), None)


def reproduces(found: Sequence[Checked]) -> bool:
    """Whether every measure is made and within its tolerance."""
    measures = [one for one in found if one.aspect == "measures"]
    return bool(measures) and all(one.verdict in ("same", "within") for one in measures)


def compared(label: str, locked: Trace, node: Node | None) -> Checked:
    """What a stage made here beside what the lock says of it.

    Args:
        label: The stage.
        locked: What the lock has.
        node: The stage here; None: there is no such stage.
    """
    here = trace_of(node) if node is not None and node.made else None
    if here is None:
        return Checked(locked.aspect, label, "missing", locked.rows)
    width = len(locked.parts) // PARTS
    parts = sum(locked.parts[i : i + width] != here.parts[i : i + width] for i in range(0, PARTS * width, width or 1))
    same = (locked.rows, locked.parts) == (here.rows, here.parts)  # the numbers say how far, not whether
    largest = None
    if locked.numbers and len(locked.numbers) == len(here.numbers):
        largest = max(abs(a - b) for a, b in zip(locked.numbers, here.numbers, strict=True))
    return Checked(locked.aspect, label, "same" if same else "parts", locked.rows, here.rows, parts, largest)


def _measures(locked: Mapping[str, Mapping[str, Expected]], node: Node) -> Iterator[Checked]:
    here = measures_of(node) if node.made else {}
    for arm, measures in locked.items():
        for name, expected in measures.items():
            value, label = here.get(arm, {}).get(name), f"{arm} {name}"
            if value is None:
                yield Checked("measures", label, "missing", expected.value, tolerance=expected.tolerance)
                continue
            apart = abs(value - expected.value)
            verdict: Verdict = "same" if apart == 0 else "within" if apart <= expected.tolerance else "parts"
            yield Checked(
                "measures", label, verdict, expected.value, value, largest=apart, tolerance=expected.tolerance
            )
