"""Single samples of the test split: what the arms said, what they saw and owe to it. Gains, losses, and a fair draw.

Legend: N test samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    from llmcf_cli.rec.measure.base import Measure, Truth
    from llmcf_cli.rec.tasks.base import Task

EACH = 3
"""Cases of a kind."""
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
        gain: By how much the loss is less than the reference's.
        owed: What the arm's answer owes to its examples; None where it reads none.
    """

    kind: str
    shown: Explanation
    scores: Mapping[str, float]
    gain: float
    owed: Owed | None


@dataclass(frozen=True)
class Cases:
    """Cases of an arm against a reference.

    Attributes:
        arm, reference: The two.
        measure: What is gained or lost, per sample.
        answer: What scores are.
        cases: In the order of `KINDS`.
    """

    arm: str
    reference: str
    measure: str
    answer: str
    cases: tuple[Case, ...]

    @property
    def counterfactual(self) -> bool:
        """Whether the arm reads examples, so that they can be taken away."""
        return any(case.owed is not None for case in self.cases)


def find_cases(run: Run, task: Task, arm: str, references: Sequence[str]) -> Cases | None:
    """Cases of an arm against the last other reference; None where there is no other, or no loss per sample.

    Raises:
        StoreError: Something that a case shows is gone or damaged.
    """
    made = {name: [p for p in run.predicted if p.arm == name] for name in dict.fromkeys(p.arm for p in run.predicted)}
    others = [name for name in references if name in made and name != arm]
    loss = next((m for m in task.measures if m.name == "logloss"), None)
    if arm not in made or not others or loss is None:
        return None
    reference = others[-1]
    columns = ["sample_id", "user_row", task.truth.name, *task.predicted]
    stored = read_parquet(PredictOutput(made[arm][0].made.folder).predictions, columns)
    truth = task.read_truth(stored)
    predicted = {name: [_read(task, p) for p in group] for name, group in made.items()}
    scores = {name: [task.answer(one) for one in group] for name, group in predicted.items()}
    answer = list(scores[arm][0])[-1]  # of the ranking task the probability, which people can read
    means = {name: np.mean([one[answer] for one in group], axis=0) for name, group in scores.items()}
    gain_N = _loss(loss, predicted[reference], truth) - _loss(loss, predicted[arm], truth)
    database = IngestOutput(next(made[arm][0].made.below("ingest")).folder).database
    chosen = _chosen(gain_N, stored["sample_id"].to_numpy(), database, run.key)
    ids = {place: int(stored["sample_id"][place].as_py()) for _, place in chosen}
    owed = owed_of(made[arm], task, answer, list(ids.values()))
    cases = tuple(
        Case(
            kind, _explained(made[arm][0].made, ids[place]), {name: float(mean[place]) for name, mean in means.items()},
            float(gain_N[place]), owed.get(ids[place]),
        )
        for kind, place in chosen
    )  # fmt: skip
    return Cases(arm, reference, loss.title, answer, cases)


def _read(task: Task, predicted: Predicted) -> NDArray[np.float32]:
    return task.read(read_parquet(PredictOutput(predicted.made.folder).predictions, task.predicted))


def _loss(loss: Measure, predicted: Sequence[NDArray[np.float32]], truth: Truth) -> NDArray[np.float64]:
    mean_N: NDArray[np.float64] = np.mean([loss.values(one, truth).unit_U for one in predicted], axis=0)
    return mean_N


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
