"""What a recipe may say: every section and field, with its meaning and default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from llmcf_cli.core.types import ComponentConfig, Config, FilePath, Runtime
from llmcf_cli.recipe.component import ComponentOf

Source = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("source")]
Label = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("label")]
Split = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("split")]
MixSource = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("mix_source")]
Tuner = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("tuner")]
Engine = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("engine")]
Judge = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("judge")]
Space = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("space")]
Searcher = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("searcher")]
Backbone = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("backbone")]
Augmenter = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("augmenter")]
Objective = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("objective")]

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class HistorySection(Config):
    """Which of a user's earlier events a sample carries."""

    max_length: Positive = 20
    """Most recent events kept, all strictly before the sample's own time."""
    events: Literal["positive", "all"] = "positive"
    """`positive`: only liked or clicked items (as in DIN); `all`: every earlier interaction."""


class KCoreSection(Config):
    """Least number of interactions a user and an item must have; repeated until stable."""

    user: Annotated[int, Field(ge=0)] = 0
    """Least interactions per user; 0 and 1 filter nothing."""
    item: Annotated[int, Field(ge=0)] = 0
    """Least interactions per item."""


class TextSection(Config):
    """How an item and a user read in prompts and to the text encoder: Mustache templates over their columns."""

    item: str = ""
    """e.g. `{{movie_title}} ({{release_year}})`. Empty: all item columns, joined by commas."""
    user: str = ""
    """e.g. `a {{age}}-year-old {{occupation}}`. Empty: all user columns, joined by commas."""


class DatasetSection(Config):
    """The data set and how samples are made from it (`ingest`)."""

    source: Source
    """Where the raw tables are and how to read them."""
    label: Label
    """What counts as a positive sample, and where negatives come from."""
    split: Split
    """Which samples are for training, validation and test."""
    history: HistorySection = HistorySection()
    """The events before a sample that the models see."""
    k_core: KCoreSection = KCoreSection()
    """Filter for users and items with few interactions."""
    text: TextSection = TextSection()
    """Texts of items and users."""
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of unparsable rows past which ingest stops instead of dropping them."""


class MixPart(Config):
    """One ingredient of the tuning mix."""

    source: MixSource
    """Where the instruction–answer pairs come from."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the mix's samples; the shares of a mix sum to 1."""


class LLMSection(Config):
    """The language model and its tuning (`train-llm`)."""

    model: FilePath
    """`asset:NAME` or a folder in Hugging Face format holding a causal language model."""
    mix: tuple[MixPart, ...] = Field(min_length=1)
    """Recommendation and general instruction data, by share."""
    count: Positive | None = None
    """Samples in the mix; None takes the most that the shares allow without repeating any."""
    tune: Tuner
    """How the weights are updated."""

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> LLMSection:
        total = sum(part.share for part in self.mix)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of llm.mix sum to {total:g}, not 1")
        return self


class CoTSampleSection(Config):
    """Which train samples get a chain of thought."""

    count: Positive | None = None
    """Number of train samples."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the train samples (the paper: 0.1)."""
    balance: Literal["none", "labels"] = "none"
    """`labels`: as many positive as negative samples, as far as there are enough."""

    @model_validator(mode="after")
    def _one_size(self) -> CoTSampleSection:
        if (self.count is None) == (self.fraction is None):
            raise ValueError("give either count or fraction")
        return self


class CoTSection(Config):
    """Chains of thought for a sample of the train interactions (`gen-cot`)."""

    prompt: FilePath
    """A prompt file, relative to the recipe or one of the library's, e.g. `prompts/single.yaml`."""
    sample: CoTSampleSection
    """The train samples that are written about."""
    engine: Engine
    """What generates the text, and its decoding settings."""
    judge: Judge = Field(default="rubric", validate_default=True)
    """Scores the candidates of a sample; the best is kept."""


class CollaborativeSection(Config):
    """The collaborative space: item vectors from who took what in the train split (`collab`)."""

    dim: Positive = 64
    """Numbers per vector; fewer where users or items are fewer."""
    folds: Annotated[int, Field(ge=2, le=100)] = 10
    """Parts that users are dealt into; a train row is matched with vectors made without its part."""


class MatchSection(Config):
    """Which examples a sample sees (`embed` and `match`), and the collaborative space (`collab`)."""

    space: Space
    """How queries and examples become vectors."""
    search: Searcher = Field(default="exact", validate_default=True)
    """How the nearest examples are found."""
    k: Positive = 4
    """Examples per sample (the paper's K)."""
    balance: Literal["labels", "none"] = "labels"
    """`labels`: half positive and half negative examples (the paper); `none`: the nearest, whatever their label."""
    collaborative: CollaborativeSection = CollaborativeSection()
    """Item vectors from the train positives; made where an arm reads them."""

    @model_validator(mode="after")
    def _even(self) -> MatchSection:
        if self.balance == "labels" and self.k % 2:
            raise ValueError(f"match.k is {self.k}, but balance: labels needs an even number")
        return self


class FitSection(Config):
    """The training loop of `train-rec`."""

    batch_size: Positive = 512
    """Samples per step (over all processes)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Step size of Adam."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """L2 penalty as Adam's weight decay."""
    epochs: Positive = 30
    """Most passes over the train split."""
    patience: Annotated[int, Field(ge=0)] = 2
    """Epochs without a better validation score before stopping; the best epoch's weights are kept."""
    monitor: Literal["auc", "logloss", "gauc"] = "auc"
    """Validation metric that early stopping and every choice go by."""
    evaluation_batch_size: Annotated[Positive, Runtime()] = 4096
    """Samples per forward pass in evaluation."""


class RecSection(Config):
    """The recommender (`train-rec` and `evaluate`)."""

    task: Literal["ranking"] = "ranking"
    """`ranking`: predict the label of a (user, item) pair."""
    backbone: Backbone
    """The collaborative-filtering model."""
    augment: Augmenter = Field(default="ict", validate_default=True)
    """Where the extra context feature comes from; the arm that is bundled for serving."""
    objectives: tuple[Objective, ...] = Field(default=("bce",), min_length=1, validate_default=True)
    """Losses, summed with their weights. One that an arm has no input for does not apply to that arm."""
    fit: FitSection = FitSection()
    """Optimiser, batch size and stopping."""
    compare: tuple[Augmenter, ...] = ()
    """Arms to train beside `augment`, each with the same backbone and fit; `augment` itself is always one."""
    seeds: tuple[int, ...] = ()
    """One run per arm and seed; empty means the recipe's own seed."""


class Recipe(Config):
    """One run of LLM-CF, from raw data to a served model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)
    """Name of the run; letters, digits, `_`, `.` and `-`."""
    description: str = ""
    """What the recipe is for, in a sentence."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 2024
    """The number every random choice is derived from."""
    dataset: DatasetSection
    """Data set, labels, split and history."""
    llm: LLMSection
    """Language model and tuning mix."""
    cot: CoTSection
    """Chain-of-thought generation."""
    match: MatchSection
    """Example retrieval."""
    rec: RecSection
    """Recommender and comparison."""
