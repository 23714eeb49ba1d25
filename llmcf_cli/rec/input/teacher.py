"""The language model's scores of train samples, which a loss reads.

Legend: N samples, n of them scored.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from llmcf_cli.core.errors import DataError
from llmcf_cli.rec.input.base import Input, Loaded, Made
from llmcf_cli.rec.input.places import positions
from llmcf_cli.store.open import read_parquet

TEACHER = "teacher"


class TeacherScores(Input):
    """Values of train samples: float32 [N], log(P(Yes) / P(No)), NaN where the model was not asked."""

    holds: ClassVar[bool] = False

    def load(self, made: Made) -> Loaded:
        """Of the table `teacher_score`."""
        scores, train = read_parquet(made.folders["teacher"] / "teacher_score.parquet"), made.splits["train"]
        at_n = positions(scores, train)
        if at_n is None:
            what = "a score is not of a train sample, or there are no scores"
            raise DataError(what, code="not-train", where="teacher_score", hint="llmcf teacher RECIPE")
        teacher_N = np.full(len(train), np.nan, np.float32)
        teacher_N[at_n] = scores["logit"].combine_chunks().to_numpy()
        return Loaded(rows={"train": teacher_N})
