"""The tuning mix: recommendation questions and general instructions, by share, no sample twice.

LLM-CF, CIKM 2024: recommendation data alone destroys a model's general abilities; mixed with general instruction
data it learns the domain and still reasons.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import DataError, LlmcfError, closest
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.chat import encode_pair
from llmcf_cli.llm.config import JsonlMixConfig, ParquetMixConfig, RecommendationMixConfig
from llmcf_cli.llm.question import questions
from llmcf_cli.llm.rows import SampleTexts, sample_texts, train_labels, train_order
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.sections import LLMSection
from llmcf_cli.store.open import connect_read

_MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
SCHEMA = pa.schema([
    pa.field("prompt", _MESSAGES), pa.field("completion", _MESSAGES), pa.field("source", pa.string()),
    pa.field("prompt_tokens", pa.int32()), pa.field("completion_tokens", pa.int32()),
])  # fmt: skip
"""A sample of the mix."""

_BLOCK = 1024  # samples rendered and written at a time
_EXAMPLES = 2


@dataclass(frozen=True)
class MixContext:
    """What a mix source is built with, besides its configuration.

    Attributes:
        data: DuckDB file of ingest.
        locate: Path of a file or asset that the configuration names.
        tokenizer: Of the model to be tuned.
        max_length: Most tokens of a sample.
        seed: Of this part's own random stream.
    """

    data: Path
    locate: Callable[[str], Path]
    tokenizer: Any
    max_length: int
    seed: int


@dataclass(frozen=True)
class MixSample:
    """A question with its answer, and their tokens."""

    prompt: str
    completion: str
    prompt_tokens: int
    completion_tokens: int


class MixSource(Protocol):
    """Yields instruction–answer pairs; built as `target(config, context)`."""

    counts: dict[str, int]
    """What was left out or shortened so far, by reason."""

    def capacity(self) -> int:
        """Most samples it can give without repeating one (a few may still prove too long)."""

    def draw(self, count: int) -> Iterator[MixSample]:
        """Up to `count` different samples, the same ones for the same seed."""


@dataclass(frozen=True)
class MixPartReport:
    """What one source gave.

    Attributes:
        source: Registered name of the source.
        samples: Samples in the mix.
        tokens: Their tokens, questions and answers.
        answer_tokens: Tokens of the answers, on which alone the loss is.
        counts: Samples left out or shortened, by reason.
        examples: A few samples.
    """

    source: str
    samples: int
    tokens: int
    answer_tokens: int
    counts: dict[str, int]
    examples: list[dict[str, str]]


@dataclass(frozen=True)
class MixReport:
    """What a mix holds, part by part."""

    samples: int
    tokens: int
    parts: list[MixPartReport] = field(default_factory=list)


def build_mix(
    section: LLMSection, *, data: Path, locate: Callable[[str], Path], tokenizer: Any, seed: int, out: Path,
    progress: Progress = SILENT,
) -> MixReport:  # fmt: skip
    """Write the tuning mix as Parquet (columns of `SCHEMA`).

    Args:
        section: The recipe's `llm`.
        data: DuckDB file of ingest; only rows of the train split are read.
        locate: Path of a file or asset that a source names.
        tokenizer: Of the model to be tuned.
        seed: The recipe's seed.
        out: Parquet file to write.
        progress: Where to report.

    Raises:
        LlmcfError: `llm.count` is more than a source can give without repeating a sample, or a source gives none.
        DataError: A source's file is missing or lacks a column.
    """
    sources: list[MixSource] = []
    for index, part in enumerate(section.mix):
        context = MixContext(data, locate, tokenizer, section.tune.max_length, derive_seed(seed, "mix", index))
        sources.append(registry().build("mix_source", part.source, context))
    sizes = _sizes(section, [source.capacity() for source in sources])
    reports = []
    with (
        pq.ParquetWriter(out, SCHEMA, compression="zstd") as writer,
        progress.task("mix", sum(sizes), "samples") as task,
    ):
        for part, source, size in zip(section.mix, sources, sizes, strict=True):
            report = _write(writer, part.source.type, source, size, task.advance)
            _check(section, report, size)
            reports.append(report)
    return MixReport(sum(r.samples for r in reports), sum(r.tokens for r in reports), reports)


def _sizes(section: LLMSection, capacities: Sequence[int]) -> list[int]:
    """Samples of each part: the shares of the total, by largest remainder, within the capacities."""
    shares = [part.share for part in section.mix]
    names = [part.source.type for part in section.mix]
    empty = [name for name, capacity in zip(names, capacities, strict=True) if not capacity]
    if empty:
        raise LlmcfError(f"the mix source {empty[0]} has no usable sample", where="llm.mix")
    most = int(min(capacity / share for capacity, share in zip(capacities, shares, strict=True)) + 1e-9)
    total = section.count or max(most, 1)
    exact = [total * share for share in shares]
    sizes = [int(size + 1e-9) for size in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (sizes[i] - exact[i], i))
    for index in by_remainder[: total - sum(sizes)]:
        sizes[index] += 1
    if section.count is None:
        return [min(size, capacity) for size, capacity in zip(sizes, capacities, strict=True)]
    for name, size, capacity in zip(names, sizes, capacities, strict=True):
        if size > capacity:
            raise _too_few(section, name, size, capacity, most)
    return sizes


def _too_few(section: LLMSection, name: str, wanted: int, given: int, most: int) -> LlmcfError:
    return LlmcfError(
        f"llm.count {section.count} needs {wanted:,} samples of {name}, which has {given:,} different ones",
        where="llm.count", hint=f"set llm.count to at most {most:,}, leave it out, or change the shares",
    )  # fmt: skip


def _check(section: LLMSection, report: MixPartReport, size: int) -> None:
    if report.samples == 0:
        raise LlmcfError(
            f"no sample of {report.source} fits into {section.tune.max_length} tokens", where="llm.tune.max_length",
            hint="raise llm.tune.max_length",
        )  # fmt: skip
    if section.count is not None and report.samples < size:
        most = int(report.samples / next(p.share for p in section.mix if p.source.type == report.source))
        raise _too_few(section, report.source, size, report.samples, most)


def _write(
    writer: pq.ParquetWriter, name: str, source: MixSource, size: int, advance: Callable[[float], None]
) -> MixPartReport:
    samples = tokens = answer_tokens = 0
    examples: list[dict[str, str]] = []
    for block in _blocks(source.draw(size)):
        rows = [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "completion": [{"role": "assistant", "content": sample.completion}],
                "source": name, "prompt_tokens": sample.prompt_tokens,
                "completion_tokens": sample.completion_tokens,
            }
            for sample in block
        ]  # fmt: skip
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        samples += len(block)
        tokens += sum(sample.prompt_tokens + sample.completion_tokens for sample in block)
        answer_tokens += sum(sample.completion_tokens for sample in block)
        for sample in block[: _EXAMPLES - len(examples)]:
            examples.append({"prompt": sample.prompt, "completion": sample.completion})
        advance(len(block))
    return MixPartReport(name, samples, tokens, answer_tokens, dict(source.counts), examples)


def _blocks(samples: Iterable[MixSample]) -> Iterator[list[MixSample]]:
    block: list[MixSample] = []
    for sample in samples:
        block.append(sample)
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


def _measure(context: MixContext, prompt: str, completion: str) -> tuple[int, int]:
    """Tokens of the question (with the chat template's marks) and of the answer."""
    ids, prompt_tokens = encode_pair(
        context.tokenizer,
        [{"role": "user", "content": prompt}],
        [{"role": "assistant", "content": completion}],
    )
    return prompt_tokens, len(ids) - prompt_tokens


class RecommendationSource:
    """ "History + target item → Yes/No" from the train rows, both answers equally often unless told otherwise."""

    def __init__(self, config: RecommendationMixConfig, context: MixContext) -> None:
        self._config, self._context = config, context
        self.counts = {"history shortened": 0, "too long without history": 0}

    def capacity(self) -> int:
        """Train rows, or twice the rarer label's where labels are balanced."""
        with connect_read(self._context.data) as connection:
            positive, negative = train_labels(connection)
        return 2 * min(positive, negative) if self._config.balance == "labels" else positive + negative

    def draw(self, count: int) -> Iterator[MixSample]:
        """Up to `count` samples in the seed's order; a row whose item alone is too long makes way for the next."""
        with connect_read(self._context.data) as connection:
            ids = train_order(connection, self._context.seed, self._config.balance, self.capacity())
            start = 0
            while count > 0 and start < len(ids):
                end = start + min(_BLOCK, count)
                for sample in self._samples(sample_texts(connection, ids[start:end])):
                    yield sample
                    count -= 1
                start = end

    def _samples(self, rows: Sequence[SampleTexts]) -> Iterator[MixSample]:
        config, longest = self._config, self._context.max_length
        answers = [config.positive if row.label else config.negative for row in rows]

        def count(indices: list[int], texts: list[str]) -> list[int]:
            return [sum(_measure(self._context, text, answers[i])) for i, text in zip(indices, texts, strict=True)]

        for question, answer in zip(questions(config, rows, longest, count), answers, strict=True):
            if question.tokens > longest:
                self.counts["too long without history"] += 1
                continue
            self.counts["history shortened"] += question.shortened
            yield MixSample(question.text, answer, *_measure(self._context, question.text, answer))


class FileSource:
    """Instruction–answer pairs of a Parquet or JSON-lines file, equal pairs once."""

    def __init__(self, config: ParquetMixConfig | JsonlMixConfig, context: MixContext) -> None:
        self._config, self._context = config, context
        self._path = context.locate(config.path)
        self.counts = {"repeated": 0, "empty": 0, "too long": 0}
        self._fitting: list[int] | None = None

    def capacity(self) -> int:
        """Different, non-empty pairs that fit into the length."""
        return len(self._usable())

    def draw(self, count: int) -> Iterator[MixSample]:
        """Up to `count` pairs, drawn by the seed."""
        import numpy as np

        usable = np.array(self._usable())
        order = np.random.default_rng(self._context.seed).permutation(len(usable))[:count]
        chosen = set(usable[order].tolist())
        for row, prompt, completion in self._pairs():
            if row in chosen:
                yield MixSample(prompt, completion, *_measure(self._context, prompt, completion))

    def _usable(self) -> list[int]:
        """Numbers of the usable rows, by one pass over the file."""
        if self._fitting is None:
            self._fitting = []
            seen: set[bytes] = set()
            for row, prompt, completion in self._pairs():
                key = _key(prompt, completion)
                if not prompt or not completion:
                    self.counts["empty"] += 1
                elif key in seen:
                    self.counts["repeated"] += 1
                elif sum(_measure(self._context, prompt, completion)) > self._context.max_length:
                    self.counts["too long"] += 1
                else:
                    self._fitting.append(row)
                seen.add(key)
        return self._fitting

    def _pairs(self) -> Iterator[tuple[int, str, str]]:
        """(row number, question, answer) of every row, in the file's order."""
        config = self._config
        columns = [name for name in (config.instruction, config.input, config.output) if name]
        blocks = _parquet_rows if config.type == "parquet" else _json_rows
        for row, values in enumerate(blocks(self._path, columns)):
            texts = {name: str(values[name] or "").strip() for name in columns}
            about = texts.get(config.input, "")
            question = "\n\n".join(filter(None, [texts[config.instruction], about]))
            yield row, question, texts[config.output]


def _key(prompt: str, completion: str) -> bytes:
    import hashlib

    return hashlib.blake2b(f"{prompt}\x1f{completion}".encode(), digest_size=16).digest()


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"is no readable Parquet file: {error}", where=str(path)) from error
    with file:
        _check_columns(columns, file.schema_arrow.names, str(path))
        for batch in file.iter_batches(batch_size=_BLOCK, columns=list(columns)):
            yield from batch.to_pylist()


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as handle:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    values = json.loads(line)
                except ValueError as error:
                    raise DataError(f"is no JSON: {error}", where=where) from error
                if not isinstance(values, dict):
                    raise DataError("is no JSON object", where=where)
                _check_columns(columns, list(values), where)
                yield values
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8: {error.reason}", where=str(path)) from error


def _check_columns(wanted: Sequence[str], found: Sequence[str], where: str) -> None:
    for name in wanted:
        if name not in found:
            near = closest(name, found)
            hint = f'set the source\'s column to "{near}"' if near else "name the file's columns in the source"
            raise DataError(f'has no column "{name}"', where=where, allowed=list(found), hint=hint)
