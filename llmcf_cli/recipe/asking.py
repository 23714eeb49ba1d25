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
    """The tuned model's own answers to train samples, from which the objective `distill` learns (`teacher`).

    The question is that of the mix's `recommendation` source.
    """

    sample: TrainSampleSection = TrainSampleSection(fraction=1.0)
    """The train samples to ask about. The objective ignores all others."""
    max_prompt_tokens: Positive | None = None
    """Maximum number of tokens of a question; beyond it, the oldest history is cut. If not set: what the model's
    context allows."""
    min_mass: Annotated[Share, Runtime()] = 0.1
    """Minimum of P(yes) + P(no), on average. Below it, the model answers something else, and the stage stops."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of computation and weights. `auto`: bf16 if the device computes in it."""
    batch_tokens: Annotated[Positive, Runtime()] = 16384
    """Maximum number of tokens per batch, padding included."""
    max_batch: Annotated[Positive, Runtime()] = 64
    """Maximum number of questions per batch; a killed run loses at most one batch."""


class AbilitySection(Config):
    """Evaluation of the language model before and after tuning: how well it recommends, and its general ability
    (`eval-llm`)."""

    split: Literal["validation", "test"] = "validation"
    """Split whose samples the recommendation question is asked about."""
    count: Annotated[int, Field(ge=2)] = 500
    """Maximum number of these samples, drawn at random without balancing the labels."""
    question: MixSource | None = None
    """The question. If not set: that of the mix's `recommendation` source."""
    data: FilePath | None = None
    """Folder with the benchmarks of general ability: `TASK.parquet` for each of `tasks`, with the columns that the
    harness's task reads from its data set. If not set, no benchmark is run."""
    tasks: Annotated[tuple[Task, ...], Field(min_length=1), Distinct()] = (
        "mmlu", "lambada_openai", "piqa", "arc_easy", "hellaswag", "sciq",
    )  # fmt: skip
    """Benchmarks of general ability, run by EleutherAI's lm-evaluation-harness without examples in the prompt
    (zero-shot)."""
    limit: Annotated[int, Field(ge=2)] | None = 100
    """Maximum number of questions per benchmark, drawn with the seed; `null`: all."""
    max_prompt_tokens: Positive | None = None
    """Maximum number of tokens of a recommendation question; beyond it, the oldest history is cut. If not set: what the
    model's context allows."""
    min_mass: Share = 0.1
    """Minimum of P(yes) + P(no), on average. Below it, the model answers something else, and its AUC is
    marked."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of computation and weights. `auto`: bf16 if the device computes in it."""
    batch_tokens: Annotated[Positive, Runtime()] = 16384
    """Maximum number of tokens read at once."""
    max_batch: Annotated[Positive, Runtime()] = 64
    """Maximum number of questions read at once; a killed run loses at most these, or the benchmark in progress."""


class BalanceSection(Config):
    """Trade-off between recommendation and general ability, by share and amount of recommendation data (`balance`).

    Every share is tuned with all its data, every amount at the recipe's own share. The mix has `llm.count` samples.
    """

    shares: Shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Shares of recommendation data in the mix to try. The other sources keep their proportions."""
    amounts: Parts = (0.25, 0.5, 1.0)
    """Fractions to try of the recommendation data that the recipe's own share gives. The other data stay the same."""
    tolerance: Annotated[float, Field(ge=0)] = 1.0
    """The chosen point has the best recommendation AUC of those whose general ability is at most this many standard
    errors below the base model's (standard errors of the difference on the same questions)."""


class KnowledgeSection(Config):
    """Open-world knowledge that the tuned model writes about users and items, for the augmenter `kar` (`knowledge`).

    The engines `facts` and `planted` write it without a model and without prompts.
    """

    user_prompt: Annotated[str | None, PromptRef(("history", "user"))] = None
    """Prompt file over `history` and `user` only, for example `prompts/kar_user.yaml`. Required if a language model
    writes."""
    item_prompt: Annotated[str | None, PromptRef(("item",))] = None
    """Prompt file over `item` only, for example `prompts/kar_item.yaml`. Required if a language model writes."""
    users: Annotated[int, Field(ge=0)] | None = None
    """How many users to write about, those with the most train events first. If not set: all that have any."""
    items: Annotated[int, Field(ge=0)] | None = None
    """How many items to write about, those with the most train events first. If not set: the whole catalogue."""
    user_events: Fraction = 0.5
    """Fraction of a user's positive train events, from the oldest on, that the text is written from. The text is used
    only after these events."""
    max_history: Positive = 20
    """The text is written from at most this many of these events, the most recent."""
    engine: Engine = Field(default="transformers", validate_default=True)
    """What generates the texts, and its decoding settings. If it writes several texts per prompt, the first is used."""
