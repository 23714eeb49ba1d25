"""Settings of the language-model components: mix sources, tuners, engines and judges."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.permissions import Host
from llmcf_cli.core.types import ComponentConfig, Distinct, FilePath, Runtime, Sends
from llmcf_cli.recipe.template import Template
from llmcf_cli.recipe.words import WORDS

Positive = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "fp32", "bf16"]
Question = Annotated[str, Template("history", "item", "user", *WORDS)]

RECOMMENDATION_TEMPLATE = """\
{{#user}}About the user: {{user}}.
{{/user}}The user's earlier choices, oldest first: {{#history}}{{.}}; {{/history}}{{^history}}none yet.{{/history}}
Next item: {{item}}
Will the user {{verb}} it? Answer with Yes or No."""


class RecommendationMixConfig(ComponentConfig):
    """Yes/no questions made from the data set's train rows."""

    type: Literal["recommendation"] = "recommendation"
    """Registered name."""
    template: Question = RECOMMENDATION_TEMPLATE
    """The question: a Mustache template over `history` (earlier items, oldest first), `item`, `user` and the label's
    words `verb`, `verbs` and `choices`."""
    templates: Annotated[tuple[Question, ...], Field(max_length=100), Distinct()] = ()
    """Further phrasings. Each sample is asked in one phrasing, drawn with the seed from these and `template`. The
    teacher always uses `template`."""
    positive: str = Field(default="Yes", min_length=1)
    """Answer for a positive sample."""
    negative: str = Field(default="No", min_length=1)
    """Answer for a negative sample."""
    balance: Literal["labels", "none"] = "labels"
    """`labels`: equally many positive and negative samples; `none`: as they are drawn."""
    max_history: Positive = 20
    """The question names at most this many items of the history, the most recent."""


class _FileMixConfig(ComponentConfig):
    path: FilePath
    """The file, relative to the recipe, or `asset:NAME`."""
    instruction: str = "instruction"
    """Column with the instruction."""
    input: str = "input"
    """Column with the text that the instruction is about, added below it; rows may lack it. Empty: there is no such
    column."""
    output: str = "output"
    """Column with the answer."""
    conversation: str = ""
    """Column with a conversation, used instead of these three: a list of {role, content}, or of {from, value}
    (ShareGPT). The model learns its last answer; everything before is the prompt."""
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Maximum share of rows that cannot be read, or that the model's chat template rejects. They are left out; above
    this share, `train-llm` stops."""


class ParquetMixConfig(_FileMixConfig):
    """Instruction–answer pairs in a Parquet file."""

    type: Literal["parquet"] = "parquet"
    """Registered name."""


class JsonlMixConfig(_FileMixConfig):
    """Instruction–answer pairs in JSON lines, or in one JSON array (Alpaca)."""

    type: Literal["jsonl"] = "jsonl"
    """Registered name."""


class TuneConfig(ComponentConfig):
    """What every way of tuning has."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate of AdamW (the paper: 1e-5)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of AdamW."""
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    """L2 norm to which gradients are clipped."""
    epochs: Positive = 1
    """Passes over the mix."""
    max_steps: Positive | None = None
    """Stop after this many optimiser steps. If not set: after `epochs`."""
    max_length: Annotated[int, Field(ge=16)] = 1024
    """Maximum number of tokens of a sample, prompt and answer together. If a question is too long, the oldest history
    is cut first."""
    batch_size: Positive = 8
    """Samples per forward pass."""
    batch_tokens: Positive | None = None
    """Maximum number of tokens per forward pass, padding included, instead of `batch_size`. A longer sample gets a pass
    of its own."""
    packing: Literal["none", "packed"] = "packed"
    """`packed`: a batch is one row without padding, in random order, and its samples do not see each other. `none`: one
    row per sample, padded to the longest, with samples of similar length together. The loss of a batch is the same."""
    gradient_accumulation: Positive = 1
    """Forward passes per optimiser step, over all processes; a multiple of the number of processes."""
    neftune: Annotated[float, Field(ge=0)] = 0.0
    """Scale of the noise on token embeddings during training (NEFTune, Jain et al., 2024; they use 5). 0: no noise."""
    precision: Precision = "auto"
    """Precision of the forward pass; weights stay fp32. `auto`: bf16 if the device computes in it."""
    gradient_checkpointing: Annotated[bool, Runtime()] = False
    """Recompute activations in the backward pass: less memory, but about a third slower."""
    save_steps: Annotated[Positive, Runtime()] = 50
    """Optimiser steps between checkpoints."""


class FullTuneConfig(TuneConfig):
    """Updates all parameters."""

    type: Literal["full"] = "full"
    """Registered name."""


class AdapterTuneConfig(TuneConfig):
    """What every way of tuning with low-rank adapters has."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate of AdamW; adapters take a higher one than full tuning."""
    rank: Positive = 16
    """Rank of the adapters."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the adapters: they are multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input."""
    modules: Annotated[tuple[str, ...], Field(max_length=1000), Distinct()] = ()
    """Names of the linear layers to adapt. Empty: all except the output layer."""


class LoraTuneConfig(AdapterTuneConfig):
    """Trains low-rank adapters (Hu et al., 2021) and merges them into the weights."""

    type: Literal["lora"] = "lora"
    """Registered name."""


class QLoraTuneConfig(AdapterTuneConfig):
    """Trains low-rank adapters on weights held in 4 bits (Dettmers et al., 2023) and merges them into the full weights.

    Needs a CUDA device and the package bitsandbytes.
    """

    type: Literal["qlora"] = "qlora"
    """Registered name."""


def _need_a_temperature(samples: int, info: ValidationInfo) -> int:
    if samples > 1 and info.data.get("temperature") == 0:
        raise ValueError("temperature 0 gives the same answer every time; set samples: 1 or a temperature")
    return samples


class LocalEngineConfig(ComponentConfig):
    """What engines that generate with the tuned model on this machine have in common."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    max_new_tokens: Positive = 256
    """Maximum number of tokens of an answer (the paper: 256)."""
    temperature: Annotated[float, Field(ge=0)] = 0.6
    """Softmax temperature (the paper: 0.6). 0: always take the most likely token."""
    top_k: Annotated[int, Field(ge=0)] = 50
    """Draw only from the k most likely tokens (the paper: 50). 0: from all."""
    samples: Positive = 1
    """Answers per prompt, of which the judge keeps the best (the paper: 3)."""
    max_prompt_tokens: Positive | None = None
    """Maximum number of tokens of a prompt; beyond it, the oldest history is cut. If not set: what the model's context
    allows."""
    precision: Precision = "auto"
    """Precision of computation and weights. `auto`: bf16 if the device computes in it."""

    _samples_differ = field_validator("samples")(_need_a_temperature)


class TransformersEngineConfig(LocalEngineConfig):
    """Generates with the tuned model, in batches of prompts of similar length."""

    type: Literal["transformers"] = "transformers"
    """Registered name."""
    repetition_penalty: Annotated[float, Field(ge=1)] = 1.0
    """Divides the logits of tokens that the answer already contains (Keskar et al., 2019). 1: off."""
    batch_tokens: Annotated[Positive, Runtime()] = 16384
    """Maximum number of tokens per batch: prompts with their padding, and answers."""
    max_batch: Annotated[Positive, Runtime()] = 64
    """Maximum number of prompts per batch; a killed run loses at most one batch."""


class OpenAIEngineConfig(ComponentConfig):
    """Asks a server that speaks OpenAI's chat completions instead of the tuned model; `train-llm` does not run for it.

    Such servers are vLLM, llama.cpp, Ollama, `transformers serve` and paid ones. Nothing is sent to a server on another
    machine until `llmcf keys allow HOST --env VARIABLE`, run on this machine, allows it and names its key.
    """

    type: Literal["openai"] = "openai"
    """Registered name."""
    model: str = Field(min_length=1)
    """Name of the model on the server."""
    base_url: Annotated[str, Sends(), Field(pattern=r"^https?://[^\s/]", max_length=2000)]
    """Address up to the version, e.g. `http://localhost:8000/v1`. If it changes, all texts are generated again, because
    another server's model of the same name may be a different one."""
    max_new_tokens: Positive = 256
    """Maximum number of tokens of an answer (the paper: 256)."""
    limit_option: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of that limit in the request. OpenAI's own newer models require `max_completion_tokens`."""
    temperature: Annotated[float, Field(ge=0)] = 0.6
    """Softmax temperature (the paper: 0.6)."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """Further fields of each request, e.g. `{top_p: 0.9}`, or `{top_k: 50}` if the server knows it."""
    samples: Positive = 1
    """Answers per prompt, of which the judge keeps the best (the paper: 3)."""
    max_choices: Positive = 1
    """Maximum number of answers to one prompt per request (`n`). With 1, each answer has a seed of its own; with more,
    they share one paid prompt."""
    max_prompt_tokens: Positive = 2048
    """Maximum number of tokens of a prompt; beyond it, the oldest history is cut. The server's context must allow
    it."""
    tokenizer: FilePath | None = None
    """Folder of the model's tokenizer, to count tokens. If not set: estimated as a third of the characters."""
    concurrency: Annotated[Positive, Runtime()] = 8
    """Number of simultaneous requests."""
    requests_per_minute: Annotated[float, Runtime(), Field(gt=0)] | None = None
    """Maximum number of requests per minute, retries included. If not set: no limit on our side."""
    retries: Annotated[int, Runtime(), Field(ge=0)] = 5
    """How often a request is tried again after 408, 409, 429, 5xx or no answer. It waits as `Retry-After` says,
    otherwise longer each time."""
    timeout: Annotated[float, Runtime(), Field(gt=0)] = 120.0
    """Seconds after which a try counts as failed."""
    max_batch: Annotated[Positive, Runtime()] = 64
    """Number of answers committed together; a killed run loses at most these."""

    _samples_differ = field_validator("samples")(_need_a_temperature)

    @field_validator("base_url")
    @classmethod
    def _names_a_host(cls, base_url: str) -> str:
        try:
            Host.of(base_url)
        except LlmcfError as error:
            raise ValueError(error.what) from error
        return base_url

    @field_validator("extra")
    @classmethod
    def _not_ours(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        ours = {"messages", "model", "temperature", "n", "seed", "stream", "max_tokens", "max_completion_tokens"}
        if taken := sorted(ours & extra.keys()):
            raise ValueError(f"{', '.join(taken)} cannot be set here: use the engine's own settings")
        return extra


class VllmEngineConfig(LocalEngineConfig):
    """Generates with the tuned model through vLLM's offline engine, on a GPU."""

    type: Literal["vllm"] = "vllm"
    """Registered name."""
    memory_share: Annotated[float, Runtime(), Field(gt=0, le=1)] = 0.9
    """Share of the GPU's memory that vLLM may use."""
    gpus: Annotated[Positive, Runtime()] = 1
    """Number of GPUs across which each layer's weights are split."""
    max_batch: Annotated[Positive, Runtime()] = 1024
    """Number of prompts handed over, and committed, together; vLLM batches them itself."""


class HashingEncoderConfig(ComponentConfig):
    """Texts as bags of hashed character n-grams: nothing to fetch or learn; texts are similar if they share words.

    For made-up worlds, tests and quick looks; a sentence encoder knows what words mean.
    """

    type: Literal["hashing"] = "hashing"
    """Registered name."""
    dim: Annotated[int, Field(ge=8, le=4096)] = 256
    """Size of a vector."""


class DataEngineConfig(ComponentConfig):
    """What engines that write from the ingested data, without a language model, have in common; they read no prompt."""

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    describes: ClassVar[bool] = False
    """Whether it can also write about users and items alone (`knowledge`)."""


class FactsEngineConfig(DataEngineConfig):
    """Writes, in sentences, what can be counted in the train split up to a sample's time.

    If users share no clock (`columns.position`), it counts only in the user's own history. What a language model adds
    to these texts is what reasoning adds to counts.
    """

    version: ClassVar[int] = 2
    describes: ClassVar[bool] = True

    type: Literal["facts"] = "facts"
    """Registered name."""
    decision: Literal["told", "hidden"] = "told"
    """Whether a text ends with what the user decided (`told`) or leaves it out (`hidden`)."""
    most: Annotated[int, Field(ge=1, le=20)] = 2
    """Maximum number of traits named in a sentence."""
    peers: Annotated[int, Field(ge=1, le=1000)] = 20
    """Maximum number of users with similar taste whose verdicts on the item are counted, starting with those who share
    most with the user."""


class PlantedEngineConfig(DataEngineConfig):
    """Tells the truth about the world of the source `planted`, to the degree that `truth` says."""

    describes: ClassVar[bool] = True

    type: Literal["planted"] = "planted"
    """Registered name."""
    truth: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Probability that a statement is true. Otherwise it names a random value, so at 0 the texts say nothing."""
    knows: Annotated[tuple[Literal["row", "item", "user", "match"], ...], Field(min_length=1), Distinct()] = (
        "item", "user", "match",
    )  # fmt: skip
    """What texts tell. `item`: the hidden attributes of the book; `user`: what the reader is looking for; `match`: what
    spoke for or against the book; `row`: also the book's own text and the last book liked, repeated as language models
    do, which hides the rest."""


class RubricJudgeConfig(ComponentConfig):
    """Scores a chain of thought in [0, 1] by four criteria of equal weight."""

    type: Literal["rubric"] = "rubric"
    """Registered name."""
    min_words: Positive = 8
    """Minimum number of words; shorter texts are dropped."""
    max_echo: Annotated[float, Field(gt=0, le=1)] = 0.6
    """A text is dropped as an echo if at least this share of its five-word runs is copied from the prompt."""
    min_coherence: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Minimum share of three-word runs that do not repeat earlier ones (1: nothing repeats); texts below it are
    dropped."""
    truncated: Literal["keep", "sentence", "drop"] = "sentence"
    """What happens to a text that is cut in mid-sentence, which costs a tenth of its coherence. `sentence` keeps it if
    it has at least one whole sentence, `keep` always keeps it, `drop` always drops it."""
