"""The pointer: a file that names the bundle to serve, and knows the one before and why it was replaced.

Its first line is the path of the bundle; a pointer may be that line alone, written by hand. What follows is the record
as JSON. Both are replaced together, so whoever reads sees either the state before a change or the one after.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from glob import escape
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.files import read_small
from llmcf_cli.core.types import Config
from llmcf_cli.rec.bundle.bundle import MANIFEST
from llmcf_cli.store.artifacts import write_atomic
from llmcf_cli.store.locks import held

MAX_BYTES = 1 << 20
_HINT = "write the bundle's path into it"


class Compared(Config):
    """A measure of both bundles on the same samples."""

    name: str
    """The measure."""
    challenger: float
    """The challenger's value."""
    champion: float | None = None
    """The champion's value; None: there was none."""
    difference: float | None = None
    """The challenger's minus the champion's."""
    interval: tuple[float, float] | None = None
    """95 % confidence interval of the difference."""
    p_value: float | None = None
    """Two-sided, that both are equal."""


class Answered(Config):
    """What both bundles answered to the canary's requests."""

    requests: int
    """Requests that were asked."""
    unanswered: int
    """Those that the challenger did not answer, or not with finite scores."""
    challenger_ms: float
    """Median time of the challenger's answers, in milliseconds."""
    champion_ms: float | None = None
    """Median time of the champion's answers, in milliseconds."""
    pairs: int = 0
    """Pairs of request and candidate whose items both know, all of the history included."""
    largest_difference: float | None = None
    """Of the raw scores of these pairs."""
    mean_difference: float | None = None
    """Mean of its absolute values."""
    differing: int | None = None
    """Of requests for lists, those that both answer with lists of other items; None: pairs were asked about."""


class Check(Config):
    """One condition of a decision."""

    of: str
    """The measure, or `canary`."""
    rule: Literal["not_worse_by", "at_least", "at_most", "answered", "latency_ratio", "max_difference", "same_items"]
    """The condition."""
    limit: float
    """What it allows."""
    found: float
    """What was found."""
    holds: bool
    """Whether that is within the limit."""


class Decision(Config):
    """Why a bundle became the champion, or did not."""

    time: datetime
    """When."""
    recipe: str
    """Name of the recipe whose thresholds decided."""
    samples: int
    """Samples that both were measured on."""
    available: int
    """Samples of the window; more than `samples` where a part was drawn."""
    first: str
    """Time or position of the earliest of them."""
    last: str
    """Time or position of the latest."""
    refused: int = 0
    """Samples that the challenger answers with no list, as it knows nothing that the user did; their items count as
    missed."""
    measures: tuple[Compared, ...]
    """What was measured."""
    canary: Answered
    """What was answered."""
    checks: tuple[Check, ...]
    """Every condition."""

    @property
    def accepted(self) -> bool:
        """Whether all conditions hold."""
        return all(check.holds for check in self.checks)


class Standing(Config):
    """A bundle that is, or was, the champion."""

    bundle: Annotated[str, Field(min_length=1)]
    """Its folder, relative to the pointer's folder where it lies below that."""
    digest: str | None = None
    """Its digest; None: somebody wrote the pointer by hand."""
    since: datetime | None = None
    """When it became the champion."""
    decision: Decision | None = None
    """What made it the champion."""


class Champion(Config):
    """What a pointer holds."""

    format: Literal[1] = 1
    """Version of this layout."""
    champion: Standing
    """The bundle to serve."""
    previous: Standing | None = None
    """The one before, which a rollback puts back."""
    withdrawn: Standing | None = None
    """The one that the latest rollback took away."""


def pointed_at(pointer: Path) -> Path:
    """The bundle that a pointer names: its first line, relative to the file's folder.

    Raises:
        StoreError: There is no such file, or it names no folder with a bundle.
    """
    return _folder(pointer, _named(_text(pointer), pointer))


def read_pointer(pointer: Path) -> Champion:
    """What a pointer holds. Where somebody changed its first line by hand, the recorded champion is the one before.

    Raises:
        StoreError: There is no such file, it names no bundle, or its record is damaged.
    """
    text = _text(pointer)
    named, (_, _, rest) = _named(text, pointer), text.partition("\n")
    if not rest.strip():
        return Champion(champion=Standing(bundle=named))
    try:
        found = Champion.model_validate_json(rest)
    except ValidationError as error:
        raise StoreError(
            f"its record cannot be read: {error.errors()[0]['msg']}", code="pointer-invalid", where=str(pointer),
            hint="keep only its first line; then there is nothing to roll back to",
        ) from error  # fmt: skip
    if found.champion.bundle != named:
        return Champion(champion=Standing(bundle=named), previous=found.champion)
    return found


def write_pointer(pointer: Path, champion: Champion) -> None:
    """Replace a pointer at once: a kill leaves it as it was or as it is to be.

    Raises:
        StoreError: It cannot be written.
    """
    record = json.dumps(champion.model_dump(mode="json"), indent=1, ensure_ascii=False)
    try:
        write_atomic(pointer, f"{champion.champion.bundle}\n{record}\n")
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", code="pointer-invalid", where=str(pointer)) from error


def bundle_of(pointer: Path, standing: Standing) -> Path:
    """The folder of a bundle in a pointer's record.

    Raises:
        StoreError: There is no bundle any more.
    """
    return _folder(pointer, standing.bundle)


def name_of(pointer: Path, bundle: Path) -> str:
    """How a pointer names a bundle.

    Raises:
        StoreError: The path cannot be a line.
    """
    whole, beside = bundle.resolve(), pointer.parent.resolve()
    name = whole.relative_to(beside).as_posix() if whole.is_relative_to(beside) else str(whole)
    if name.splitlines() != [name.strip()] or "\0" in name:
        raise StoreError("the path has line breaks, or spaces at its ends, so a pointer cannot name it",
                         code="pointer-invalid", where=repr(name), hint="rename the folder")  # fmt: skip
    return name


@contextmanager
def changing(pointer: Path) -> Iterator[None]:
    """Be the only one to change a pointer while the block runs.

    Raises:
        StoreError: Another process is, or there is no folder for it.
    """
    if not pointer.parent.is_dir():
        raise StoreError("no such folder", code="path-missing", where=str(pointer.parent),
                         hint=f"mkdir -p {pointer.parent}")  # fmt: skip
    if pointer.is_dir():
        raise StoreError("is a folder, not a file", code="path-folder", where=str(pointer),
                         hint=f"name a file, e.g. {pointer / 'champion'}")  # fmt: skip
    with held(pointer.with_name(f".{pointer.name}.lock"), str(pointer)):
        for left in pointer.parent.glob(f".{escape(pointer.name)}.*.tmp"):  # by a process that was killed
            left.unlink(missing_ok=True)
        yield


def _text(pointer: Path) -> str:
    try:
        return read_small(pointer, MAX_BYTES, StoreError).decode()
    except (StoreError, UnicodeDecodeError) as error:
        why = error.what if isinstance(error, StoreError) else "is not text"
        raise StoreError(why, code="pointer-invalid", where=str(pointer), hint=_HINT) from error


def _named(text: str, pointer: Path) -> str:
    lines = text.splitlines()
    if not lines or not lines[0].strip() or "\0" in lines[0]:
        raise StoreError("does not name a bundle", code="pointer-invalid", where=str(pointer), hint=_HINT)
    return lines[0].strip()


def _folder(pointer: Path, named: str) -> Path:
    bundle = pointer.parent / named
    if not (bundle / MANIFEST).is_file():
        raise StoreError(f"names {named!r:.200}, which is not a bundle", code="pointer-invalid", where=str(pointer))
    return bundle
