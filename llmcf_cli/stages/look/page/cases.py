"""Single samples of the test split: what the arms said, what they saw and owe to it. Gains, losses, and a fair draw.

Legend: N test samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.plugin import registry
from llmcf_cli.stages.look.made import Made, Predicted, Run
from llmcf_cli.stages.look.page.owed import Owed, owed_of
from llmcf_cli.stages.steps.embed import EmbedOutput, Examples
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.stages.steps.match import Match, MatchOutput
from llmcf_cli.stages.steps.predict import PredictOutput
from llmcf_cli.store.open import connect_read, read_clock, read_lance, read_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmcf_cli.match.explain import Explanation
    from llmcf_cli.rec.tasks.base import Singles, Task

EACH = 3
"""Cases of a kind."""
LISTED = 5
"""Items of a list that are shown."""
KINDS = {
    "gain": "Largest gain", "loss": "Largest loss", "random": "Drawn at random",
    "cold": "Cold: drawn at random among users without history",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A test sample.

    Attributes:
        kind: A key of `KINDS`.
        shown: The sample, and what the arm was given with it; no examples where it reads none.
        scores: Arm → what it would answer, the mean over its seeds.
        listed: Arm → the first items of its first seed's list; empty where there are no lists.
        gain: By how much better it is than the reference's.
        owed: What the arm's answer owes to its examples; None where it reads none.
    """

    kind: str
    shown: Explanation
    scores: Mapping[str, float]
    listed: Mapping[str, Sequence[str]]
    gain: float
    owed: Owed | None


@dataclass(frozen=True)
class Cases:
    """Cases of an arm against a reference.

    Attributes:
        arm, reference: The two.
        measure: What is gained or lost, per sample.
        answer: What scores are.
        digits: Of scores after the point.
        cases: In the order of `KINDS`.
    """

    arm: str
    reference: str
    measure: str
    answer: str
    digits: int
    cases: tuple[Case, ...]

    @property
    def counterfactual(self) -> bool:
        """Whether the arm reads examples, so that they can be taken away."""
        return any(case.owed is not None for case in self.cases)


def find_cases(run: Run, task: Task, arm: str, references: Sequence[str]) -> Cases | None:
    """Cases of an arm against the last other reference; None where there is no other, or the task tells nothing of
    single samples.

    Raises:
        StoreError: Something that a case shows is gone or damaged.
    """
    made = {name: [p for p in run.predicted if p.arm == name] for name in dict.fromkeys(p.arm for p in run.predicted)}
    others = [name for name in references if name in made and name != arm]
    if arm not in made or not others:
        return None
    reference = others[-1]
    columns = ["sample_id", "user_row", task.truth.name, *task.predicted]
    stored = read_parquet(PredictOutput(made[arm][0].made.folder).predictions, columns)
    truth = task.read_truth(stored)
    told: dict[str, list[Singles]] = {}
    for name, group in made.items():
        told[name] = [one for p in group if (one := task.singles(_read(task, p), truth)) is not None]
    if not told[arm]:
        return None
    first = told[arm][0]
    means = {name: np.mean([one.answer_N for one in group], axis=0) for name, group in told.items()}
    gain_N = np.subtract(*(np.mean([one.value_N for one in told[name]], axis=0) for name in (arm, reference)))
    database = IngestOutput(next(made[arm][0].made.below("ingest")).folder).database
    chosen = _chosen(gain_N, stored["sample_id"].to_numpy(), database, run.key)
    ids = {place: int(stored["sample_id"][place].as_py()) for _, place in chosen}
    pairs = task.config.form == "pair"  # whose answers can be asked for again, one thing at a time
    owed = owed_of(made[arm], task, first.answer, list(ids.values())) if pairs else {}
    lists = {place: _lists(told, place) for _, place in chosen}
    names = _names(database, {row for of in lists.values() for rows in of.values() for row in rows})
    cases = tuple(
        Case(
            kind, _explained(made[arm][0].made, ids[place]), {name: float(mean[place]) for name, mean in means.items()},
            {name: [names[row] for row in rows] for name, rows in lists[place].items()},
            float(gain_N[place]), owed.get(ids[place]),
        )
        for kind, place in chosen
    )  # fmt: skip
    return Cases(arm, reference, first.title, first.answer, first.digits, cases)


def _read(task: Task, predicted: Predicted) -> NDArray[Any]:
    return task.read(read_parquet(PredictOutput(predicted.made.folder).predictions, task.predicted))


def _lists(told: Mapping[str, Sequence[Singles]], place: int) -> dict[str, list[int]]:
    """Arm → rows of the first items of its list for a sample."""
    found = {name: group[0].listed_NK for name, group in told.items() if group}
    return {
        name: [int(row) for row in listed_NK[place, :LISTED] if row]
        for name, listed_NK in found.items() if listed_NK is not None
    }  # fmt: skip


def _names(database: Path, rows: Collection[int]) -> dict[int, str]:
    """What people call items: their text, or their id."""
    with connect_read(database) as con:
        found = con.execute(
            "SELECT item_row, CASE text WHEN '' THEN item_id ELSE text END FROM item "
            "WHERE item_row IN (SELECT unnest(?::INTEGER[]))", [sorted(rows)],
        ).fetchall()  # fmt: skip
    return dict(found)


def _chosen(
    gain_N: NDArray[np.float64], sample_N: NDArray[np.int64], database: Path, key: str
) -> list[tuple[str, int]]:
    """(kind, place) of the cases, no place twice."""
    with connect_read(database) as con:
        rows = con.execute("SELECT sample_id FROM sample WHERE split = 'test' AND len(history) = 0").fetchall()
    cold_N = np.isin(sample_N, np.array([row[0] for row in rows], np.int64))
    order = np.argsort(-gain_N, kind="stable")
    rng = np.random.default_rng(derive_seed(int(key[:8], 16), "cases"))
    drawn = {"gain": order, "loss": order[::-1], "random": rng.permutation(len(gain_N)),
             "cold": rng.permutation(np.flatnonzero(cold_N))}  # fmt: skip
    taken: set[int] = set()
    found: list[tuple[str, int]] = []
    for kind, places in drawn.items():
        fits = [int(p) for p in places[: 4 * EACH] if int(p) not in taken and _is(kind, float(gain_N[int(p)]))][:EACH]
        taken.update(fits)
        found += [(kind, place) for place in fits]
    return found


def _is(kind: str, gain: float) -> bool:
    return gain > 0 if kind == "gain" else gain < 0 if kind == "loss" else True


def _explained(predicted: Made, sample_id: int) -> Explanation:
    """A sample, with the examples that its arm was given."""
    from llmcf_cli.match.explain import Explanation, explain, rows_of
    from llmcf_cli.match.space import SPACE

    ingest = next(predicted.below("ingest"))
    database = IngestOutput(ingest.folder).database
    match = next(predicted.below(Match.name), None)
    if match is None:
        return Explanation(rows_of(database, [sample_id])[0], (), 0, read_clock(database))
    space = match.manifest.material["match.space"]
    config = registry().get(SPACE, space["type"]).config().model_validate(space)
    texts = match.need(Examples.name).need(GenCoT.name)
    return explain(
        sample_id, config, database=database, matches=MatchOutput(match.folder).matches,
        cots=CoTOutput(texts.folder).cots,
        item_text=read_lance(EmbedOutput(match.need("embed").folder).lance, "item_text"),
        history_length=ingest.manifest.material["dataset"]["history"]["max_length"],
        query=match.manifest.material.get("match.query", "row"),
    )  # fmt: skip
