"""A refresh by its recipe (`deriving.py`), which is kept once its rows are read and some are new: a refused one leaves
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.progress import Progress
from llmcf_cli.core.yamlfile import dump_yaml
from llmcf_cli.data.report import Added, IngestReport
from llmcf_cli.recipe.load import LoadedRecipe
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.deriving import Derived, before_cuts, decided
from llmcf_cli.stages.engine.base import Context, Stage
from llmcf_cli.stages.engine.run import Step, execute, plan, reached
from llmcf_cli.stages.steps.growing import FrozenLLM
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.refresh import Refresh, Trained
from llmcf_cli.stages.steps.train_rec import TrainRec
from llmcf_cli.store.artifacts import Manifest, write_atomic
from llmcf_cli.store.locks import held


@contextmanager
def alone(context: Context) -> Iterator[None]:
    """Be the only refresh of a recipe in an artifact folder.

    Raises:
        StoreError: Another process refreshes it.
    """
    folder = context.store.root / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / f"refresh.{context.recipe.name}.lock", what=f"refresh of {context.recipe.name}"):
        yield


@contextmanager
def drafted(derived: Derived) -> Iterator[Path]:
    """The derived recipe as a file that is gone after the block, unless it was there before or is kept (`keep`).

    Files that the user named for it may be read, wherever they lie.
    """
    if derived.content is None:
        yield derived.file
        return
    draft = _draft(derived)
    write_atomic(draft, _text(derived))
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def keep(derived: Derived) -> None:
    """Let the derived recipe be there from now on, in one step."""
    if derived.content is not None:
        write_atomic(derived.file, _text(derived))


def target_of(recipe: Recipe) -> Stage:
    """What makes the model that a derived recipe asks for."""
    wanted = recipe.refresh
    assert wanted is not None
    assert wanted.arm is not None
    assert wanted.seed is not None
    return TrainRec(wanted.arm, wanted.seed) if wanted.level == "full" else Refresh.of(recipe)[0]


def steps_of(context: Context) -> list[Step]:
    """What a refresh runs and reads. The model that it begins from is never trained for it.

    Raises:
        StoreError: The model is not there, or the recipe is another than it was trained by.
    """
    steps = reached(plan(context, [target_of(context.recipe)]))
    for step in steps:
        if isinstance(step.node.stage, Trained | FrozenLLM) and step.runs:
            what = "trained model to refresh"
            if isinstance(step.node.stage, FrozenLLM):
                what = "language model that wrote the earlier texts"
            raise StoreError(
                f"missing {what} ({step.reason})", code="refresh-untrained", where=step.node.label,
                hint="llmcf run RECIPE",
            )  # fmt: skip
    return steps


def settle(
    derived: Derived, loaded: LoadedRecipe, opened: Callable[[Path], Context], progress: Progress, *,
    on_start: Callable[[Step], None], on_end: Callable[[Step, Manifest], None], overrides: Sequence[str] = (),
) -> tuple[bool, int]:  # fmt: skip
    """Read what a derived recipe adds, choose its cuts, and keep it if there is something new.

    Args:
        derived: The derived recipe.
        loaded: The user's recipe.
        opened: Recipe file → the context that it runs in.
        progress: Where to report.
        on_start: Called before a step.
        on_end: Called after it.
        overrides: Changes that the recipe was loaded with.

    Returns:
        Whether it is there now, and how many rows were there already.

    Raises:
        LlmcfError: The rows, or cuts among them, are refused; nothing is kept.
    """
    known = 0
    if derived.new:
        with drafted(derived) as draft:
            found = read_rows(opened(draft), derived.new, progress, on_start=on_start, on_end=on_end)
        known = sum(added.known for added in found)
        if not any(map(is_new, found)):
            return False, known
    if derived.undecided:
        with drafted(derived) as draft:
            context = opened(draft)
            if not derived.new:
                read_rows(context, 0, progress, on_start=on_start, on_end=on_end)
            derived = decided(derived, loaded, context, overrides)
        with drafted(derived) as draft:
            split_rows(opened(draft), progress, on_start=on_start, on_end=on_end)
    keep(derived)
    return True, known


def read_rows(
    context: Context, additions: int, progress: Progress, *, on_start: Callable[[Step], None],
    on_end: Callable[[Step, Manifest], None],
) -> list[Added]:  # fmt: skip
    """Ingest what a derived recipe adds; what was found in the last few additions.

    Raises:
        LlmcfError: As `append`.
    """
    steps = plan(before_cuts(context), [Ingest()])
    execute(reached(steps), progress, on_start=on_start, on_end=on_end)
    reports: list[IngestReport] = [step.node.require() for step in steps[len(steps) - additions :]]
    return [report.added for report in reports if report.added is not None]


def split_rows(
    context: Context, progress: Progress, *, on_start: Callable[[Step], None], on_end: Callable[[Step, Manifest], None]
) -> None:
    """Ingest by the cuts of a derived recipe.

    Raises:
        LimitError: They leave a split too few samples.
    """
    execute(reached(plan(context, [Ingest()])), progress, on_start=on_start, on_end=on_end)


def is_new(added: Added) -> bool:
    """Whether an addition changes anything."""
    return any((added.users, added.items, added.interactions, added.changed_users, added.changed_items))


def _draft(derived: Derived) -> Path:
    return derived.file.with_name(f".{derived.file.name}")


def _text(derived: Derived) -> str:
    assert derived.content is not None
    stem = derived.file.name.rpartition(".refresh-")[0]
    return f"# Written by llmcf refresh {stem}.yaml\n{dump_yaml(dict(derived.content))}"
