"""What a check of `gpu.py` is given, and what it answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LANGUAGE, ENCODER = "smollm2-135m-instruct", "minilm-l6-v2"
SEED = 2024
_TEXT = """
the user prefers films about action science fiction comedy drama romance thriller space war and family because earlier
favourites share their genre story style characters while this one is different so it may offer some diversity not more
of the same quiet warm bold slow classic modern director actor music adventure children animated mystery crime
"""
WORDS = _TEXT.split()
"""What texts of the checks are made of."""


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    Attributes:
        device: `cuda` or `cpu`.
        quick: Reduced to seconds, to try the script itself: speed is not judged.
        folder: Holds `models/NAME`.
        work: Folder for this run's files.
    """

    device: str
    quick: bool
    folder: Path
    work: Path

    @property
    def judged(self) -> bool:
        """Whether targets of speed apply."""
        return self.device == "cuda" and not self.quick

    def sized(self, full: int, reduced: int) -> int:
        """A size, or that of the reduced form."""
        return reduced if self.quick else full

    def synchronise(self) -> None:
        """Wait for the card, before a clock is read."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def model(self, name: str) -> tuple[Path, str]:
        """The folder of a model, and whose weights it has: `given`, or `random` where the folder holds none.

        Speed does not depend on weights, so configuration and tokenizer are enough for it.

        Raises:
            FileNotFoundError: There is no such model.
        """
        given = self.folder / "models" / name
        if not (given / "config.json").is_file():
            raise FileNotFoundError(f"there is no {given / 'config.json'}; see docs/gpu.md")
        if any(given.glob("*.safetensors")):
            return given, "given"
        made = self.work / "models" / name
        if not made.is_dir():
            _draw(given, made)
        return made, "random"


def _draw(given: Path, made: Path) -> None:
    """Copy a folder without weights and give it random ones."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    partial = made.with_name(f"{made.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(given, partial)
    config = AutoConfig.from_pretrained(str(given), local_files_only=True, trust_remote_code=False)
    causal = any(name.endswith("ForCausalLM") for name in config.architectures or ())
    torch.manual_seed(0)
    (AutoModelForCausalLM if causal else AutoModel).from_config(config).float().save_pretrained(partial)
    partial.rename(made)


@dataclass
class Outcome:
    """What a check found.

    Attributes:
        ratio: The figure that it is about; None: none.
        target: What the figure must reach, or must not pass; None: it is measured only.
        detail: Everything else, as JSON data.
        faults: What did not hold, in words; none: the check holds.
    """

    ratio: float | None = None
    target: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def line(self, name: str, seconds: float) -> str:
        """One line of JSON."""
        found: dict[str, Any] = {"name": name, "ratio": shortened(self.ratio), "target": self.target}
        found |= {"ok": not self.faults, "seconds": round(seconds, 1), "detail": shortened(self.detail)}
        return json.dumps(found | ({"faults": self.faults} if self.faults else {}))


def shortened(value: Any) -> Any:
    """Numbers at four digits, at any depth; what is not finite as text, since JSON has no word for it."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < float("inf") else str(value)
    if isinstance(value, dict):
        return {str(name): shortened(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(one) for one in value]
    return value
