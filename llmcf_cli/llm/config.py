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
    """Further phrasings; each sample is asked in one of them all, drawn by the seed. The teacher asks in `template`."""
    positive: str = Field(default="Yes", min_length=1)
    """Answer to a positive sample."""
    negative: str = Field(default="No", min_length=1)
    """Answer to a negative sample."""
    balance: Literal["labels", "none"] = "labels"
    """`labels`: as many positive as negative samples; `none`: as they come."""
    max_history: Positive = 20
    """Most recent items of the history that the question names."""


class _FileMixConfig(ComponentConfig):
    path: FilePath
    """The file, relative to the recipe, or `asset:NAME`."""
    instruction: str = "instruction"
    """Column of the instruction."""
    input: str = "input"
    """Column of the text the instruction is about, added below it; rows may lack it. Empty: there is none."""
    output: str = "output"
    """Column of the answer."""
    conversation: str = ""
    """Column of a conversation in place of the three: a list of {role, content}, or of {from, value} (ShareGPT). Its
    last answer is learned, what was said before is the prompt."""
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of rows that cannot be read, or that the model's chat template refuses, past which `train-llm` stops
    instead of leaving them out."""


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
    """Peak step size of AdamW (the paper: 1e-5)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the step size falls after the warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the step size rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of AdamW."""
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    """L2 norm that gradients are clipped to."""
    epochs: Positive = 1
    """Passes over the mix."""
    max_steps: Positive | None = None
    """Stop after so many optimiser steps; None: after `epochs`."""
    max_length: Annotated[int, Field(ge=16)] = 1024
    """Most tokens of a sample, prompt and answer together. Of a longer question the oldest history goes first."""
    batch_size: Positive = 8
    """Samples per forward pass."""
    batch_tokens: Positive | None = None
    """Most tokens per forward pass, padding included, in place of `batch_size`; a longer sample stands alone."""
    packing: Literal["none", "packed"] = "packed"
    """`packed`: a batch is one row without padding, whose samples do not see each other, in random order. `none`: a row
    per sample, padded to the longest, samples of similar length together. The loss of a batch is the same."""
    gradient_accumulation: Positive = 1
    """Forward passes per optimiser step, of all processes together: a multiple of their number."""
    neftune: Annotated[float, Field(ge=0)] = 0.0
    """Scale of the noise on token embeddings while training (NEFTune, Jain et al., 2024; they use 5); 0: none."""
    precision: Precision = "auto"
    """Arithmetic of the forward pass (weights stay fp32): `auto` takes bf16 where the device computes in it."""
    gradient_checkpointing: Annotated[bool, Runtime()] = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    save_steps: Annotated[Positive, Runtime()] = 50
    """Optimiser steps between two checkpoints."""


class FullTuneConfig(TuneConfig):
    """Updates all parameters."""

    type: Literal["full"] = "full"
    """Registered name."""


class AdapterTuneConfig(TuneConfig):
    """What every way of tuning with low-rank adapters has."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak step size of AdamW; adapters take a larger one than full tuning."""
    rank: Positive = 16
    """Rank of the adapters."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale: an adapter is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on an adapter's input."""
    modules: Annotated[tuple[str, ...], Field(max_length=1000), Distinct()] = ()
    """Names of the linear layers to adapt; empty: all but the output layer."""


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
    """What engines share that generate with the tuned model on this machine."""

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    max_new_tokens: Positive = 256
    """Most tokens of an answer (the paper: 256)."""
    temperature: Annotated[float, Field(ge=0)] = 0.6
    """Softmax temperature (the paper: 0.6); 0 always takes the likeliest token."""
    top_k: Annotated[int, Field(ge=0)] = 50
    """Only the k likeliest tokens are drawn from (the paper: 50); 0: all."""
    samples: Positive = 1
    """Answers per prompt, of which the judge keeps the best (the paper: 3)."""
    max_prompt_tokens: Positive | None = None
    """Most tokens of a prompt, beyond which the oldest history is left out; None: what the model's context allows."""
    precision: Precision = "auto"
    """Arithmetic and weights: `auto` takes bf16 where the device computes in it."""

    _samples_differ = field_validator("samples")(_need_a_temperature)


class TransformersEngineConfig(LocalEngineConfig):
    """Generates with the tuned model, in batches of prompts of similar length."""

    type: Literal["transformers"] = "transformers"
    """Registered name."""
    repetition_penalty: Annotated[float, Field(ge=1)] = 1.0
    """Divides the logits of tokens the answer already holds (Keskar et al., 2019); 1: off."""
    batch_tokens: Annotated[Positive, Runtime()] = 16384
    """Most tokens of a batch, prompts with padding and answers together."""
    max_batch: Annotated[Positive, Runtime()] = 64
    """Most prompts of a batch; a killed run loses at most one batch."""


class OpenAIEngineConfig(ComponentConfig):
    """Asks a server that speaks OpenAI's chat completions, instead of the tuned model; `train-llm` does not run for it.

    Servers that do: vLLM, llama.cpp, Ollama, `transformers serve` and paid ones. A server on another machine gets
    nothing before `llmcf keys allow HOST --env VARIABLE` says, on this machine, that it may, and which key is its own.
    """

    type: Literal["openai"] = "openai"
    """Registered name."""
    model: str = Field(min_length=1)
    """Name the server knows the model by."""
    base_url: Annotated[str, Sends(), Field(pattern=r"^https?://[^\s/]", max_length=2000)]
    """Address up to the version, e.g. `http://localhost:8000/v1`. It determines the result, too: another server's
    model of the same name may be another one."""
    max_new_tokens: Positive = 256
    """Most tokens of an answer (the paper: 256)."""
    limit_option: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The request's name for it; newer models of OpenAI itself want the second."""
    temperature: Annotated[float, Field(ge=0)] = 0.6
    """Softmax temperature (the paper: 0.6)."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """Further fields of each request, e.g. `{top_p: 0.9}`, or `{top_k: 50}` where the server knows it."""
    samples: Positive = 1
    """Answers per prompt, of which the judge keeps the best (the paper: 3)."""
    max_choices: Positive = 1
    """Most answers to one prompt per request (`n`). 1: each has a seed of its own; more: the prompt is paid once."""
    max_prompt_tokens: Positive = 2048
    """Most tokens of a prompt, beyond which the oldest history is left out; the server's context must allow it."""
    tokenizer: FilePath | None = None
    """Folder of the model's tokenizer, to count tokens; None: they are estimated as a third of the characters."""
    concurrency: Annotated[Positive, Runtime()] = 8
    """Requests at a time."""
    requests_per_minute: Annotated[float, Runtime(), Field(gt=0)] | None = None
    """Most requests per minute, retries included; None: no limit of ours."""
    retries: Annotated[int, Runtime(), Field(ge=0)] = 5
    """Further tries of a request that met 408, 409, 429, 5xx or no answer, after `Retry-After` or a growing wait."""
    timeout: Annotated[float, Runtime(), Field(gt=0)] = 120.0
    """Seconds until a try counts as failed."""
    max_batch: Annotated[Positive, Runtime()] = 64
    """Answers that are committed together; a killed run loses at most these."""

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
            raise ValueError(f"{', '.join(taken)} cannot be set here; the engine's own settings decide it")
        return extra


class VllmEngineConfig(LocalEngineConfig):
    """Generates with the tuned model through vLLM's offline engine, on a GPU."""

    type: Literal["vllm"] = "vllm"
    """Registered name."""
    memory_share: Annotated[float, Runtime(), Field(gt=0, le=1)] = 0.9
    """Share of the GPU's memory that vLLM may take."""
    gpus: Annotated[Positive, Runtime()] = 1
    """GPUs that share each layer's weights."""
    max_batch: Annotated[Positive, Runtime()] = 1024
    """Prompts handed over, and committed, together; vLLM batches them itself."""


class HashingEncoderConfig(ComponentConfig):
    """Texts as bags of hashed character n-grams: nothing to fetch or to learn; alike are texts that share words.

    For worlds made by rule, tests and quick looks; a sentence encoder knows what words mean.
    """

    type: Literal["hashing"] = "hashing"
    """Registered name."""
    dim: Annotated[int, Field(ge=8, le=4096)] = 256
    """Numbers of a vector."""


class DataEngineConfig(ComponentConfig):
    """What engines share that write from the ingested data, without a language model; they read no prompt."""

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    describes: ClassVar[bool] = False
    """Whether it can also write about users and items alone (`knowledge`)."""


class FactsEngineConfig(DataEngineConfig):
    """Writes what can be counted in the train split up to a sample's time, in sentences.

    Where users share no clock (`columns.position`) it counts in the user's own history alone. What a language model
    adds to these texts is what reasoning adds to counts.
    """

    version: ClassVar[int] = 2
    describes: ClassVar[bool] = True

    type: Literal["facts"] = "facts"
    """Registered name."""
    decision: Literal["told", "hidden"] = "told"
    """Whether a text ends with what the user decided."""
    most: Annotated[int, Field(ge=1, le=20)] = 2
    """Most traits that a sentence names."""
    peers: Annotated[int, Field(ge=1, le=1000)] = 20
    """Most users of like taste that are asked what they did with the item, those first with whom most is shared."""


class PlantedEngineConfig(DataEngineConfig):
    """Tells what is so in the world of the source `planted`, and no more of it than `truth` says."""

    describes: ClassVar[bool] = True

    type: Literal["planted"] = "planted"
    """Registered name."""
    truth: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Chance that a statement is true; any other names a value at random, so that at 0 texts say nothing."""
    knows: Annotated[tuple[Literal["row", "item", "user", "match"], ...], Field(min_length=1), Distinct()] = (
        "item", "user", "match",
    )  # fmt: skip
    """What is told: the hidden attributes of the book; what the reader is after; what spoke for or against the book;
    `row` also repeats the book's own text and the last book liked, as language models do, which hides the rest."""


class RubricJudgeConfig(ComponentConfig):
    """Scores a chain of thought in [0, 1] by four criteria of equal weight."""

    type: Literal["rubric"] = "rubric"
    """Registered name."""
    min_words: Positive = 8
    """A text of fewer words is dropped."""
    max_echo: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of the text's five-word runs copied from the prompt, from which on it is dropped as an echo."""
    min_coherence: Annotated[float, Field(ge=0, le=1)] = 0.3
    """A text that repeats itself more than this allows (1: nothing repeats) is dropped."""
    truncated: Literal["keep", "sentence", "drop"] = "sentence"
    """What becomes of a text cut in mid-sentence, at a tenth less coherence: `sentence` keeps it if a sentence of it is
    whole, `keep` in any case, `drop` in none."""
