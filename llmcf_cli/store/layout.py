"""The files of a stage's folder by name, declared once for the code that writes them and the code that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self, overload


class File:
    """A file or folder of an `Output`: on the class itself, on an instance its path.

    Args:
        name: Its name in the folder.
        content: What it holds, in a few words.
        optional: Whether a finished stage may lack it.
    """

    def __init__(self, name: str, content: str, *, optional: bool = False) -> None:
        self.name, self.content, self.optional = name, content, optional

    @overload
    def __get__(self, output: None, owner: type[Output]) -> Self: ...
    @overload
    def __get__(self, output: Output, owner: type[Output]) -> Path: ...
    def __get__(self, output: Output | None, owner: type[Output]) -> Self | Path:
        return self if output is None else output.folder / self.name


@dataclass(frozen=True)
class Output:
    """The layout of a stage's folder. A subclass names its files: `database = File("data.duckdb", "samples")`.

    Attributes:
        folder: The stage's folder, finished or in the making.
    """

    folder: Path

    @classmethod
    def files(cls) -> dict[str, File]:
        """Attribute → file, inherited ones first."""
        return {
            attribute: value for owner in reversed(cls.__mro__) for attribute, value in vars(owner).items()
            if isinstance(value, File)
        }  # fmt: skip
