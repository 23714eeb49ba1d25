"""An engine as what makes batches of texts, in this process or wherever it is sent."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.llm.engines.base import ENGINE, Engine
from llmcf_cli.llm.writing.texts import Answers, Batch
from llmcf_cli.plugin import registry


class Writer:
    """Batch of calls → their answers.

    Pickled, it is its settings: a worker elsewhere opens the engine itself, and loads weights at its first batch.

    Args:
        config: Of the engine.
        model: Folder of the model, under the same path on every node; None for an engine that needs none.
    """

    def __init__(self, config: ComponentConfig, model: Path | None) -> None:
        self._config, self._model = config, model and model.absolute()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._config, self._model)

    def __call__(self, batch: Batch) -> Answers:
        """One answer, or what became of it, per call."""
        engine = self.engine
        if batch.longest not in (0, engine.config.max_new_tokens):
            engine = engine.asking(max_new_tokens=batch.longest, samples=1)
        return list(engine.generate(batch.chats, batch.seeds))

    @cached_property
    def engine(self) -> Engine:
        """The engine, opened.

        Raises:
            ModelError: There is no usable model.
        """
        engine = registry().build(ENGINE, self._config)
        engine.open(self._model)
        return engine
