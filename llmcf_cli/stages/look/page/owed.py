"""What the predictions of single samples owe to the examples that their arm was given.

Legend: N samples, K examples of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from llmcf_cli.core.errors import StoreError
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.stages.look.made import Predicted
from llmcf_cli.stages.steps.match import Match, MatchOutput
from llmcf_cli.stages.steps.predict import PredictOutput
from llmcf_cli.stages.steps.train_rec import TrainRec, TrainRecOutput
from llmcf_cli.store.open import connect_read, read_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmcf_cli.rec.bundle.bundle import Bundle
    from llmcf_cli.rec.model import RecModel
    from llmcf_cli.rec.tasks.base import Task
    from llmcf_cli.rec.train.without import Moved

CLOSE = 1e-3
"""How far an answer may lie from the stored one: sums on another device, in another order."""


@dataclass(frozen=True)
class ExampleOwed:
    """By how much an answer falls, the mean over the seeds, when a part of an example is taken away.

    Attributes:
        whole: The example.
        reasoning: What its chain of thought says: it then says what all of the bank say, on average.
        label: Its label: the mean over both.
    """

    whole: float
    reasoning: float
    label: float


@dataclass(frozen=True)
class Owed:
    """What the answer for a sample owes to its examples.

    Attributes:
        without: The answer without any example.
        examples: In the order of the matches, empty places left out.
    """

    without: float
    examples: tuple[ExampleOwed, ...]


def owed_of(arm: Sequence[Predicted], task: Task, answer: str, sample_ids: Sequence[int]) -> dict[int, Owed]:
    """What the answers of an arm owe to the examples that its samples were matched with; nothing where it reads none.

    The models of all seeds answer again, with one thing changed at a time.

    Args:
        arm: Its predictions, one for each seed.
        task: What it predicts.
        answer: A column of `task.answer`.
        sample_ids: Samples of the test split.

    Raises:
        StoreError: Something is gone or damaged, or a model does not answer as it did.
    """
    made = arm[0].made
    match = next(made.below(Match.name), None)
    if match is None or not sample_ids:
        return {}
    chosen = pa.table({"sample_id": pa.array(sample_ids, pa.int64()), "place": range(len(sample_ids))})
    with connect_read(IngestOutput(next(made.below("ingest")).folder).database) as con:
        con.register("chosen", chosen)
        rows = con.sql("SELECT sample.* FROM chosen JOIN sample USING (sample_id) ORDER BY place").to_arrow_table()
        found = con.execute(
            "SELECT example_sample_id FROM chosen JOIN read_parquet(?) USING (sample_id) ORDER BY place",
            [str(MatchOutput(match.folder).matches)],
        ).fetchall()
    example_NK = np.array([row[0] for row in found], np.int64)
    moves = [_moved(one, task, answer, rows, example_NK) for one in arm]
    return {sample: _mean(moves, n, example_NK[n]) for n, sample in enumerate(sample_ids)}


def _moved(predicted: Predicted, task: Task, answer: str, rows: pa.Table, example_NK: NDArray[np.int64]) -> Moved:
    from llmcf_cli.features.batch import encode_rows, to_batch
    from llmcf_cli.rec.bundle.bundle import load_bundle
    from llmcf_cli.rec.input.examples import EXAMPLES
    from llmcf_cli.rec.train.predict import score
    from llmcf_cli.rec.train.without import moved

    folder = TrainRecOutput(predicted.made.need(TrainRec.name).folder).bundle
    bundle = load_bundle(folder)
    resources = bundle.model.resources
    samples = encode_rows(rows, resources.spec.history_length)
    beside = {
        name: one.answers(resources, bundle.clock)(resources, samples)
        for name, one in bundle.inputs.items() if name != EXAMPLES
    }  # fmt: skip

    def answers(model: RecModel, examples: Mapping[str, NDArray[np.int32]]) -> NDArray[np.floating[Any]]:
        batch = to_batch(samples, model.device, inputs={**beside, **examples})
        found: NDArray[np.floating[Any]] = task.answer(score(model, batch, len(samples)).cpu().numpy())[answer]
        return found

    result = moved(_pair_model(bundle), _positions(bundle, example_NK), answers)
    stored = read_parquet(PredictOutput(predicted.made.folder).predictions, ["sample_id", *task.predicted])
    at = np.searchsorted(stored["sample_id"].to_numpy(), samples.sample_id_N)
    before_N = task.answer(task.read(stored.take(at)))[answer]
    apart = float(np.abs(result.whole_N - before_N).max())
    if not apart <= CLOSE:
        raise StoreError(
            f"answers differ from the stored ones by {apart:.3g}", code="predictions-unfit", where=str(folder),
            hint="llmcf run RECIPE --force train-rec",
        )  # fmt: skip
    return result


def _pair_model(bundle: Bundle) -> RecModel:
    from llmcf_cli.rec.model import RecModel

    assert isinstance(bundle.model, RecModel), "what has examples scores pairs"
    return bundle.model


def _positions(bundle: Bundle, example_NK: NDArray[np.int64]) -> NDArray[np.int32]:
    """Sample ids of examples as positions in the model's bank, -1 where there is none."""
    from llmcf_cli.rec.input.examples import EXAMPLES

    known_E = bundle.model.resources.get(EXAMPLES).samples.sample_id_N
    index_NK = np.minimum(np.searchsorted(known_E, example_NK), len(known_E) - 1)
    if not ((known_E[index_NK] == example_NK) | (example_NK == -1)).all():
        raise StoreError(
            "a match names an example that the model does not have", code="match-broken", where="example_match",
            hint="llmcf run RECIPE --force train-rec",
        )  # fmt: skip
    return np.where(example_NK == -1, -1, index_NK).astype(np.int32)


def _mean(moves: Sequence[Moved], n: int, example_K: NDArray[np.int64]) -> Owed:
    def mean(name: str) -> Any:
        return np.mean([getattr(one, name)[n] for one in moves], axis=0)

    parts = zip(mean("example_NK"), mean("reasoning_NK"), mean("label_NK"), example_K, strict=True)
    examples = tuple(ExampleOwed(float(w), float(r), float(y)) for w, r, y, example in parts if example != -1)
    return Owed(float(mean("whole_N") - mean("all_N")), examples)
