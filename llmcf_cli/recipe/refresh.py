"""The section `refresh`: a trained model brought up to date with later rows."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from llmcf_cli.core.types import Broken, Config, rule
from llmcf_cli.recipe.dataset import CutsSection
from llmcf_cli.recipe.sections import Positive, Seed, Share

RefreshLevel = Literal["items", "examples", "finetune", "full"]
"""What a refresh makes anew, cheapest first."""


class NewExamplesSection(Config):
    """Which later rows the language model writes about (level `examples`)."""

    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the rows that are new to the examples; none: the share that `cot.sample` takes of those before them."""


class FinetuneSection(Config):
    """How a trained model learns on (level `finetune`); what else training goes by is `rec.fit`."""

    replay: Share = 0.5
    """Share of the rows it has learned from that it sees again, against forgetting. 0 where it reads `signals`, as a
    bundle keeps none that were made without such a row's own label."""
    epochs: Positive = 10
    """Most passes over the new rows and those seen again. Validation decides which one's weights are kept; if none is
    better than before, those of before."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Step size of Adam."""


class LearnedSection(Config):
    """A time at which the model learned."""

    additions: Annotated[int, Field(ge=0)]
    """How many of `dataset.added` it knew; those after them are new to it."""
    recut: CutsSection | None = None
    """The cuts by which it learned from them, as `dataset.recut`; none: those of `dataset.split`."""
    finetune: FinetuneSection | None = None
    """How its weights learned on."""
    examples: NewExamplesSection | None = None
    """Which rows became examples, its weights being those of before. Neither: it was trained on all rows."""

    @property
    def level(self) -> RefreshLevel:
        """The level by which it learned."""
        return "finetune" if self.finetune else "examples" if self.examples else "full"

    @rule("finetune", "examples")
    def _one_way(self) -> Iterator[Broken]:
        if self.finetune and self.examples:
            yield Broken("is given beside finetune; each has an entry of its own", ("examples",))


class RefreshSection(Config):
    """A trained model brought up to date with later rows. `llmcf refresh` writes `level`, `arm`, `seed` and `learned`;
    the rest is yours to set."""

    level: RefreshLevel = "items"
    """What is made anew. `items`: text vectors of new items, the catalogue and users' histories; weights, vocabularies,
    examples and their texts stay as they are, and no language model is asked. `examples`: besides, some of the new rows
    become examples, with new texts; what is written about users and items is brought up to date where the model reads
    that. Weights and earlier texts of examples stay. `finetune`: `items`, and the weights learn on from the rows that
    are new to them, with embeddings for new values. `full`: everything, on all rows."""
    arm: str | None = None
    """Arm of the comparison whose model it is; none: there is nothing to bring up to date."""
    seed: Seed | None = None
    """Seed of that model."""
    learned: Annotated[tuple[LearnedSection, ...], Field(min_length=1, max_length=1000)] = Field(
        default=({"additions": 0},), validate_default=True
    )
    """When the model learned: first its training, then what followed, oldest first."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of the rows that no model has learned from, the share that chooses among epochs. Levels that learn put the cuts
    so that the newest rows are test, those before them validation, and the rest is learned from."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of these rows for the newest test samples, by which `llmcf promote` compares."""
    finetune: FinetuneSection = FinetuneSection()
    """How the level `finetune` learns."""
    examples: NewExamplesSection = NewExamplesSection()
    """What the level `examples` writes about."""

    @rule("arm", "seed")
    def _names_a_model(self) -> Iterator[Broken]:
        if (self.arm is None) != (self.seed is None):
            yield Broken("a model has an arm and a seed: give both or neither")

    @rule("validation", "test")
    def _leaves_some_to_learn_from(self) -> Iterator[Broken]:
        if self.validation + self.test >= 1:
            yield Broken(f"validation + test is {self.validation + self.test:g}, which leaves nothing to learn from")

    @rule("learned")
    def _learned_in_order(self) -> Iterator[Broken]:
        for place, (one, after) in enumerate(zip(self.learned, self.learned[1:], strict=False), 1):
            again = place > 1 and after.additions == one.additions and after.level != one.level
            if after.additions <= one.additions and not again:
                yield Broken(f"is {after.additions}, not more than before", ("learned", place, "additions"))
            if after.level == "full" or after.recut is None:
                what = "a trained model learns on by `finetune` or `examples`, under cuts of its own"
                yield Broken(what, ("learned", place))

    @rule("level", "learned")
    def _last_is_to_come(self) -> Iterator[Broken]:
        if self.level in ("finetune", "examples") and (len(self.learned) < 2 or self.learned[-1].level != self.level):
            yield Broken(f"the last entry is how the level `{self.level}` is to be made", ("learned",))
