"""The generated texts of a recipe, out of this machine's cache and into another's."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import StoreError
from llmcf_cli.llm.writing.travel import Exported, Imported, StepCalls, TextKey, export_texts, import_texts
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.stages.engine.base import Context
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.share.lock import Lock
from llmcf_cli.stages.steps import gen_cot, knowledge
from llmcf_cli.stages.steps.evaluate import Evaluate
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.stages.steps.knowledge import Knowledge
from llmcf_cli.stages.steps.train_llm import TrainLLM


def export_cache(context: Context, file: Path, without: Collection[str] = ()) -> Exported:
    """Write every text that a recipe's comparison asks for, of all its arms, to a file.

    Args:
        context: Of the recipe.
        file: Where to.
        without: What texts must not be about: `user`, `item`.

    Raises:
        StoreError: There are none yet, or what they are asked about is not made.
    """
    nodes = [step.node for step in plan(context, [Evaluate()])]
    # A cache of an earlier version is taken over where it is opened.
    if not (context.generations.is_file() or context.generations.with_suffix(".duckdb").is_file()):
        raise StoreError("no texts were generated here", code="not-made", where=context.recipe.name,
                         hint="llmcf gen-cot RECIPE")  # fmt: skip
    calls: list[StepCalls] = []
    scores: dict[TextKey, dict[str, Any]] = {}
    for node in nodes:
        if isinstance(node.stage, GenCoT):
            calls += gen_cot.calls_of(node)
            scores |= gen_cot.scores_of(node)
        elif isinstance(node.stage, Knowledge):
            calls += knowledge.calls_of(node)
    with SharedTexts(context.generations) as store:
        return export_texts(store, calls, scores, file, without=without)


def import_cache(cache: Path, file: Path, lock: Lock | None = None) -> Imported:
    """Take the texts of a file into a cache.

    Args:
        cache: The cache's file; made if it is new.
        file: As `export_cache` writes it.
        lock: Of the recipe that they are of: texts of other models are refused. None: of any model.

    Raises:
        DataError: A text is not as it should be; none is taken then.
    """
    cache.parent.mkdir(parents=True, exist_ok=True)
    with SharedTexts(cache) as store:
        return import_texts(store, file, None if lock is None else models_of(lock))


def models_of(lock: Lock) -> set[str]:
    """The models that write for a locked recipe, as the cache names them."""
    tuned = {key for label, key in lock.stages.items() if label.partition("[")[0] == TrainLLM.name}
    engines = [lock.resolved.get(part, {}) for part in ("cot", "knowledge")]
    served = [engine for part in engines if isinstance(part, dict) and isinstance(engine := part.get("engine"), dict)]
    return tuned | {
        f"{engine.get('type')}:{str(engine['base_url']).rstrip('/')}:{engine.get('model', '')}"
        for engine in served
        if engine.get("base_url")
    }
