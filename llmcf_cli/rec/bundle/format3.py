"""Bundles of format 3, in which serving read the recipe of its day. Converted at the door, and then as any other.

What is written here is what recipes were when these bundles were made, so it takes nothing from today's schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmcf_cli.plugin import registry
from llmcf_cli.rec.input.needs import closure

FORMAT = 3
TASK = {"type": "ranking"}
"""Of bundles that name no task, from when there was no other."""
RENAMED = {
    "weights.safetensors": {
        "standardise.mean_S": "inputs.signals.mean_S", "standardise.scale_S": "inputs.signals.scale_S"
    },
    "examples.safetensors": {"signal_EG": "rows.signals"},
}  # fmt: skip
"""File → old name of an array → its name now."""
_MATCH = ("space", "search", "balance", "exclude", "max_per_user", "distinct_items")
_MILLISECONDS = 2023
"""Release of Amazon's reviews whose times are milliseconds; others' are seconds."""


def converted(manifest: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a bundle of format 3 as one of format 4.

    Args:
        manifest: `bundle.json`, without its digest.
        recipe: `recipe.json`.
    """
    augment = manifest["augment"]
    needs = registry().get("augmenter", augment["type"], where="bundle.json").config().model_validate(augment).needs
    settings = {"examples": _examples(manifest, recipe), "text": _text(recipe)}
    return {
        "format": 4, "llmcf": manifest["llmcf"], "clock": manifest["clock"], "times": _times(recipe),
        "task": _stored(manifest.get("task", TASK)), "backbone": _stored(manifest["backbone"]),
        "augment": _stored(augment), "objectives": [_stored(objective) for objective in manifest["objectives"]],
        "inputs": [_stored({"type": name, **settings.get(name, {})}) for name in closure(needs)],
        "features": manifest["features"], "files": manifest["files"],
    }  # fmt: skip


def _stored(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"settings": settings}


def _examples(manifest: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    match = recipe.get("match") or {}
    return {"k": manifest["num_examples"], **{name: match[name] for name in _MATCH if name in match}}


def _text(recipe: Mapping[str, Any]) -> dict[str, Any]:
    space = (recipe.get("match") or {}).get("space") or {}
    template = ((recipe.get("dataset") or {}).get("text") or {}).get("item", "")
    return {"encoder": space.get("encoder", ""), "template": template}


def _times(recipe: Mapping[str, Any]) -> dict[str, Any]:
    source = (recipe.get("dataset") or {}).get("source") or {}
    kind = source.get("type")
    if kind in ("amazon", "amazon2014"):
        return {"format": "milliseconds" if source.get("year") == _MILLISECONDS else "seconds"}
    columns = source.get("columns") or {}
    return {"format": columns.get("time_format"), "zone": columns.get("time_zone")}
