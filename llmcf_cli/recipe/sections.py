"""The sections of a recipe: every field with its meaning and default."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny

from llmcf_cli.core.errors import closest
from llmcf_cli.core.types import (
    Broken,
    ComponentConfig,
    Config,
    Distinct,
    FilePath,
    FileRef,
    PromptPath,
    Runtime,
    TaskConfig,
    rule,
)  # fmt: skip
from llmcf_cli.recipe.component import ComponentOf, gives, names_for

MixSource = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("mix_source")]
Tuner = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("tuner")]
Engine = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("engine")]
Judge = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("judge")]
Space = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("space")]
Searcher = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("searcher")]
Predicted = Annotated[SerializeAsAny[TaskConfig], ComponentOf("task")]
Backbone = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("backbone")]
Augmenter = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("augmenter")]
Objective = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("objective")]
Baseline = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("baseline")]

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
MAX_ARMS = 100
"""Arms of one kind: of `compare`, `variants` and the like."""


class MixPart(Config):
    """One ingredient of the tuning mix."""

    source: MixSource
    """Where the instruction–answer pairs come from."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the mix's samples; the shares of a mix sum to 1."""
    max_count: Positive | None = None
    """Most samples taken from this source; None: all it has. The others make way, so that the shares hold."""


class LLMSection(Config):
    """The language model and its tuning (`train-llm`)."""

    model: FilePath
    """`asset:NAME` or a folder in Hugging Face format holding a causal language model."""
    mix: tuple[MixPart, ...] = Field(min_length=1, max_length=100)
    """Recommendation and general instruction data, by share."""
    count: Positive | None = None
    """Samples in the mix; None takes the most that the shares allow without repeating any."""
    decontaminate: Annotated[tuple[FilePath, ...], Field(max_length=1000), Distinct()] = ()
    """Files of evaluation texts: a general instruction that shares a run of 13 words with one stays out of the mix."""
    tune: Tuner
    """How the weights are updated."""

    @rule("mix")
    def _shares_sum_to_one(self) -> Iterator[Broken]:
        total = sum(part.share for part in self.mix)
        if abs(total - 1) > 1e-6:
            yield Broken(f"the shares of llm.mix sum to {total:g}, not 1", ("mix",))


class TrainSampleSection(Config):
    """Which train samples the language model is asked about."""

    count: Positive | None = None
    """Number of train samples."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the train samples (the paper: 0.1)."""
    balance: Literal["none", "labels"] = "none"
    """`labels`: as many positive as negative samples, as far as there are enough."""
    stratify: Annotated[tuple[Literal["user", "label", "time", "popularity"], ...], Distinct()] = ()
    """Groups that get their share of the samples, to within one: by user, label, time, popularity of the item in the
    train split, or several together. More samples always contain the fewer."""
    quantiles: Annotated[int, Field(ge=2, le=1000)] = 4
    """Groups of equal size that `time` and `popularity` are cut into."""

    @rule("count", "fraction")
    def _one_size(self) -> Iterator[Broken]:
        if (self.count is None) == (self.fraction is None):
            yield Broken("give either count or fraction")


class PriceSection(Config):
    """What a provider charges, for estimates."""

    input_per_million: Annotated[float, Field(ge=0)]
    """Price of a million prompt tokens."""
    output_per_million: Annotated[float, Field(ge=0)]
    """Price of a million generated tokens."""
    currency: str = Field(default="USD", min_length=1, max_length=8)
    """What the prices are in."""


class CoTSection(Config):
    """Chains of thought for a sample of the train interactions (`gen-cot`)."""

    prompt: PromptPath = "prompts/single.yaml"
    """A prompt file, relative to the recipe or one of the library's. Engines that write from the data read none."""
    sample: TrainSampleSection
    """The train samples that are written about."""
    engine: Engine
    """What generates the text, and its decoding settings."""
    judge: Judge = Field(default="rubric", validate_default=True)
    """Scores the candidates of a sample; the best is kept."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Least score of a text that is kept, in [0, 1]."""
    regenerate: Annotated[int, Field(ge=0, le=5)] = 1
    """Times that a sample without such a text is asked again, with fresh seeds, before it is dropped."""
    tries: Positive = 3
    """Failures (of a server, or for want of memory) after which a sample is set aside; `--force gen-cot` or a higher
    number tries it again."""
    price: Annotated[PriceSection | None, Runtime()] = None
    """Prices, for the estimate before a run and the bill after it."""
    review: Annotated[str | None, FileRef(), Runtime()] = None
    """Verdicts of `llmcf review`: `examples` leaves out the texts that somebody dropped. Nothing is written anew."""


class CollaborativeSection(Config):
    """The collaborative space: item vectors from who took what in the train split (`collab`)."""

    dim: Annotated[int, Field(ge=1, le=1 << 16)] = 64
    """Numbers per vector; fewer where users or items are fewer."""
    folds: Annotated[int, Field(ge=2, le=100)] = 10
    """Parts that users are dealt into; a train row is matched with vectors made without its part."""


class MatchSection(Config):
    """Which examples a sample sees (`embed` and `match`), and the collaborative space (`collab`)."""

    space: Space
    """How queries and examples become vectors."""
    search: Searcher = Field(default="exact", validate_default=True)
    """How the nearest examples are found."""
    k: Annotated[int, Field(ge=1, le=1024)] = 4
    """Examples per sample (the paper's K)."""
    balance: Literal["labels", "none"] = "labels"
    """`labels`: half positive and half negative examples (the paper); `none`: the nearest, whatever their label."""
    exclude: Literal["strict", "own_item", "reference"] = "strict"
    """`strict`: only older train rows, never the sample itself. `own_item`: besides, none of the sample's item, as a
    control. `reference`: the published code's rule, under which a train row finds itself; for measuring that leak
    only."""
    max_per_user: Positive | None = None
    """Most examples of one user among those of a sample; None: any number."""
    distinct_items: bool = False
    """Whether no two examples of a sample may be of the same item."""
    query: Literal["row", "history"] = "row"
    """What of a sample its examples are found by: history and item (`row`), or the `history` alone, as candidate
    retrieval must, where the item is what is asked for. Then neither the space, nor a guard, nor a random draw looks at
    the item; of the space's weights only `history_weight` counts."""
    collaborative: CollaborativeSection = CollaborativeSection()
    """Item vectors from the train positives; made where an arm reads them."""

    @rule("balance", "k")
    def _even(self) -> Iterator[Broken]:
        if self.balance == "labels" and self.k % 2:
            yield Broken(f"is {self.k}, but balance: labels needs an even number", ("k",))

    @rule("query", "exclude", "space.history_weight")
    def _histories_are_enough(self) -> Iterator[Broken]:
        if self.query == "row":
            return
        if self.exclude == "own_item":
            yield Broken("own_item needs the sample's item, which query: history does not look at", ("exclude",))
        if not getattr(self.space, "history_weight", 1):
            what = "is 0, but query: history finds examples by the history alone"
            yield Broken(what, ("space", "history_weight"))


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
    monitor: str | None = None
    """Validation measure that early stopping and every choice go by, one of those that the task names; None: its
    first."""
    evaluation_batch_size: Annotated[Positive, Runtime()] = 4096
    """Samples per forward pass in evaluation."""


class VariantSection(Config):
    """An arm of the comparison that differs from the recipe in more than its augmenter: a control, an ablation, KD."""

    name: str = Field(pattern=r"^[^\[\]/\\]+$", max_length=60)
    """Name of the arm in tables; no brackets or slashes."""
    set: dict[str, Any] = Field(min_length=1, max_length=100)
    """Key path → value, as with `--set`: `{match.search: random, rec.augment.heads: 4}`."""
    meaning: str = ""
    """What the arm shows, for the tables."""
    control_of: str | None = None
    """The arm that this one is a control of: the same without what should make the difference. The comparison says how
    much of that arm's gain the control has."""


class RecSection(Config):
    """The recommender (`train-rec` and `evaluate`)."""

    task: Predicted = Field(default="ranking", validate_default=True)
    """What is predicted, and how predictions are measured; the same for all arms."""
    backbone: Backbone
    """The collaborative-filtering model."""
    augment: Augmenter = Field(default="ict", validate_default=True)
    """Where the extra context feature comes from: of the one arm if `compare` names none, and of each of `variants`."""
    objectives: Annotated[tuple[Objective, ...], Field(max_length=32), Distinct()] = Field(
        default=("bce",), min_length=1, validate_default=True
    )
    """Losses, summed with their weights. One that an arm has no input for does not apply to that arm."""
    cot: Literal["own", "shuffled", "mean"] = "own"
    """Which chain of thought an example carries: its own or, as controls, that of another example of its label, or the
    mean of all."""
    fit: FitSection = FitSection()
    """Optimiser, batch size and stopping."""
    compare: Annotated[tuple[Augmenter, ...], Field(max_length=MAX_ARMS), Distinct()] = ()
    """Arms to train, each with the same backbone and fit; these and no others, besides `variants`. None given: the one
    that `augment` names."""
    variants: Annotated[tuple[VariantSection, ...], Field(max_length=MAX_ARMS), Distinct("name")] = ()
    """Further arms: the recipe with some values changed."""
    baselines: Annotated[tuple[Baseline, ...], Field(max_length=MAX_ARMS), Distinct("type")] = ()
    """Simple models from other libraries that stand in the comparison too."""
    references: Annotated[tuple[str, ...], Field(max_length=MAX_ARMS), Distinct()] = ("none", "text")
    """Arms that every other is tested against: the backbone alone, and the control that sees all but the examples."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100), Distinct()] | None = None
    """One run per arm and seed; None: one, with the recipe's own seed."""

    @property
    def monitor(self) -> str:
        """Name of the validation measure that every choice goes by."""
        return self.fit.monitor or self.task.monitors[0]

    @rule("task", "fit.monitor")
    def _task_has_the_monitor(self) -> Iterator[Broken]:
        if self.monitor not in self.task.monitors:
            near = closest(self.monitor, self.task.monitors)
            suggestion = f"; did you mean `{near}`?" if near else ""
            yield Broken(f'cannot be "{self.monitor}"{suggestion}', ("fit", "monitor"), self.task.monitors)

    @rule("task", "backbone", "augment", "compare", "variants", "objectives", "baselines")
    def _parts_are_for_the_task(self) -> Iterator[Broken]:
        places: list[tuple[str, tuple[str | int, ...], ComponentConfig]] = [("backbone", ("backbone",), self.backbone)]
        places += [("augmenter", at, config) for at, config in self.augmenters()]
        places += [("objective", ("objectives", place), config) for place, config in enumerate(self.objectives)]
        places += [("baseline", ("baselines", place), config) for place, config in enumerate(self.baselines)]
        task = self.task
        for kind, at, config in places:
            if task.takes(config):
                continue
            what = f"`{config.type}` is no part of the models for the task `{task.type}`"
            if config.targets and task.target not in config.targets:
                of = " or ".join(sorted(config.targets))
                what = f"`{config.type}` is for the target {of}, but the task `{task.type}` predicts the {task.target}"
            yield Broken(what, at, names_for(kind, task))

    @rule("task", "augment", "compare", "variants")
    def _inputs_are_for_the_task(self) -> Iterator[Broken]:
        for at, config in self.augmenters():
            lacking = [name for name in sorted(config.needs) if not gives(name, self.task)]
            if lacking and self.task.takes(config):
                what = f"the task `{self.task.type}` has no target in its queries, so `{config.type}` cannot read"
                yield Broken(f"{what} {lacking[0]}", at)

    def augmenters(self) -> Iterator[tuple[tuple[str | int, ...], ComponentConfig]]:
        """Where each augmenter that an arm may have is written, within this section, and its settings."""
        if not self.compare or self.variants:  # else no arm has the one that `augment` names
            yield ("augment",), self.augment
        yield from ((("compare", place), config) for place, config in enumerate(self.compare))


class SearchRange(Config):
    """The values a setting may take in the search: a range of numbers, or choices."""

    low: float | None = None
    """Least value of a range."""
    high: float | None = None
    """Greatest value of a range."""
    log: bool = False
    """Draw the logarithm evenly rather than the value; `low` must be positive."""
    choices: Annotated[tuple[Any, ...], Field(max_length=100), Distinct()] = ()
    """Values to choose from, instead of a range."""

    @rule("low", "high", "log", "choices")
    def _one_kind(self) -> Iterator[Broken]:
        is_range = self.low is not None and self.high is not None
        if is_range == bool(self.choices) or (self.low is None) != (self.high is None):
            yield Broken("give either low and high, or choices")
        elif self.low is not None and self.high is not None and not self.low < self.high:
            yield Broken(f"low {self.low:g} is not below high {self.high:g}")
        elif self.log and not (self.low and self.low > 0):
            yield Broken("log needs a positive low")


class ServeSection(Config):
    """Which model is served, and what it takes along."""

    arm: str | None = None
    """Arm of the comparison whose bundle is named at the end of a run; None: the one that is best on validation."""
    histories: bool = True
    """Whether bundles keep the latest events of every user, for requests that bring no history."""
    reasoning: bool = False
    """Whether bundles keep the texts of the chains of thought, so that explanations can show them. They describe the
    users of the examples to whoever asks."""


class SearchSection(Config):
    """Tuning with the same trials and the same space for every arm, judged on validation only (`search`)."""

    trials: Positive
    """Settings tried per arm; the first is the recipe's own."""
    space: dict[str, SearchRange] = Field(min_length=1, max_length=100)
    """Key path below `rec` → its range, e.g. `rec.fit.learning_rate: {low: 3.0e-4, high: 1.0e-2, log: true}`."""
    epochs: Positive | None = None
    """Most epochs of a trial; None: those of `rec.fit`."""

    @rule("space")
    def _only_the_recommender(self) -> Iterator[Broken]:
        for path in self.space:
            if not path.startswith(("rec.fit.", "rec.backbone.", "rec.augment.")):
                yield Broken(f"{path} is not below rec.fit, rec.backbone or rec.augment", ("space", path))
