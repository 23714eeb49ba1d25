"""Of several texts for a prompt the best; for a prompt without a good one a second round; else a reason to drop it.

LLM-CF (CIKM 2024) samples several chains of thought per interaction and keeps the best. Here a text is good if the
judge finds it usable and scores it at least the floor. A prompt without a good text is asked again, with the next
indices and so with fresh seeds; what has none after that is dropped, with the reason of its best text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.progress import Task
from llmcf_cli.llm.writing.judge import Judge, Judged, Verdict
from llmcf_cli.llm.writing.steps import Asked, Part
from llmcf_cli.llm.writing.texts import Ask, Candidate
from llmcf_cli.llm.writing.workers import CallState
from llmcf_cli.recipe.words import Words
from llmcf_cli.store.tables import COT, COT_CANDIDATE, COT_DROPPED, COT_PART

BELOW_FLOOR = "below floor"
"""Reason of a text that is usable but scores too low."""
SET_ASIDE = "set aside"
"""Reason of a prompt whose calls kept failing."""
SCORES = ("coherence", "completeness", "relevance", "consistency", "score")

_EXAMPLES = 3


@dataclass
class Tally:
    """Running counts of a selection.

    Attributes:
        kept: Samples with a chain of thought.
        regenerated: Samples asked again for want of a good text.
        rescued: Of these, samples that then got one.
        dropped: Samples without one, by reason.
        set_aside: Of these, samples whose calls kept failing, by what failed.
        cut_off: Texts kept that end in mid-sentence.
        sums: Sum of each score over the kept texts.
        examples: A few kept texts with their samples.
    """

    kept: int = 0
    regenerated: int = 0
    rescued: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)
    cut_off: int = 0
    sums: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def means(self) -> dict[str, float]:
        """Mean of each score over the kept texts; empty without any."""
        return {name: self.sums[name] / self.kept for name in SCORES} if self.kept else {}


@dataclass(frozen=True)
class _Judged:
    """A candidate with its verdict; `reason` also says that it is below the floor."""

    candidate: Candidate
    verdict: Verdict
    reason: str


class Texts(Protocol):
    """Where a `Selector` finds the candidates of prompts: a `TextCache`, or what an engine wrote from the data."""

    samples: int

    @property
    def draws(self) -> bool:
        """Whether asking again may give another text."""

    def complete(self, asks: Sequence[Ask], task: Task, *, round_: int = 0) -> None:
        """Make the texts of a further round."""

    def candidates(self, asks: Sequence[Ask], *, rounds: int = 1) -> dict[str, list[Candidate]]:
        """The texts of so many rounds by prompt hash."""

    def set_aside(self, asks: Sequence[Ask]) -> Mapping[str, CallState]:
        """The last failure of each prompt without a text, by prompt hash."""


class Selector:
    """Chooses the chains of thought of samples, and writes them, all candidates and what was dropped to Parquet.

    A context manager: the files (tables `cot`, `cot_part`, `cot_candidate`, `cot_dropped`) are complete at its end.

    Args:
        texts: Where candidates of the last step are, and what makes more of them.
        step: Name of that step.
        judge: A component of the kind `judge`.
        about: (sample with its prompt, finish reason) → what a text is judged against.
        floor: Least score of a good text.
        rounds: Further rounds for a sample without a good one; none where an engine draws nothing.
        out: Folder to write the tables to.
        words: Of the label, for examples.

    Attributes:
        tally: Counts so far.
    """

    def __init__(
        self, texts: Texts, step: str, judge: Judge, about: Callable[[Asked, str], Judged], *, floor: float,
        rounds: int, out: Path, words: Words = Words(),
    ) -> None:  # fmt: skip
        self._texts, self._step, self._judge, self._about, self._floor = texts, step, judge, about, floor
        self._rounds = rounds if texts.draws else 0
        self._out, self._words = out, words
        self._stack = ExitStack()
        self.tally = Tally()

    def __enter__(self) -> Selector:
        self._writers = {
            table.name: self._stack.enter_context(
                pq.ParquetWriter(self._out / f"{table.name}.parquet", table.schema, compression="zstd")
            )
            for table in (COT, COT_PART, COT_CANDIDATE, COT_DROPPED)
        }
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def select(self, asked: Sequence[Asked], task: Any) -> None:
        """Judge the first texts of some samples, which must be complete; ask again where none is good; write all.

        Args:
            asked: Samples with their prompts.
            task: Told how regeneration goes.
        """
        judged = self._verdicts(asked, rounds=1)
        for round_ in range(1, self._rounds + 1):
            weak = [one for one in asked if judged[one.row.sample_id] and _best(judged[one.row.sample_id]).reason]
            if not weak:
                break
            self.tally.regenerated += len(weak) if round_ == 1 else 0
            self._texts.complete([one.ask for one in weak], task, round_=round_)
            judged |= self._verdicts(weak, rounds=round_ + 1)
        self._write(asked, judged)

    def drop(self, samples: Mapping[int, str], reason: str) -> None:
        """Write samples (sample id → detail) that were not asked."""
        rows = [{"sample_id": s, "prompt_hash": "", "reason": reason, "detail": d} for s, d in samples.items()]
        self._writers[COT_DROPPED.name].write_table(pa.Table.from_pylist(rows, schema=COT_DROPPED.schema))
        if rows:
            self.tally.dropped[reason] += len(rows)

    def _verdicts(self, asked: Sequence[Asked], rounds: int) -> dict[int, list[_Judged]]:
        """Every candidate of each sample, by sample id."""
        found = self._texts.candidates([one.ask for one in asked], rounds=rounds)
        return {one.row.sample_id: [self._verdict(one, c) for c in found.get(one.ask.prompt_hash, [])] for one in asked}

    def _verdict(self, one: Asked, candidate: Candidate) -> _Judged:
        whole = one.joined(candidate.text) if candidate.text.strip() else ""
        verdict = self._judge.judge(whole, self._about(one, candidate.finish_reason))
        low = BELOW_FLOOR if verdict.score < self._floor else ""
        return _Judged(candidate, verdict, verdict.reason or low)

    def _write(self, asked: Sequence[Asked], judged: dict[int, list[_Judged]]) -> None:
        failures = self._texts.set_aside([one.ask for one in asked if not judged[one.row.sample_id]])
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in self._writers}
        for one in asked:
            row, ask = one.row, one.ask
            found, key = judged[row.sample_id], {"sample_id": row.sample_id, "prompt_hash": ask.prompt_hash}
            if not found:
                failure = failures.get(ask.prompt_hash)  # None where another process has just forgotten it
                reason = failure.reason if failure else "unknown"
                self.tally.dropped[SET_ASIDE] += 1
                self.tally.set_aside[reason] += 1
                rows["cot_dropped"].append({**key, "reason": SET_ASIDE, "detail": reason})
                continue
            best = _best(found)
            kept = not best.reason
            rows["cot_candidate"] += [_candidate(one, j, kept=kept and j is best) for j in found]
            if kept:
                self._keep(one, best)
                text = {"prompt": ask.readable, "text": one.joined(best.candidate.text)}
                rows["cot"].append({**key, **text, **_scores(best.verdict)})
                parts = (*one.parts, Part(self._step, ask.prompt_hash, best.candidate.text))
                rows["cot_part"] += [
                    {"sample_id": row.sample_id, "place": place, **asdict(part)} for place, part in enumerate(parts)
                ]
            else:
                self.tally.dropped[best.reason] += 1
                detail = f"best of {len(found)} texts: score {best.verdict.score:.3f}"
                rows["cot_dropped"].append({**key, "reason": best.reason, "detail": detail})
        for name, writer in self._writers.items():
            writer.write_table(pa.Table.from_pylist(rows[name], schema=writer.schema))

    def _keep(self, one: Asked, best: _Judged) -> None:
        tally, verdict, row = self.tally, best.verdict, one.row
        tally.kept += 1
        tally.rescued += best.candidate.index >= self._texts.samples
        tally.cut_off += verdict.truncated
        tally.sums.update(_scores(verdict))
        if len(tally.examples) < _EXAMPLES:
            tally.examples.append({
                "sample_id": row.sample_id, "item": row.item, "decision": self._words.decision(row.label),
                "text": one.joined(best.candidate.text), "score": verdict.score,
            })  # fmt: skip


def _best(judged: Sequence[_Judged]) -> _Judged:
    """The good text with the highest score; of equals the first. Without a good one, the usable before the others."""
    return max(judged, key=lambda j: (not j.reason, not j.verdict.reason, j.verdict.score))


def _candidate(one: Asked, judged: _Judged, *, kept: bool) -> dict[str, Any]:
    return {
        "sample_id": one.row.sample_id, "sample_index": judged.candidate.index, "text": judged.candidate.text,
        **_scores(judged.verdict), "reason": judged.reason, "truncated": judged.verdict.truncated, "kept": kept,
    }  # fmt: skip


def _scores(verdict: Verdict) -> dict[str, float]:
    return {name: getattr(verdict, name) for name in SCORES}
