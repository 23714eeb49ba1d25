"""Retrieval: which item of the whole catalogue a user takes next.

Legend: N queries, I items, K listed items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.measure.base import Measure, Truth
from llmcf_cli.rec.measure.slices import cold_start_slices
from llmcf_cli.rec.retrieval.config import CUTOFFS, RetrievalConfig
from llmcf_cli.rec.retrieval.measures import HR, MRR, NDCG, TABLED, Coverage, ListMeasure, Novelty, Popularity
from llmcf_cli.rec.retrieval.ranked import LISTED, items_of, rank_of, scores_of
from llmcf_cli.rec.tasks.base import ListTask, Singles

HEAD = 0.2
"""Share of the catalogue, its most popular items, that is the head."""
_BY_RANK = (NDCG, HR, MRR)
_LENGTHS = (10, *(cutoff for cutoff in CUTOFFS if cutoff != 10))


class Retrieval(ListTask):
    """Every positive sample asks: which item does this user take now? Answered by a list of the whole catalogue."""

    measures: Sequence[Measure] = (
        *(kind(cutoff) for cutoff in _LENGTHS for kind in _BY_RANK), Coverage(10), Popularity(10), Novelty(10)
    )  # fmt: skip
    truth = pa.field("target", pa.int32(), nullable=False)
    output = (
        pa.field("rank", pa.int32(), nullable=False), pa.field("listed", pa.list_(pa.int32(), LISTED), nullable=False),
        pa.field("scores", pa.list_(pa.float32(), LISTED), nullable=False),
    )  # fmt: skip
    condition: ClassVar[str] = "label = 1"
    listed: ClassVar[int] = LISTED
    config: RetrievalConfig

    @property
    def filter_seen(self) -> bool:
        """As the settings say."""
        return self.config.filter_seen

    @property
    def protocol(self) -> Sequence[str]:  # type: ignore[override]
        """What is ranked, what is left out, how ties are broken, and what is averaged."""
        seen = "items that the user took earlier are left out" if self.config.filter_seen else "seen items stay in"
        return (
            f"the target's rank among all items of the catalogue; {seen}; equal scores by a fixed pseudo-random order "
            "of the items",
            "measures are means over users of the means over their queries; intervals and tests are over users",
        )

    def target(self, con: Any, samples: Samples) -> NDArray[np.float32]:
        """Item rows; float32 holds those of 16 million items exactly."""
        return samples.item_row_N.astype(np.float32)

    def check(self, truth: Truth, split: str) -> None:
        """There must be two users with a query, for tests over users."""
        if len(np.unique(truth.user_row_N)) < 2:
            raise DataError(
                f"the {split} split has queries of fewer than two users", code="no-positives", where="dataset",
                hint="check dataset.label and dataset.split",
            )  # fmt: skip

    def columns(self, prediction: NDArray[Any]) -> Mapping[str, Any]:
        """Rank (0: left out of the list), the list's item rows, and their scores."""
        rank, listed, scores = self.output
        return {
            rank.name: pa.array(rank_of(prediction)).cast(rank.type),  # refuses NaN
            listed.name: pa.FixedSizeListArray.from_arrays(
                pa.array(items_of(prediction).astype(np.int32).ravel()), LISTED
            ),
            scores.name: pa.FixedSizeListArray.from_arrays(pa.array(scores_of(prediction).ravel()), LISTED),
        }

    def read(self, stored: pa.Table) -> NDArray[np.float64]:
        """float64 [N, 1 + 2 K], as `rec.retrieval.ranked` has predictions."""
        rank, listed, scores = (stored[field.name].combine_chunks() for field in self.output)
        lists = [part.flatten().to_numpy().reshape(-1, LISTED) for part in (listed, scores)]
        return np.concatenate([rank.to_numpy()[:, None], *lists], 1).astype(np.float64)

    def read_by(self, measures: Sequence[Measure]) -> int:
        """The greatest cutoff; `listed` for measures that have none."""
        return max((m.cutoff if isinstance(m, ListMeasure) else LISTED for m in measures), default=LISTED)

    def of_lists(self, item_row_NK: NDArray[np.int64], score_NK: NDArray[np.float32], truth: Truth) -> NDArray[Any]:
        """float64 [N, 1 + 2 K]; the rank of a target that is not in its list is 0, as of one that is left out."""
        hit_NK = item_row_NK == truth.target_N.astype(np.int64)[:, None]
        rank_N = np.where(hit_NK.any(1), 1 + hit_NK.argmax(1), 0)
        return np.concatenate([rank_N[:, None], item_row_NK, score_NK], 1).astype(np.float64)

    def answer(self, prediction_N: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        """`score`, float32: the dot product of user and item."""
        return {"score": prediction_N}

    def singles(self, prediction: NDArray[Any], truth: Truth) -> Singles:
        """NDCG of each query's list, the target's rank, and the list."""
        gain = NDCG(TABLED)
        rank_N = rank_of(prediction).astype(np.float64)
        return Singles(gain.title, gain.of_queries(prediction, truth), "target's rank", rank_N, 1, items_of(prediction))

    def slices(self, train: Samples, test: Samples) -> dict[str, NDArray[np.bool_]]:
        """The cold-start slices, and those of head and tail."""
        size = 1 + int(max(train.item_row_N.max(initial=0), test.item_row_N.max(initial=0)))
        count_I = np.bincount(train.item_row_N, minlength=size)
        order_I = np.argsort(-count_I[1:], kind="stable") + 1
        head_N = np.isin(test.item_row_N, order_I[: max(1, int(HEAD * len(order_I)))])
        ends = {f"head items (most popular {HEAD:.0%})": head_N, "tail items": ~head_N}
        return {**cold_start_slices(train, test), **{name: mask for name, mask in ends.items() if mask.any()}}
