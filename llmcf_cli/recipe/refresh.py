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
    """Share of the rows that are new to the examples. If not set: the share that `cot.sample` takes of the rows before
    them."""


class FinetuneSection(Config):
    """How a trained model continues to learn (level `finetune`); all other training settings are those of `rec.fit`."""

    replay: Share = 0.5
    """Share of the already learned rows that the model sees again, to limit forgetting. It is 0 if the model reads
    `signals`, because a bundle keeps no signals computed without such a row's own label."""
    epochs: Positive = 10
    """Maximum number of passes over the new and the replayed rows. Validation decides which epoch's weights are kept;
    if none beats the starting weights, those are kept."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Learning rate of Adam."""


class LearnedSection(Config):
    """One occasion on which the model learned."""

    additions: Annotated[int, Field(ge=0)]
    """How many entries of `dataset.added` the model knew then; later entries were new to it."""
    recut: CutsSection | None = None
    """The cuts by which it learned from them, as in `dataset.recut`. If not set: those of `dataset.split`."""
    finetune: FinetuneSection | None = None
    """If set, the weights were fine-tuned, with these settings."""
    examples: NewExamplesSection | None = None
    """If set, these rows became examples and the weights stayed. If neither this nor `finetune` is set, the model was
    trained on all rows."""

    @property
    def level(self) -> RefreshLevel:
        """The level by which it learned."""
        return "finetune" if self.finetune else "examples" if self.examples else "full"

    @rule("finetune", "examples")
    def _one_way(self) -> Iterator[Broken]:
        if self.finetune and self.examples:
            yield Broken("cannot be combined with finetune; give each its own entry", ("examples",))


class RefreshSection(Config):
    """How a trained model is brought up to date with later rows. `llmcf refresh` writes `level`, `arm`, `seed` and
    `learned`; the rest is yours to set."""

    level: RefreshLevel = "items"
    """What the refresh updates. `items`: text vectors of new items, the catalogue and users' histories; weights,
    vocabularies, examples and their texts stay, and no language model is called. `examples`: as `items`, and some of
    the new rows become examples with new texts; texts about users and items are updated if the model reads them;
    weights and existing texts of examples stay. `finetune`: as `items`, and the weights continue to learn from the rows
    that are new to them, with embeddings for new values. `full`: everything, on all rows."""
    arm: str | None = None
    """Arm of the comparison whose model is refreshed. If not set, no model is refreshed."""
    seed: Seed | None = None
    """Seed that this model was trained with."""
    learned: Annotated[tuple[LearnedSection, ...], Field(min_length=1, max_length=1000)] = Field(
        default=({"additions": 0},), validate_default=True
    )
    """When the model learned, oldest first: first its training, then each refresh that learned."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the rows no model has learned from that becomes the validation split, which chooses the epoch. A level
    that learns moves the cuts: the newest of these rows become test, those before them validation, and the model learns
    from the rest."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the same rows that becomes the test split, on which `llmcf promote` compares."""
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
            yield Broken(f"validation + test is {self.validation + self.test:g}, which leaves nothing to train on")

    @rule("learned")
    def _learned_in_order(self) -> Iterator[Broken]:
        for place, (one, after) in enumerate(zip(self.learned, self.learned[1:], strict=False), 1):
            again = place > 1 and after.additions == one.additions and after.level != one.level
            if after.additions <= one.additions and not again:
                yield Broken(f"is {after.additions}, but must be more than before", ("learned", place, "additions"))
            if after.level == "full" or after.recut is None:
                what = "a trained model continues with `finetune` or `examples`, and with its own cuts"
                yield Broken(what, ("learned", place))

    @rule("level", "learned")
    def _last_is_to_come(self) -> Iterator[Broken]:
        if self.level in ("finetune", "examples") and (len(self.learned) < 2 or self.learned[-1].level != self.level):
            yield Broken(f"the last entry must say how to make the level `{self.level}`", ("learned",))
