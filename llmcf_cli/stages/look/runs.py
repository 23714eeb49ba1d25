"""The comparisons of an artifact folder, oldest first, with what each has otherwise than the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmcf_cli.core.errors import StoreError
from llmcf_cli.stages.engine.base import labelled
from llmcf_cli.stages.engine.report import from_json
from llmcf_cli.stages.steps.evaluate import Comparison, Evaluate
from llmcf_cli.store.artifacts import KEY_LENGTH, ArtifactStore, Manifest, differences


@dataclass(frozen=True)
class PastRun:
    """A comparison.

    Attributes:
        recipe: The recipe's name.
        key: Its key, short.
        started: When it was made, UTC.
        measure: What arms are compared by, as tables call it.
        values: Arm → the measure on test, the mean over seeds.
        served: The arm to serve; empty: there is none.
        changed: Settings that the recipe's run before had otherwise, as `path old → new`, arms that came or went; None:
            it is the first, or made by another version.
    """

    recipe: str
    key: str
    started: str
    measure: str
    values: Mapping[str, float]
    served: str
    changed: tuple[str, ...] | None


def past_runs(store: ArtifactStore) -> tuple[list[PastRun], int]:
    """Every comparison, by manifests alone: no file is hashed.

    Returns:
        The comparisons, and how many there are besides that another version made.
    """
    known = {manifest.key: manifest for manifest in store.manifests()}
    before: dict[str, Mapping[str, Any]] = {}
    found, others = [], 0
    for manifest in store.manifests(Evaluate.name):
        settings = _settings(manifest, known)
        earlier, before[manifest.recipe] = before.get(manifest.recipe), settings
        try:
            report = from_json(Comparison, manifest.report)
        except StoreError:
            others += 1
            continue
        name = report.measures[0]["name"]
        found.append(PastRun(
            manifest.recipe, manifest.key[:KEY_LENGTH], manifest.started[:19].replace("T", " "),
            report.measures[0]["heading"],
            {arm["arm"]: arm["measures"][name]["mean"] for arm in report.arms if name in arm["measures"]},
            report.served.arm if report.served else "",
            None if earlier is None else tuple(_changed(earlier, settings)),
        ))  # fmt: skip
    return found, others


def _settings(last: Manifest, known: Mapping[str, Manifest]) -> dict[str, Any]:
    """Label → settings of every artifact that went into one, as far as they are still there."""
    found: dict[str, Any] = {}
    left = [last.key]
    while left:
        manifest = known.get(left.pop())
        if manifest is None or (label := labelled(manifest.stage, manifest.variant)) in found:
            continue
        found[label] = {name: value for name, value in manifest.material.items() if name not in ("inputs", "stage")}
        left += manifest.material.get("inputs", {}).values()
    return found


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"+ {label}" for label in after if label not in before)
    yield from (f"− {label}" for label in before if label not in after)
    lines = (line for label in after if label in before for line in differences(before[label], after[label]))
    yield from dict.fromkeys(lines)
