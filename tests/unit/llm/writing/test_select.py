"""The best of several texts, a second round where none is good, and reasons for what is dropped."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmcf_cli.core.progress import SILENT
from llmcf_cli.llm.engines.base import Completion, Failure
from llmcf_cli.llm.prompts.rows import SampleTexts
from llmcf_cli.llm.writing.judge import Judged, Verdict
from llmcf_cli.llm.writing.select import BELOW_FLOOR, SCORES, SET_ASIDE, Selector, Tally
from llmcf_cli.llm.writing.steps import Asked
from llmcf_cli.llm.writing.texts import Ask, TextCache
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.store.tables import COT, COT_CANDIDATE, COT_DROPPED


class Scripted:
    """Answers prompt p with its next text; `!` fails."""

    samples = 2

    def __init__(self, texts: dict[str, list[str]], *, draws: bool = True) -> None:
        self.texts, self.draws = {prompt: list(found) for prompt, found in texts.items()}, draws
        self.seeds: list[int] = []

    def decode_settings(self, seed):
        return {"seed": seed} if self.draws else {}

    def batches(self, lengths):
        return [list(range(len(lengths)))]

    def generate(self, chats, seeds):
        self.seeds += seeds
        return [self._next(chat[0]["content"]) for chat in chats]

    def _next(self, prompt: str) -> Completion | Failure:
        text = self.texts[prompt].pop(0)
        return Failure("too long", False) if text == "!" else Completion(text, "stop", 3, 1, 0.1)


class Judge:
    """A text `0.7` scores 0.7 on everything; `0.7 echo` is an echo besides."""

    def judge(self, text: str, about: Judged) -> Verdict:
        score, _, reason = text.partition(" ")
        return Verdict(*[float(score)] * 5, reason, truncated=False)


def about(one: Asked, finish_reason: str) -> Judged:
    return Judged(one.given, one.row.history, one.row.item, one.row.label, (), finish_reason)


def select(
    folder: Path, engine: Scripted, floor: float = 0.5, rounds: int = 1
) -> tuple[Tally, dict[str, list[dict[str, object]]]]:
    asked = [
        Asked(
            SampleTexts(n, n % 2, f"item {n}", "user", [], 1, n),
            Ask([{"role": "user", "content": p}], f"hash {p}", 3, False),
            (),
            p,
        )
        for n, p in enumerate(engine.texts)
    ]
    with SharedTexts(folder / "c.sqlite") as store, SILENT.task("t", len(asked), "samples") as task:
        texts = TextCache(store, engine, "m", 1)
        texts.complete([one.ask for one in asked], task)
        with Selector(texts, "cot", Judge(), about, floor=floor, rounds=rounds, out=folder) as selector:
            selector.select(asked, task)
    tables = {}
    for spec in (COT, COT_CANDIDATE, COT_DROPPED):
        table: pa.Table = pq.read_table(folder / f"{spec.name}.parquet")
        assert table.schema.equals(spec.schema)
        tables[spec.name] = table.to_pylist()
    return selector.tally, tables


def test_the_best_usable_text_is_kept_and_every_score_stored(tmp_path: Path) -> None:
    tally, tables = select(tmp_path, Scripted({"a": ["0.6", "0.9"], "b": ["0.95 echo", "0.55"]}))
    assert [(row["sample_id"], row["text"]) for row in tables["cot"]] == [(0, "0.9"), (1, "0.55")]
    candidates = [
        (r["sample_id"], r["sample_index"], r["text"], r["reason"], r["kept"]) for r in tables["cot_candidate"]
    ]
    assert candidates == [
        (0, 0, "0.6", "", False), (0, 1, "0.9", "", True), (1, 0, "0.95 echo", "echo", False), (1, 1, "0.55", "", True),
    ]  # fmt: skip
    assert all(
        row[name] == pytest.approx(float(row["text"].split()[0])) for row in tables["cot_candidate"] for name in SCORES
    )
    assert not tables["cot_dropped"]
    assert (tally.kept, tally.regenerated) == (2, 0)
    assert tally.means["score"] == pytest.approx((0.9 + 0.55) / 2)


def test_a_sample_without_a_good_text_is_asked_once_more_with_fresh_seeds(tmp_path: Path) -> None:
    engine = Scripted({"a": ["0.1", "0.2 refusal", "0.3", "0.8"], "b": ["0.9", "0.1"]})
    tally, tables = select(tmp_path, engine)
    assert [(row["sample_id"], row["text"]) for row in tables["cot"]] == [(0, "0.8"), (1, "0.9")]
    assert [r["sample_index"] for r in tables["cot_candidate"] if r["sample_id"] == 0] == [0, 1, 2, 3]
    assert (tally.kept, tally.regenerated, tally.rescued) == (2, 1, 1)
    assert len(set(engine.seeds)) == len(engine.seeds) == 6


def test_what_stays_bad_is_dropped_with_the_reason_of_its_best_text(tmp_path: Path) -> None:
    engine = Scripted(
        {"a": ["0.1", "0.2", "0.3", "0.4"], "b": ["0.9 echo", "0.8 echo", "0.7 refusal", "0.9 echo"], "c": ["0.9"] * 2}
    )
    tally, tables = select(tmp_path, engine)
    dropped = {row["sample_id"]: (row["reason"], row["detail"]) for row in tables["cot_dropped"]}
    assert dropped == {
        0: (BELOW_FLOOR, "best of 4 texts: score 0.400"), 1: ("echo", "best of 4 texts: score 0.900")
    }  # fmt: skip
    assert [row["sample_id"] for row in tables["cot"]] == [2]
    assert tally.dropped == {BELOW_FLOOR: 1, "echo": 1}
    assert (tally.regenerated, tally.rescued) == (2, 0)


@pytest.mark.parametrize(("draws", "rounds"), [(False, 1), (True, 0)])
def test_no_second_round_where_it_would_give_the_same_or_is_not_wanted(
    tmp_path: Path, draws: bool, rounds: int
) -> None:
    engine = Scripted({"a": ["0.1", "0.2"], "b": ["0.9", "0.9"]}, draws=draws)
    tally, _ = select(tmp_path, engine, rounds=rounds)
    assert (tally.kept, tally.regenerated, tally.dropped) == (1, 0, {BELOW_FLOOR: 1})


def test_a_sample_whose_calls_fail_is_dropped_with_what_failed(tmp_path: Path) -> None:
    tally, tables = select(tmp_path, Scripted({"a": ["!", "!"], "b": ["0.9", "!"], "c": ["0.9", "0.8"]}))
    (row,) = tables["cot_dropped"]
    assert (row["sample_id"], row["reason"], row["detail"]) == (0, SET_ASIDE, "too long")
    assert tally.set_aside == {"too long": 1}
    assert [row["sample_id"] for row in tables["cot"]] == [1, 2]  # one text of two is enough to choose from
