"""Chains of thought, and knowledge, about the planted world, written by rule and true to a given degree."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.config import PlantedEngineConfig
from llmcf_cli.llm.engines.base import Ingested, Subject
from llmcf_cli.llm.prompts.rows import SampleTexts
from llmcf_cli.planted.config import PlantedConfig
from llmcf_cli.planted.world import ATTRIBUTES, listed, make_world
from llmcf_cli.store.open import connect_read


class PlantedEngine:
    """Says of a sample what the world hides: the book's attributes, what the reader is after, what tipped the scales.

    Each statement is true with the chance `truth`; otherwise its value is drawn evenly, whatever is so.
    """

    def __init__(self, config: PlantedEngineConfig) -> None:
        self._config = config

    def open(self, data: Ingested) -> None:
        """Make the world again.

        Raises:
            ModelError: The data are of no planted world.
        """
        if not isinstance(data.source, PlantedConfig):
            raise ModelError(
                f"writes only about planted worlds, not the source {data.source.type}", code="engine-other-data",
                where="cot.engine planted",
                hint="set cot.engine: facts, which writes about any data",
            )  # fmt: skip
        self._world, self._seed = make_world(data.source), data.seed
        with connect_read(data.database) as connection:
            users, items = (
                dict(connection.execute(f'SELECT {e}_row, {e}_id FROM "{e}"').fetchall()) for e in ("user", "item")
            )
        self._user_of, self._item_of = ({row: int(name[1:]) for row, name in ids.items()} for ids in (users, items))

    def write(self, rows: Sequence[SampleTexts]) -> list[str]:
        """A text of a few sentences for each sample."""
        return [self._text(row) for row in rows]

    def describe(self, entity: str, subjects: Sequence[Subject]) -> list[str]:
        """What each book has, or each reader is after; `knows` does not matter, as there is nothing else to know."""
        return [self._reader(one.row) if entity == "user" else self._book(one.row) for one in subjects]

    def _book(self, row: int) -> str:
        said_A = self._told("item", row)(self._world.hidden_IA[self._item_of[row]])
        return self._sentence_of_book(said_A)

    def _reader(self, row: int) -> str:
        taste_AV = self._world.taste_UAV[self._user_of[row]]
        return self._sentence_of_reader(taste_AV, self._told("user", row)(taste_AV.argmax(1)))

    def _told(self, *of: str | int) -> Callable[[np.ndarray], np.ndarray]:
        """What is said in the place of values, each true with the chance `truth`; of the text that `of` names."""
        chance = np.random.default_rng(derive_seed(self._seed, "planted", *of))
        values, truth = self._world.taste_UAV.shape[2], self._config.truth

        def told(value_a: np.ndarray) -> np.ndarray:
            drawn_a = chance.integers(values, size=len(value_a))
            return np.where(chance.random(len(value_a)) < truth, value_a, drawn_a)

        return told

    def _sentence_of_book(self, said_A: np.ndarray) -> str:
        return f"The book has {listed([self._world.phrase(a, int(said_A[a])) for a in range(len(said_A))])}."

    def _sentence_of_reader(self, taste_AV: np.ndarray, best_A: np.ndarray) -> str:
        strongest = np.argsort(-taste_AV.max(1))[:2]
        return f"The reader likes {listed([self._world.phrase(int(a), int(best_A[a])) for a in strongest])}."

    def _text(self, row: SampleTexts) -> str:
        world, told = self._world, self._told(row.sample_id)
        hidden_A = world.hidden_IA[self._item_of[row.item_row]]
        taste_AV = world.taste_UAV[self._user_of[row.user_row]]

        sentences = []
        if "row" in self._config.knows:
            liked = f" after {row.history[-1].partition(',')[0]}" if row.history else ""
            sentences.append(f"This is about {row.item.removesuffix('.')}{liked}.")
        said_A = told(hidden_A)
        if "item" in self._config.knows:
            sentences.append(self._sentence_of_book(said_A))
        if "user" in self._config.knows:
            sentences.append(self._sentence_of_reader(taste_AV, told(taste_AV.argmax(1))))
        if "match" in self._config.knows:
            gain_A = taste_AV[np.arange(len(hidden_A)), hidden_A]
            attribute = int(np.argmax(gain_A if row.label else -gain_A))
            name = world.attributes[attribute]
            side = "for" if row.label else "against"
            sentences.append(f"What spoke {side} it was the {ATTRIBUTES[name][said_A[attribute]]} {name}.")
        return " ".join(sentences)
