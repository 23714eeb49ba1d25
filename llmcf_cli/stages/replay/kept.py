"""Which results a replay needs: those of the recipes in its folder."""

from __future__ import annotations

from pathlib import Path

from llmcf_cli.core.files import read_json
from llmcf_cli.stages.replay.arms import REPLAYS, STATE, STATE_BYTES, WINDOWS


def is_replay(folder: Path) -> bool:
    """Whether a folder is that of a replay."""
    return (folder / WINDOWS).is_file()


def recipes_of(folder: Path) -> list[Path]:
    """The recipes of a replay: of its base, its arms, their refreshes, and what was scored."""
    return sorted(folder.glob("*.yaml"))


def changes_of(folder: Path) -> list[str]:
    """The changes (`--set`) that a replay's recipes are loaded with."""
    found: list[str] = read_json(folder / WINDOWS, STATE_BYTES).get("set", [])
    return found


def unfinished(root: Path, name: str) -> list[Path]:
    """Folders of the replays of a recipe that have windows left to score, which the same command goes on with.

    Args:
        root: Artifact folder.
        name: The recipe's name.
    """
    found = [folder for folder in (root / REPLAYS).glob(f"{name}-*") if is_replay(folder)]
    return [folder for folder in found if _scored(folder) < len(read_json(folder / WINDOWS, STATE_BYTES)["windows"])]


def _scored(folder: Path) -> int:
    state = folder / STATE
    return len(read_json(state, STATE_BYTES)["scored"]) if state.is_file() else 0
