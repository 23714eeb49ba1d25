"""Test predictions of a trained model that is given random examples instead of the ones that matching finds.

Legend: N test samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcf_cli.core.errors import ModelError, StoreError
from llmcf_cli.core.progress import Progress

if TYPE_CHECKING:
    from llmcf_cli.features.batch import Samples
    from llmcf_cli.rec.bundle.bundle import Bundle
    from llmcf_cli.rec.tasks.base import Task

BLOCK = 4096


def drawn_predictions(
    folder: Path, database: Path, task: Task, sample_id: Any, progress: Progress, *, seed: int = 0
) -> np.ndarray:  # fmt: skip
    """Score the test split with examples drawn at random under the recipe's guards, balance and limits.

    Args:
        folder: The trained model's bundle.
        database: DuckDB file of ingest.
        task: What the model predicts.
        sample_id: Ids of the samples that were predicted, in their order.
        progress: Told of samples done.
        seed: Of the draw.

    Returns:
        What the task measures of each sample: numbers as float32 [N], lists as float64 [N, …].

    Raises:
        StoreError: The predictions are of other samples than the test split's.
    """
    from llmcf_cli.rec.bundle.bundle import load_bundle
    from llmcf_cli.rec.input.dataset import load_task_data

    bundle = load_bundle(folder)
    data = load_task_data(database, task, history_length=bundle.model.resources.spec.history_length)
    test = data.splits["test"]
    if not np.array_equal(test.sample_id_N, np.asarray(sample_id)):
        raise StoreError(
            "the predictions are of other samples", code="predictions-unfit", where=str(folder), hint="llmcf run RECIPE"
        )
    draw = _Draw(bundle, seed)
    prediction_N = np.empty((len(test), *draw.model.predicted), np.float64 if draw.model.predicted else np.float32)
    with progress.task("random examples", len(test), "samples") as told:
        for start in range(0, len(test), BLOCK):
            block = slice(start, min(start + BLOCK, len(test)))
            prediction_N[block] = draw.predictions(test.take(block))
            told.advance(block.stop - block.start)
    return prediction_N


class _Draw:
    """A model, and random examples from its own bank."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        from llmcf_cli.match.config import RandomSearchConfig

        self.model, examples = bundle.model, bundle.inputs.get("examples")
        if examples is None:
            raise ModelError(
                "the bundle has no examples to draw from",
                code="no-examples",
                where="examples",
                hint="llmcf train-rec RECIPE",
            )
        drawn = examples.config.model_copy(update={"search": RandomSearchConfig(seed=seed)})
        inputs = {**bundle.inputs, "examples": type(examples)(drawn)}
        self.answers = {name: one.answers(self.model.resources, bundle.clock) for name, one in inputs.items()}

    def predictions(self, samples: Samples) -> np.ndarray:
        """Predictions for samples outside the train split."""
        from llmcf_cli.features.batch import to_batch
        from llmcf_cli.rec.train.predict import predictions

        values = {name: answers(self.model.resources, samples) for name, answers in self.answers.items()}
        return predictions(self.model, to_batch(samples, self.model.device, inputs=values), BLOCK).cpu().numpy()
