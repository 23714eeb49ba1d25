"""What a scorer answers.

Legend: N candidates of all lists, n lists, K examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Unknown:
    """What a bundle does not know of some requests.

    Attributes:
        ids: Different ids.
        requests: Requests with such an id.
        examples: A few of the ids, in the order of the requests.
        missing: Requests that name nobody.
    """

    ids: int
    requests: int
    examples: tuple[str, ...] = ()
    missing: int = 0


@dataclass(frozen=True)
class Added:
    """Items that a scorer knows from now on.

    Attributes:
        items: How many.
        without_text: Those without a text vector, which a model that reads texts scores as items without a text; 0 if
            the model reads none.
    """

    items: int
    without_text: int


@dataclass(frozen=True)
class KeptHistories:
    """Requests that bring no history.

    Attributes:
        requests: How many there are.
        kept: Those that are scored by events which the bundle keeps; the others are scored without any.
    """

    requests: int
    kept: int


@dataclass(frozen=True)
class Scores:
    """What the model gives for users' lists of candidates.

    Attributes:
        score_N: float32, of each candidate.
        item_known_N: bool, whether the catalogue has it.
        user_known_n: bool, whether training saw the user of each list.
        event_n: int64, events of history that were read for each list: given, or kept in the bundle.
        lacking_n: int64, events of each given history that the catalogue lacks.
    """

    score_N: NDArray[np.float32]
    item_known_N: NDArray[np.bool_]
    user_known_n: NDArray[np.bool_]
    event_n: NDArray[np.int64]
    lacking_n: NDArray[np.int64]


@dataclass(frozen=True)
class Explained(Scores):
    """Scores with their examples.

    Attributes:
        example_NK: int32 positions in the bundle's examples, best first; -1 where there are fewer than K.
        likeness_NK: float32, each example's score in the search.
        moved_NK: float32, by how much `score_N` falls when the example is taken away.
    """

    example_NK: NDArray[np.int32]
    likeness_NK: NDArray[np.float32]
    moved_NK: NDArray[np.float32]
