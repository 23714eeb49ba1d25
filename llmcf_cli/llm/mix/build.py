"""The tuning mix: recommendation questions and general instructions, by share, no sample twice.

LLM-CF, CIKM 2024: recommendation data alone destroys a model's general abilities; mixed with general instruction
data it learns the domain and still reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.config import TuneConfig
from llmcf_cli.llm.mix.decontaminate import EvaluationRuns
from llmcf_cli.llm.mix.mixture import MIX_SOURCE, MixContext, MixSample, MixSource
from llmcf_cli.llm.mix.reports import MixPartReport, MixReport
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.sections import LLMSection, MixPart
from llmcf_cli.recipe.words import Words

_MESSAGES = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
SCHEMA = pa.schema([
    pa.field("prompt", _MESSAGES), pa.field("completion", _MESSAGES), pa.field("source", pa.string()),
    pa.field("prompt_tokens", pa.int32()), pa.field("completion_tokens", pa.int32()),
])  # fmt: skip
"""A sample of the mix."""

_BLOCK = 1024  # samples rendered and written at a time
_EXAMPLES = 2


def build_mix(
    section: LLMSection, *, data: Path, locate: Callable[[str], Path], tokenizer: Any, seed: int, out: Path,
    words: Words = Words(), blank_texts: float = 0.9, context: int | None = None, progress: Progress = SILENT,
) -> MixReport:  # fmt: skip
    """Write the tuning mix as Parquet (columns of `SCHEMA`).

    Args:
        section: The recipe's `llm`.
        data: DuckDB file of ingest; only rows of the train split are read.
        locate: Path of a file or asset that a source names.
        tokenizer: Of the model to be tuned.
        seed: The recipe's seed.
        out: Parquet file to write.
        words: Of the label.
        blank_texts: Share of the samples that may have an item without text.
        context: Most tokens that the model is made for; None: as many as `llm.tune.max_length`.
        progress: Where to report.

    Raises:
        LlmcfError: `llm.count` is more than a source can give without repeating a sample, or a source gives none.
        DataError: A source's file is missing or lacks a column.
    """
    wanted = cast("TuneConfig", section.tune).max_length
    longest = min(wanted, context or wanted)
    if longest < wanted:
        progress.say(
            f"no sample has more than {longest:,} tokens, the model's context (llm.tune.max_length: {wanted:,})"
        )
    sources = _sources(
        section,
        MixContext(
            data, locate, tokenizer, longest, seed, _evaluation(section, locate), words=words, blank_texts=blank_texts
        ),
    )
    capacities = [
        min(source.capacity(), part.max_count or source.capacity())
        for part, source in zip(section.mix, sources, strict=True)
    ]
    sizes = _sizes(section, capacities)
    reports = []
    with (
        pq.ParquetWriter(out, SCHEMA, compression="zstd") as writer,
        progress.task("mix", sum(sizes), "samples") as task,
    ):
        for part, source, size in zip(section.mix, sources, sizes, strict=True):
            report = _write(writer, part, source, size, task.advance)
            _check(section, part, report, size, longest)
            reports.append(report)
    total = sum(report.samples for report in reports)
    reports = [replace(report, share=report.samples / total) for report in reports]
    return MixReport(total, sum(report.tokens for report in reports), longest, reports)


def _evaluation(section: LLMSection, locate: Callable[[str], Path]) -> EvaluationRuns | None:
    return EvaluationRuns(map(locate, section.decontaminate)) if section.decontaminate else None


def _sources(section: LLMSection, context: MixContext) -> list[MixSource]:
    """The sources, each with a random stream of its own; what one has met, the later ones leave out."""
    return [
        registry().build(
            MIX_SOURCE, part.source, replace(context, seed=derive_seed(context.seed, "mix", index))
        )
        for index, part in enumerate(section.mix)
    ]  # fmt: skip


def _sizes(section: LLMSection, capacities: Sequence[int]) -> list[int]:
    """Samples of each part: the shares of the total, by largest remainder, within the capacities."""
    shares = [part.share for part in section.mix]
    names = [part.source.type for part in section.mix]
    empty = [name for name, capacity in zip(names, capacities, strict=True) if not capacity]
    if empty:
        raise LlmcfError(f"the mix source {empty[0]} has no usable sample", code="mix-source-empty", where="llm.mix")
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
        f"llm.count {section.count} needs {wanted:,} samples of {name}, but it has {given:,} different ones",
        code="sample-too-large", where="llm.count",
        hint=f"set llm.count to at most {most:,}, leave it out, or change the shares",
    )  # fmt: skip


def _check(section: LLMSection, part: MixPart, report: MixPartReport, size: int, longest: int) -> None:
    if report.samples == 0:
        raise LlmcfError(
            f"no sample of {report.source} fits into {longest} tokens",
            code="mix-too-long", where="llm.tune.max_length",
            hint="raise llm.tune.max_length, or use a model with a longer context",
        )  # fmt: skip
    if section.count is not None and report.samples < size:
        raise _too_few(section, report.source, size, report.samples, int(report.samples / part.share))


def _write(
    writer: pq.ParquetWriter, part: MixPart, source: MixSource, size: int, advance: Callable[[float], None]
) -> MixPartReport:
    samples = tokens = answer_tokens = longest = 0
    examples: list[dict[str, str]] = []
    for block in _blocks(source.draw(size)):
        rows = [
            {
                "prompt": list(sample.prompt),
                "completion": [{"role": "assistant", "content": sample.completion}],
                "source": part.source.type, "prompt_tokens": sample.prompt_tokens,
                "completion_tokens": sample.completion_tokens,
            }
            for sample in block
        ]  # fmt: skip
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        lengths = [sample.prompt_tokens + sample.completion_tokens for sample in block]
        samples, tokens, longest = samples + len(block), tokens + sum(lengths), max(longest, *lengths)
        answer_tokens += sum(sample.completion_tokens for sample in block)
        for sample in block[: _EXAMPLES - len(examples)]:
            examples.append({"prompt": sample.prompt[-1]["content"], "completion": sample.completion})
        advance(len(block))
    return MixPartReport(
        part.source.type, source.capacity(), samples, part.share, 0.0, tokens, answer_tokens, longest,
        dict(source.counts), examples, list(getattr(source, "bad", ())),
    )  # fmt: skip


def _blocks(samples: Iterable[MixSample]) -> Iterator[list[MixSample]]:
    block: list[MixSample] = []
    for sample in samples:
        block.append(sample)
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block
