"""Generated texts that travel: rows of the cache in a Parquet file, for another machine that need not make them again.

A row is named by digests of prompt, model and settings, as in the cache, so it is found there by whoever asks the same.
The file holds no prompts. A file from somebody else is data like any other: it is checked row by row, it may name only
digests that its settings have, and it replaces nothing that is here.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import DataError, StoreError
from llmcf_cli.core.files import kind_of
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.store.tables import TRAVELLING_TEXT
from llmcf_cli.tabular.parquet import check_size

MAX_TEXT = 1 << 17
"""Characters of a text."""
MAX_NAME = 1000
"""Characters of a model's or step's name."""
MAX_INDEX = 10_000
"""Texts of one prompt."""
SCORES = ("coherence", "completeness", "relevance", "consistency", "score")
FINISHED = ("stop", "length")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BLOCK = 5_000
_WRONG = 5  # rows that are told of

TextKey = tuple[str, int]
"""Digest of a prompt, and which of its texts."""


@dataclass(frozen=True)
class StepCalls:
    """What one step of a prompt asks a model.

    Attributes:
        step: Name of the step.
        about: `item` where a text is written from an item alone, else `user`: it was written from a user's history.
        model: Digest, or server and name, of the model.
        decode: Digest of the settings.
        settings: The settings, as JSON.
        prompts: Digest of each prompt.
        samples: Texts of each, of the first round.
    """

    step: str
    about: str
    model: str
    decode: str
    settings: str
    prompts: tuple[str, ...]
    samples: int


@dataclass(frozen=True)
class Exported:
    """What went into a file.

    Attributes:
        texts: Texts in it.
        asked: Texts of the first round that the recipe asks for, without what was left out.
        left_out: Texts that were left out, by what they are about.
        steps: Step → texts.
    """

    texts: int
    asked: int
    left_out: dict[str, int]
    steps: dict[str, int]


@dataclass(frozen=True)
class Imported:
    """What came of a file.

    Attributes:
        texts: Texts in it.
        new: Texts that were not here.
        same: Texts that were here already, word for word.
        kept: Texts that are others here; those of here stay.
        models: Model → texts.
    """

    texts: int
    new: int
    same: int
    kept: int
    models: dict[str, int]


def export_texts(
    store: SharedTexts, calls: Sequence[StepCalls], scores: Mapping[TextKey, Mapping[str, Any]], file: Path, *,
    without: Collection[str] = (),
) -> Exported:  # fmt: skip
    """Write the texts of some calls, as far as they are there, to a file that appears only complete.

    Args:
        store: The cache.
        calls: What was asked.
        scores: What a judge said of a text, where it was judged.
        file: Where to.
        without: What texts must not be about: `user`, `item`.

    Raises:
        StoreError: The file cannot be written.
    """
    steps, left_out = Counter[str](), Counter[str]()
    asked = 0
    partial = file.with_name(f".{file.name}.partial")
    written: set[tuple[str, str, str]] = set()
    try:
        with pq.ParquetWriter(partial, TRAVELLING_TEXT.schema, compression="zstd") as writer:
            for one in calls:
                fresh = [p for p in one.prompts if (p, one.model, one.decode) not in written]
                written.update((p, one.model, one.decode) for p in fresh)
                out = one.about in without
                asked += 0 if out else len(fresh) * one.samples
                for start in range(0, len(fresh), _BLOCK):
                    rows = store.rows(one.model, one.decode, fresh[start : start + _BLOCK])
                    (left_out if out else steps)[one.about if out else one.step] += len(rows)
                    if not out:
                        writer.write_table(_table(one, rows, scores))
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"cannot be written: {error.strerror}", code="store-unwritable", where=str(file)) from error
    return Exported(sum(steps.values()), asked, dict(left_out), dict(steps))


def import_texts(store: SharedTexts, file: Path, models: Collection[str] | None = None) -> Imported:
    """Take the texts of a file into the cache; all of them or, where one is wrong, none.

    Args:
        store: The cache.
        file: As `export_texts` writes it.
        models: Those whose texts are taken; None: any.

    Raises:
        DataError: The file is none, too large for its bytes, or a row is not as it should be.
    """
    new = same = kept = 0
    found: Counter[str] = Counter()
    seen: set[tuple[str, str, str, int]] = set()
    with store.transaction() as connection:
        for rows in _blocks(file):
            _check(rows, file, models, seen)
            found.update(row["model_digest"] for row in rows)
            counts = store.take_in(connection, [_cached(row) for row in rows])
            new, same, kept = new + counts[0], same + counts[1], kept + counts[2]
    return Imported(sum(found.values()), new, same, kept, dict(found))


def check_texts(file: Path, models: Collection[str] | None = None) -> None:
    """Check a file as `import_texts` does, without taking anything in.

    Raises:
        DataError: As there.
    """
    seen: set[tuple[str, str, str, int]] = set()
    for rows in _blocks(file):
        _check(rows, file, models, seen)


def _table(one: StepCalls, rows: Sequence[tuple[Any, ...]], scores: Mapping[TextKey, Mapping[str, Any]]) -> pa.Table:
    def row(prompt: str, index: int, text: str, finish: str, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
        judged = scores.get((prompt, index), {})
        return {
            "prompt_hash": prompt, "model_digest": one.model, "decode_hash": one.decode, "sample_index": index,
            "step": one.step, "about": one.about, "text": text, "finish_reason": finish,
            "prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "decode": one.settings,
            **{name: judged.get(name) for name in (*SCORES, "kept")},
        }  # fmt: skip

    return pa.Table.from_pylist([row(*values) for values in rows], schema=TRAVELLING_TEXT.schema)


def _cached(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """A row of the cache, without a time: what it took elsewhere says nothing of what calls take here."""
    names = ("prompt_hash", "model_digest", "decode_hash", "sample_index", "text", "finish_reason", "prompt_tokens",
             "new_tokens")  # fmt: skip
    return (*(row[name] for name in names), 0.0, row["decode"], None, None, None)


def _blocks(file: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of a file, some at a time."""
    if kind_of(file) != "file":
        raise DataError("no such file", code="path-missing", where=str(file))
    check_size(file)
    try:
        with pq.ParquetFile(file) as opened:
            have = opened.schema_arrow
            if have.names != TRAVELLING_TEXT.schema.names or have.types != TRAVELLING_TEXT.schema.types:
                raise DataError("contains no texts written by `llmcf cot export --cache`", code="texts-format",
                                where=str(file), hint="llmcf cot export RECIPE --cache FILE")  # fmt: skip
            for batch in opened.iter_batches(_BLOCK):
                batch.validate(full=True)
                yield batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"cannot be read: {first}", code="file-format", where=str(file)) from error


def _check(
    rows: Sequence[Mapping[str, Any]], file: Path, models: Collection[str] | None,
    seen: set[tuple[str, str, str, int]],
) -> None:  # fmt: skip
    settings: dict[str, str] = {}
    wrong: list[str] = []
    for row in rows:
        key = (row["prompt_hash"], row["model_digest"], row["decode_hash"], row["sample_index"])
        what = _fault(row, settings) or ("is a duplicate" if key in seen else "")
        if not what and models is not None and row["model_digest"] not in models:
            what = f"is by the model {row['model_digest']!r:.80}, which is not in the lock"
        if what:
            wrong.append(f"text {len(seen)} (prompt {str(row['prompt_hash'])[:12]!r}) {what}")
            if len(wrong) >= _WRONG:
                break
        seen.add(key)
    if wrong:
        raise DataError("; ".join(wrong), code="texts-invalid", where=str(file),
                        hint="nothing was imported; ask whoever made the file for a new one")  # fmt: skip


def _fault(row: Mapping[str, Any], settings: dict[str, str]) -> str:
    """What is wrong with a row; empty where nothing is."""
    missing = [name for name in TRAVELLING_TEXT.schema.names[:11] if row[name] is None]
    if missing:
        return f"has no {missing[0]}"
    if not all(_DIGEST.fullmatch(row[name]) for name in ("prompt_hash", "decode_hash")):
        return "is named by no digest"
    if not 0 <= row["sample_index"] < MAX_INDEX or min(row["prompt_tokens"], row["new_tokens"]) < 0:
        return "has a number out of range"
    if row["finish_reason"] not in FINISHED or row["about"] not in ("user", "item"):
        return "has an unknown finish_reason, or is about neither user nor item"
    if len(row["text"]) > MAX_TEXT or any(len(row[name]) > MAX_NAME for name in ("model_digest", "step")):
        return "is too long"
    if "\0" in row["text"] or "\0" in row["model_digest"]:
        return "has a NUL character"
    if any(row[name] is not None and not math.isfinite(row[name]) for name in SCORES):
        return "has a score that is not a number"
    if row["decode"] not in settings:
        settings[row["decode"]] = _digest_of(row["decode"])
    if settings[row["decode"]] != row["decode_hash"]:
        return "has settings of another digest"
    return ""


def _digest_of(decode: str) -> str:
    try:
        return digest_json(json.loads(decode)) if len(decode) <= MAX_TEXT else ""
    except (ValueError, RecursionError):
        return ""
