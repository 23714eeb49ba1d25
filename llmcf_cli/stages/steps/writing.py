"""What the stages share that let a language model write: which model it is, and how they do without it.

The tuned model writes texts, and texts are kept. Where they are there, nobody has to tune it again: its tokenizer is
that of the model that it starts from, its name in the cache is the key of `train-llm`, and a text that is missing after
all is noticed before anything else writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcf_cli.core.types import ComponentConfig, FileRef, is_marked
from llmcf_cli.llm.writing.texts import Answers, Batch
from llmcf_cli.llm.writing.workers import count_by
from llmcf_cli.scale import Executor, Pool
from llmcf_cli.stages.engine.base import Context, NeedError, Node, Stage
from llmcf_cli.stages.steps.train_llm import TrainLLM, TrainLLMOutput
from llmcf_cli.store.assets import Locator

SPARED = frozenset({TrainLLM.name})
"""What a stage that writes can do without where its texts are there."""


def writing_stages(engine: ComponentConfig) -> list[Stage]:
    """The stages that a stage which generates with an engine reads: none for a model that others serve."""
    return [TrainLLM()] if "model" in engine.needs else []


@dataclass(frozen=True)
class WritingModel:
    """Who writes.

    Attributes:
        folder: What the engine opens; None where others serve the model.
        name: In the cache: digest of the tuned model, or server and name.
        spared: Whether the tuned model is not there. The folder is then that of the model that it starts from,
            which has the same tokenizer and must not write.
    """

    folder: Path | None
    name: str
    spared: bool = False

    def executor(self, executor: Executor) -> Executor:
        """Where texts are made: nowhere, if the model is spared."""
        return _Nowhere() if self.spared else executor

    @property
    def pool(self) -> Pool[Batch, Answers] | None:
        """Who makes them; None: this process."""
        return _Nowhere() if self.spared else None


def writing_model(
    context: Context, inputs: Mapping[str, Path], keys: Mapping[str, str], engine: ComponentConfig
) -> WritingModel:
    """Who writes for a stage.

    Args:
        context: What the run shares.
        inputs: Role of a stage → its folder, of those that are there.
        keys: Role of a stage → its key.
        engine: The engine.
    """
    from llmcf_cli.llm.models.load import hf_folder

    if "model" not in engine.needs:
        server, name = (getattr(engine, field, "") for field in ("base_url", "model"))
        return WritingModel(None, f"{engine.type}:{server.rstrip('/')}:{name}")
    key = keys[TrainLLM.name]
    if TrainLLM.name in inputs:
        return WritingModel(TrainLLMOutput(inputs[TrainLLM.name]).model, key)
    base = hf_folder(context.locate.path(context.recipe.language_model.model), context.models)
    return WritingModel(base, key, spared=True)


def places(node: Node) -> tuple[dict[str, Path], dict[str, str]]:
    """Folders and keys of what a node reads, as a job has them."""
    spared = node.stage.sparing
    folders = {role: need.folder for role, need in node.needs.items() if role not in spared or need.made}
    return folders, {role: need.key for role, need in node.needs.items()}


def texts_here(node: Node) -> str:
    """How many texts of the tuned model are here; empty where there are none."""
    tuned = node.needs.get(TrainLLM.name)
    count = count_by(node.context.generations, tuned.key) if tuned else 0
    return f"{count:,} of its texts are in the cache" if count else ""


class _Nowhere:
    """Makes no text."""

    def pool(self, worker: Any) -> AbstractContextManager[Any]:
        """See `Executor.pool`."""
        return nullcontext(self)

    def map(self, items: Iterable[Any]) -> Iterator[Any]:
        """Called where a text is missing.

        Raises:
            NeedError: Always.
        """
        raise NeedError("a text that only it can write is missing", TrainLLM.name)


def with_local_files(engine: ComponentConfig, locate: Locator) -> ComponentConfig:
    """An engine's configuration with the paths of the files and assets that it names."""
    fields = type(engine).model_fields
    named = {field: value for field, value in engine if value and is_marked(fields[field], FileRef)}
    return engine.model_copy(update={field: str(locate.path(value)) for field, value in named.items()})
