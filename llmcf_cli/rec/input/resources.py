"""What models look things up in: fields and their values, the catalogue, vectors, examples, knowledge.

Legend: E examples in the bank, I items, T text, S search space, G signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmcf_cli.features.batch import Catalog, Samples
from llmcf_cli.features.collaborative import Collaborative
from llmcf_cli.features.histories import Histories
from llmcf_cli.features.spec import FeatureSpec, Vocab
from llmcf_cli.rec.input.knowledge import Knowledge


@dataclass(frozen=True)
class ExampleBank:
    """The in-context examples (x_i, cot_i, y_i).

    Attributes:
        samples: x_i and y_i.
        cot_ET: float32, vector of each chain of thought.
        vector_ES: float32, what each is found by in the search space; None where nothing will search.
        signal_EG: float32, matching signals of each as a train row; None without collaborative vectors.
    """

    samples: Samples
    cot_ET: np.ndarray
    vector_ES: np.ndarray | None = None
    signal_EG: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Resources:
    """What a model looks things up in: all it needs beside its weights.

    Attributes:
        spec: Fields.
        vocab: Their values.
        catalog: Encoded users and items.
        item_text_IT: float32 [I + 1, T], unit rows, row 0 zeros; None without text vectors.
        bank: Examples; None without.
        num_examples: K; 0 without examples.
        knowledge: Knowledge about users and items; None without.
        collaborative: Collaborative vectors and popularity of items; None without.
        histories: Latest events of the users, for requests without a history; None without. No model reads them.
    """

    spec: FeatureSpec
    vocab: Vocab
    catalog: Catalog
    item_text_IT: np.ndarray | None = None
    bank: ExampleBank | None = None
    num_examples: int = 0
    knowledge: Knowledge | None = None
    collaborative: Collaborative | None = None
    histories: Histories | None = None
