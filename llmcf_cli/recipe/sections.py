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
    """Maximum number of samples from this source. If not set: all it has. The other sources are reduced too, so that
    the shares hold."""


class LLMSection(Config):
    """The language model and its tuning (`train-llm`)."""

    model: FilePath
    """A causal language model: `asset:NAME`, or a folder in Hugging Face format."""
    mix: tuple[MixPart, ...] = Field(min_length=1, max_length=100)
    """Recommendation and general instruction data, each with its share."""
    count: Positive | None = None
    """Number of samples in the mix. If not set: as many as the shares allow without repeating a sample."""
    decontaminate: Annotated[tuple[FilePath, ...], Field(max_length=1000), Distinct()] = ()
    """Files of evaluation texts. A general instruction that shares a run of 13 words with any of them is left out of
    the mix."""
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
    """Number of train samples. Set either this or `fraction`."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the train samples (the paper: 0.1)."""
    balance: Literal["none", "labels"] = "none"
    """`labels`: equally many positive and negative samples, until one kind runs out; `none`: as they are drawn."""
    stratify: Annotated[tuple[Literal["user", "label", "time", "popularity"], ...], Distinct()] = ()
    """Groups that are represented in proportion, to within one sample: by user, label, time, popularity of the item in
    the train split, or several combined. A larger sample always contains the smaller one."""
    quantiles: Annotated[int, Field(ge=2, le=1000)] = 4
    """Number of equally large groups into which `time` and `popularity` are divided."""

    @rule("count", "fraction")
    def _one_size(self) -> Iterator[Broken]:
        if (self.count is None) == (self.fraction is None):
            yield Broken("give either count or fraction")


class PriceSection(Config):
    """What a provider charges, for cost estimates."""

    input_per_million: Annotated[float, Field(ge=0)]
    """Price per million prompt tokens."""
    output_per_million: Annotated[float, Field(ge=0)]
    """Price per million generated tokens."""
    currency: str = Field(default="USD", min_length=1, max_length=8)
    """Currency of the prices."""


class CoTSection(Config):
    """Chains of thought for a sample of the train interactions (`gen-cot`)."""

    prompt: PromptPath = "prompts/single.yaml"
    """Prompt file, relative to the recipe or from the library. Engines that write from the data ignore it."""
    sample: TrainSampleSection
    """The train samples to write about."""
    engine: Engine
    """What generates the text, and its decoding settings."""
    judge: Judge = Field(default="rubric", validate_default=True)
    """Scores the candidate texts of a sample; the best one is kept."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Minimum score, in [0, 1], that a text needs to be kept."""
    regenerate: Annotated[int, Field(ge=0, le=5)] = 1
    """How often a sample without such a text is asked again, with fresh seeds, before it is dropped."""
    tries: Positive = 3
    """Number of failures (of a server, or for lack of memory) after which a sample is set aside. `--force gen-cot` or a
    higher number tries it again."""
    price: Annotated[PriceSection | None, Runtime()] = None
    """Prices for the cost estimate before a run and the bill after it."""
    review: Annotated[str | None, FileRef(), Runtime()] = None
    """File of verdicts from `llmcf review`: `examples` leaves out the texts that a person dropped. No text is written
    again."""


class CollaborativeSection(Config):
    """The collaborative space: item vectors computed from who took what in the train split (`collab`)."""

    dim: Annotated[int, Field(ge=1, le=1 << 16)] = 64
    """Size of a vector; smaller if there are fewer users or items."""
    folds: Annotated[int, Field(ge=2, le=100)] = 10
    """Number of groups into which users are divided. A train row is matched with vectors computed without its user's
    group."""


class MatchSection(Config):
    """Which examples a sample sees (`embed` and `match`), and the collaborative space (`collab`)."""

    space: Space
    """How queries and examples become vectors."""
    search: Searcher = Field(default="exact", validate_default=True)
    """How the nearest examples are found."""
    k: Annotated[int, Field(ge=1, le=1024)] = 4
    """Examples per sample (the paper's K)."""
    balance: Literal["labels", "none"] = "labels"
    """`labels`: half positive and half negative examples (the paper); `none`: the nearest examples, whatever their
    label."""
    exclude: Literal["strict", "own_item", "reference"] = "strict"
    """Which examples a sample may see. `strict`: only older train rows, never the sample itself. `own_item`: also none
    of the sample's own item, as a control. `reference`: the published code's rule, which lets a train row find itself;
    use it only to measure that leak."""
    max_per_user: Positive | None = None
    """Maximum number of a sample's examples from the same user. If not set: no limit."""
    distinct_items: bool = False
    """Whether all examples of a sample must be of different items."""
    query: Literal["row", "history"] = "row"
    """What a sample is matched by: its history and item (`row`), or its `history` only, as candidate retrieval
    requires, because there the item is the answer. With `history`, the space, the guards and random draws ignore the
    item; of the space's weights, only `history_weight` counts."""
    collaborative: CollaborativeSection = CollaborativeSection()
    """Item vectors computed from the train positives, if an arm reads them."""

    @rule("balance", "k")
    def _even(self) -> Iterator[Broken]:
        if self.balance == "labels" and self.k % 2:
            yield Broken(f"is {self.k}, but balance: labels needs an even number", ("k",))

    @rule("query", "exclude", "space.history_weight")
    def _histories_are_enough(self) -> Iterator[Broken]:
        if self.query == "row":
            return
        if self.exclude == "own_item":
            yield Broken("own_item needs the sample's item, but query: history ignores it", ("exclude",))
        if not getattr(self.space, "history_weight", 1):
            what = "is 0, but query: history searches only by the history"
            yield Broken(what, ("space", "history_weight"))


class FitSection(Config):
    """The training loop of `train-rec`."""

    batch_size: Positive = 512
    """Samples per step, over all processes."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of Adam."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """L2 penalty, applied as Adam's weight decay."""
    epochs: Positive = 30
    """Maximum number of passes over the train split."""
    patience: Annotated[int, Field(ge=0)] = 2
    """Training stops after this many epochs without a better validation score. The weights of the best epoch are
    kept."""
    monitor: str | None = None
    """Validation measure that early stopping and every other choice use; one of the task's measures. If not set: the
    task's first."""
    evaluation_batch_size: Annotated[Positive, Runtime()] = 4096
    """Samples per forward pass in evaluation."""


class VariantSection(Config):
    """An arm that differs from the recipe in more than its augmenter: a control, an ablation, knowledge
    distillation."""

    name: str = Field(pattern=r"^[^\[\]/\\]+$", max_length=60)
    """Name of the arm in tables, without brackets or slashes."""
    set: dict[str, Any] = Field(min_length=1, max_length=100)
    """Key path → value, as with `--set`: `{match.search: random, rec.augment.heads: 4}`."""
    meaning: str = ""
    """What the arm shows; printed with the tables."""
    control_of: str | None = None
    """The arm that this one is a control of: the same arm, without the part that should make the difference. The
    comparison says how much of that arm's gain the control reaches."""


class RecSection(Config):
    """The recommender (`train-rec` and `evaluate`)."""

    task: Predicted = Field(default="ranking", validate_default=True)
    """What is predicted, and how predictions are measured; the same for all arms."""
    backbone: Backbone
    """The collaborative-filtering model."""
    augment: Augmenter = Field(default="ict", validate_default=True)
    """Where the additional context feature comes from: in the only arm if `compare` is empty, and in each of
    `variants`."""
    objectives: Annotated[tuple[Objective, ...], Field(max_length=32), Distinct()] = Field(
        default=("bce",), min_length=1, validate_default=True
    )
    """Losses, summed with their weights. A loss does not apply to an arm that lacks its input."""
    cot: Literal["own", "shuffled", "mean"] = "own"
    """Which chain of thought an example carries: its `own` or, as controls, that of another example with the same label
    (`shuffled`), or the `mean` of all."""
    fit: FitSection = FitSection()
    """Optimiser, batch size and stopping."""
    compare: Annotated[tuple[Augmenter, ...], Field(max_length=MAX_ARMS), Distinct()] = ()
    """Augmenters to compare: one arm each, all with the same backbone and fit. No other arms are trained, except
    `variants`. Empty: only the arm that `augment` names."""
    variants: Annotated[tuple[VariantSection, ...], Field(max_length=MAX_ARMS), Distinct("name")] = ()
    """Further arms: the recipe with some values changed."""
    baselines: Annotated[tuple[Baseline, ...], Field(max_length=MAX_ARMS), Distinct("type")] = ()
    """Simple models to include in the comparison."""
    references: Annotated[tuple[str, ...], Field(max_length=MAX_ARMS), Distinct()] = ("none", "text")
    """Arms that every other arm is tested against. By default the backbone alone, and the control that sees everything
    except the examples."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100), Distinct()] | None = None
    """Seeds to train with: one run per arm and seed. If not set: one run, with the recipe's own seed."""

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
            what = f"`{config.type}` cannot be used for the task `{task.type}`"
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
    """The values to search for a setting: a range of numbers, or choices."""

    low: float | None = None
    """Lower end of the range."""
    high: float | None = None
    """Upper end of the range."""
    log: bool = False
    """Draw uniformly on a logarithmic scale; `low` must be positive."""
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
    """Which model is served, and what its bundle contains."""

    arm: str | None = None
    """Arm whose bundle is named at the end of a run. If not set: the best on validation."""
    histories: bool = True
    """Whether bundles keep every user's latest events, for requests that come without a history."""
    reasoning: bool = False
    """Whether bundles keep the texts of the chains of thought, so that explanations can show them. Anyone who asks can
    then read what they say about the users of the examples."""


class SearchSection(Config):
    """Tuning with the same number of trials and the same search space for every arm, judged on validation only
    (`search`)."""

    trials: Positive
    """Number of settings to try per arm; the first is the recipe's own."""
    space: dict[str, SearchRange] = Field(min_length=1, max_length=100)
    """Key path under `rec` → its range, for example `rec.fit.learning_rate: {low: 3.0e-4, high: 1.0e-2, log: true}`."""
    epochs: Positive | None = None
    """Maximum number of epochs per trial. If not set: as in `rec.fit`."""

    @rule("space")
    def _only_the_recommender(self) -> Iterator[Broken]:
        for path in self.space:
            if not path.startswith(("rec.fit.", "rec.backbone.", "rec.augment.")):
                yield Broken(f"{path} is not in rec.fit, rec.backbone or rec.augment", ("space", path))
