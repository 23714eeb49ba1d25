"""Places of what is wrong, as values: whoever shows one makes a text of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Where something is.

    Attributes:
        text: A stage, an option, an arm, an asset: whatever has no structure.
        file: File or folder, as it is shown.
        line: From 1; 0: the file as a whole.
        override: `KEY=VALUE` of the `--set` that it was written in.
        path: Keys and numbers of entries, outermost first.
        below: A place within this one.
    """

    text: str = ""
    file: str = ""
    line: int = 0
    override: str = ""
    path: KeyPath = ()
    below: Place | None = None

    def __str__(self) -> str:
        file = f"{self.file}:{self.line}" if self.line else self.file
        override = f"--set {self.override}" if self.override else ""
        parts = (override, file, self.text, dotted(self.path), str(self.below or ""))
        return ": ".join(filter(None, parts))

    @classmethod
    def of(cls, where: Place | str) -> Place:
        """A place, given as one or as a text."""
        return where if isinstance(where, Place) else cls(where)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Place:
        """What `dataclasses.asdict` made JSON data of."""
        below = data["below"] and cls.from_json(data["below"])
        return cls(**{**data, "path": tuple(data["path"]), "below": below})


def dotted(path: KeyPath) -> str:
    """A key path as `--set` and messages write it: `llm.mix.0.share`."""
    return ".".join(map(str, path))
