"""The sections about what a language model is asked beside its chains of thought: answers, abilities, knowledge."""

from typing import Annotated, Literal

from pydantic import Field

from llmcf_cli.core.types import Config, Distinct, FilePath, PromptRef, Runtime
from llmcf_cli.recipe.sections import Engine, MixSource, Positive, Share, TrainSampleSection

Fraction = Annotated[float, Field(gt=0, lt=1)]
Task = Literal["mmlu", "lambada_openai", "piqa", "arc_easy", "hellaswag", "sciq"]
Shares = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1, max_length=100), Distinct()]
Parts = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1, max_length=100), Distinct()]


class TeacherSection(Config):
    """The tuned model's own answers to train samples, which the objective `distill` learns from (`teacher`).

    The question is that of the mix's `recommendation` source.
    """

    sample: TrainSampleSection = TrainSampleSection(fraction=1.0)
    """The train samples it is asked about; the others do not enter the objective."""
    max_prompt_tokens: Positive | None = None
    """Most tokens of a question, beyond which the oldest history is left out; None: what the model's context allows."""
    min_mass: Annotated[Share, Runtime()] = 0.1
    """Least P(yes) + P(no), on average: below it the model answers something else, and the stage stops."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic and weights: `auto` takes bf16 where the device computes in it."""
    batch_tokens: Annotated[Positive, Runtime()] = 16384
    """Most tokens of a batch, padding included."""
    max_batch: Annotated[Positive, Runtime()] = 64
    """Most questions of a batch; a killed run loses at most one batch."""


class AbilitySection(Config):
    """What a language model can do before and after its tuning: recommend, and all else (`eval-llm`)."""

    split: Literal["validation", "test"] = "validation"
    """Whose samples the recommendation question is asked about."""
    count: Annotated[int, Field(ge=2)] = 500
    """Most of these samples, drawn as they come."""
    question: MixSource | None = None
    """The question; None: that of the mix's `recommendation` source."""
    data: FilePath | None = None
    """Folder with the benchmarks of general ability, `TASK.parquet` for each of `tasks`, with the columns of the data
    set that the harness's task reads; None: they are left out."""
    tasks: Annotated[tuple[Task, ...], Field(min_length=1), Distinct()] = (
        "mmlu", "lambada_openai", "piqa", "arc_easy", "hellaswag", "sciq",
    )  # fmt: skip
    """Benchmarks of general ability, run by EleutherAI's lm-evaluation-harness without examples in the prompt."""
    limit: Annotated[int, Field(ge=2)] | None = 100
    """Most questions of a benchmark, drawn by the seed; None: all."""
    max_prompt_tokens: Positive | None = None
    """Most tokens of a recommendation question, beyond which the oldest history is left out; None: the context's."""
    min_mass: Share = 0.1
    """Least P(yes) + P(no), on average: below it the model answers something else, and its AUC is marked as such."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic and weights: `auto` takes bf16 where the device computes in it."""
    batch_tokens: Annotated[Positive, Runtime()] = 16384
    """Most tokens read at once."""
    max_batch: Annotated[Positive, Runtime()] = 64
    """Most questions read at once; a killed run loses at most these, or the benchmark it was at."""


class BalanceSection(Config):
    """Recommendation against general ability, by share and amount of recommendation data (`balance`).

    Every share is tuned with all its data, every amount at the recipe's own share; the mix has `llm.count` samples.
    """

    shares: Shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Shares of recommendation data in the mix; the other sources keep their proportions."""
    amounts: Parts = (0.25, 0.5, 1.0)
    """Parts of the recommendation data that the recipe's own share gives; the other data stay as they are."""
    tolerance: Annotated[float, Field(ge=0)] = 1.0
    """The chosen point has the best recommendation AUC of those whose general ability is at most so many standard
    errors (of the difference on the same questions) below the base model's."""


class KnowledgeSection(Config):
    """Open-world knowledge that the tuned model writes about users and items (`knowledge`), for the augmenter `kar`.

    The engines `facts` and `planted` write it without a model and without prompts.
    """

    user_prompt: Annotated[str | None, PromptRef(("history", "user"))] = None
    """Prompt file over `history` and `user` only, e.g. `prompts/kar_user.yaml`; a language model needs it."""
    item_prompt: Annotated[str | None, PromptRef(("item",))] = None
    """Prompt file over `item` only, e.g. `prompts/kar_item.yaml`; a language model needs it."""
    users: Annotated[int, Field(ge=0)] | None = None
    """Users written about, those with the most train events first; None: all that have any."""
    items: Annotated[int, Field(ge=0)] | None = None
    """Items written about, those with the most train events first; None: the whole catalogue."""
    user_events: Fraction = 0.5
    """First share of a user's positive train events that the text is written from; it is used after those only."""
    max_history: Positive = 20
    """Most recent of these events that the text is written from."""
    engine: Engine = Field(default="transformers", validate_default=True)
    """What generates the texts, and its decoding settings; of several texts per prompt the first is taken."""
