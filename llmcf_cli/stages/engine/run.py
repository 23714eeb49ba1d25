"""Planning and running stages: what is cached, what runs and why, one artifact at a time."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto
from graphlib import TopologicalSorter

from llmcf_cli.core.errors import LlmcfError, PackageError, StoreError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.stages.engine.base import Context, Job, NeedError, Node, Stage
from llmcf_cli.stages.engine.origins import versions
from llmcf_cli.stages.engine.readable import judge_texts, require_texts
from llmcf_cli.stages.engine.report import to_json
from llmcf_cli.stages.engine.tracking import tracked
from llmcf_cli.store.artifacts import Found, Manifest, differences
from llmcf_cli.store.integrity import file_records
from llmcf_cli.store.links import share

_FULL = (os.strerror(errno.ENOSPC), "[enforce fail at inline_container.cc")
"""How libraries say that the disk is full; the second is torch's way, whatever kept it from writing."""
_LONG_READ = 1 << 30  # bytes
_ELSEWHERE = "meanwhile made by another process"


class Cause(Enum):
    """Why a step runs, or does not."""

    CACHED = auto()
    """Its result is there."""
    FORCED = auto()
    """The user asked to run it again."""
    FOLLOWS = auto()
    """It reads what the user asked to run again."""
    DAMAGED = auto()
    """Its result is there, and damaged."""
    NEW = auto()
    """There is no earlier result of its arm."""
    CHANGED = auto()
    """Its settings, code or inputs are others than an earlier result's."""
    PUT_OFF = auto()
    """Its result is not there, and nothing needs it unless a stage that runs finds that it does."""
    ELSEWHERE = auto()
    """It was to run, and another process has made its result meanwhile."""


@dataclass(frozen=True)
class Step:
    """A node of the plan and what will happen to it.

    Attributes:
        node: The stage and its key.
        runs: Whether there is work to do.
        cause: Why it runs, or does not.
        reason: The same in words, with particulars.
        seen: Digest of the manifest that the decision was made by; empty where there was none.
    """

    node: Node
    runs: bool
    cause: Cause
    reason: str
    seen: str = ""


def plan(context: Context, targets: Sequence[Stage], force: Collection[str] = ()) -> list[Step]:
    """Every stage the targets need, in running order, with what will happen to each.

    Args:
        context: The run's recipe and stores.
        targets: Stages whose results are wanted.
        force: Names of stages to run again although cached; what reads their results runs again too.
    """
    graph = _Graph()
    for target in targets:
        graph.add(target, context)
    nodes = graph.nodes
    rank = _ranks(nodes)
    steps: dict[str, Step] = {}
    for node in sorted(nodes, key=lambda node: rank[node.stage.name]):
        steps[node.label] = _decide(node, steps, force)
    return _put_off(list(steps.values()))


def _put_off(steps: Sequence[Step]) -> list[Step]:
    """The same steps, without the work for results that all their readers may be able to spare."""
    readers: dict[str, list[tuple[str, Step]]] = {}
    for step in steps:
        for role, need in step.node.needs.items():
            readers.setdefault(need.label, []).append((role, step))
    found = []
    for step in steps:
        of = readers.get(step.node.label, [])
        if of and step.cause in (Cause.NEW, Cause.CHANGED) and all(role in one.node.stage.sparing for role, one in of):
            why = [one.node.stage.spared(one.node) if one.runs else f"{one.node.label} is made" for _, one in of]
            if all(why):
                step = replace(step, runs=False, cause=Cause.PUT_OFF, reason="; ".join(dict.fromkeys(why)))
        found.append(step)
    return found


def _ranks(nodes: Sequence[Node]) -> dict[str, int]:
    """Stage name → length of the longest chain of other stages below it, so that all of one name stand together."""
    below: dict[str, set[str]] = {}
    for node in nodes:  # a stage may extend a result of its own, as those of an addition do
        needed = {need.stage.name for need in node.needs.values()}
        below.setdefault(node.stage.name, set()).update(needed - {node.stage.name})
    rank: dict[str, int] = {}
    for name in TopologicalSorter(below).static_order():
        rank[name] = 1 + max((rank[one] for one in below[name]), default=-1)
    return rank


def reached(steps: Sequence[Step]) -> list[Step]:
    """The part of a plan that its last step comes down to: what that reads, what runs for it, and what this reads.

    What a cached result was once made of may be gone, and is of no interest.
    """
    found, wanted = [], {steps[-1].node.label}
    for step in reversed(steps):
        if step.node.label in wanted:
            found.append(step)
            if step.runs:
                wanted |= {need.label for need in step.node.needs.values()}
    return found[::-1]


def examined(steps: Sequence[Step], progress: Progress = SILENT) -> list[Step]:
    """The same plan after a look at the content of all cached results that it reads or ends in.

    Those that are damaged are made again; what was made from them, when they were whole, stays.

    Args:
        steps: As planned.
        progress: Told of results that take a while to read.
    """
    found: list[Step] = []
    read = {steps[-1].node.label} if steps else set()
    for step in reversed(steps):
        node = step.node
        if not step.runs and step.cause is not Cause.PUT_OFF and node.label in read:
            size = sum(record.size for record in _manifest(node).files.values())
            if size > _LONG_READ:
                progress.say(f"checking {size / 1e9:,.1f} GB of {node.label}")
            step = _decided_by(node, node.context.store.examine(node.stage.name, node.key)) or step
        if step.runs:
            read |= {need.label for need in node.needs.values()}
        found.append(step)
    return found[::-1]


def judge(steps: Sequence[Step]) -> None:
    """Judge the cached results of a plan by the limits of this run's recipe, before anything is made of them.

    Raises:
        LimitError: One is not acceptable.
    """
    for step in steps:
        if not step.runs and step.cause is not Cause.PUT_OFF:
            _judge(step.node, _manifest(step.node))


def _judge(node: Node, manifest: Manifest) -> None:
    recipe = node.context.recipe
    node.stage.judge(recipe, manifest.report)
    if node.stage.reads_texts:
        data = node.needs["ingest"]
        if (ingested := data.context.store.look(data.stage.name, data.key).whole) is not None:  # else it runs first
            judge_texts(ingested.report, recipe)


def execute(
    steps: Sequence[Step],
    progress: Progress,
    *,
    on_start: Callable[[Step], None],
    on_end: Callable[[Step, Manifest], None],
    on_failure: Callable[[Step, LlmcfError], None] | None = None,
) -> dict[str, LlmcfError]:
    """Run the steps that have work to do, in order; call back around every step, cached ones included.

    A step that fails leaves its checkpoints, and everything before it committed: the same call resumes.

    Args:
        steps: As planned.
        progress: Where to report.
        on_start: Called before a step.
        on_end: Called after it.
        on_failure: Called when a step fails; steps that do not need it still run. None: the first failure is raised.

    Returns:
        Label of each step that failed or could not run → the error behind it.

    Raises:
        LimitError: A cached result is not acceptable, see `judge`.
    """
    judge(steps)
    failed: dict[str, LlmcfError] = {}
    for step in steps:
        behind = next((failed[need.label] for need in step.node.needs.values() if need.label in failed), None)
        if behind is not None:
            failed[step.node.label] = behind
            continue
        on_start(step)
        if step.cause is Cause.PUT_OFF:
            continue
        try:
            try:
                step, manifest = _run(step, progress) if step.runs else (step, _manifest(step.node))
            except NeedError as error:
                needed = Step(step.node.needs[error.role], True, Cause.NEW, f"needed after all: {error.what}")
                on_start(needed)
                on_end(*_run(needed, progress))
                on_start(step)
                step, manifest = _run(step, progress)
            if step.cause is Cause.ELSEWHERE:
                _judge(step.node, manifest)
        except LlmcfError as error:
            if on_failure is None:
                raise
            failed[step.node.label] = error
            on_failure(step, error)
            continue
        on_end(step, manifest)
    return failed


class _Graph:
    """The nodes that some targets need, each result once."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], Node] = {}
        self._labels: set[str] = set()

    @property
    def nodes(self) -> list[Node]:
        """All of them, needed ones first."""
        return list(self._by_key.values())

    def add(self, stage: Stage, context: Context, arm: str = "") -> Node:
        """The node of a stage, with all it needs; the known one where some stage makes the same result already.

        Args:
            stage: What to add.
            context: Of the stage that needs it.
            arm: The arm that it is needed for.
        """
        context = replace(context, recipe=stage.view(context.recipe))
        arm = stage.owner or arm
        needs = {need.role: self.add(need, context, arm) for need in stage.needs(context.recipe)}
        variant = stage.variant if stage.label not in self._labels else arm
        node = Node(stage, context, needs, variant)
        known = self._by_key.get((stage.name, node.key))
        if known is not None:
            return known
        self._labels.add(node.label)
        self._by_key[stage.name, node.key] = node
        return node


def _decide(node: Node, steps: dict[str, Step], force: Collection[str]) -> Step:
    store = node.context.store
    found = store.look(node.stage.name, node.key)
    seen = found.manifest.digest if found.manifest else ""
    if node.stage.name in force:
        return Step(node, True, Cause.FORCED, "forced", seen)
    rerun = [need.label for need in node.needs.values() if steps[need.label].runs]
    forced = [label for label in rerun if steps[label].cause in (Cause.FORCED, Cause.FOLLOWS)]
    if forced:
        return Step(node, True, Cause.FOLLOWS, f"forced by {', '.join(forced)}", seen)
    if decided := _decided_by(node, found):
        return decided
    earlier = store.latest(node.stage.name, node.variant, node.context.recipe.name)
    if earlier is None:
        return Step(node, True, Cause.NEW, "new")
    before, after = ({**material, "inputs": {}} for material in (earlier.material, node.material))
    own = differences(before, after)
    if own:
        return Step(
            node, True, Cause.CHANGED, "; ".join(own[:3]) + (f" and {len(own) - 3} more" if len(own) > 3 else "")
        )
    old, new = earlier.material.get("inputs", {}), node.material["inputs"]
    inputs = sorted(role for role in old.keys() | new.keys() if old.get(role) != new.get(role))
    return Step(node, True, Cause.CHANGED, f"{', '.join(inputs)} changed" if inputs else "incomplete")


def _decided_by(node: Node, found: Found) -> Step | None:
    """What is to be done about what was found of a node's result; None where nothing was."""
    if found.whole:
        return Step(node, False, Cause.CACHED, "cached", found.whole.digest)
    if found.faults:
        return Step(
            node, True, Cause.DAMAGED, f"damaged: {found.damage}", found.manifest.digest if found.manifest else ""
        )
    return None


def _manifest(node: Node) -> Manifest:
    manifest = node.context.store.look(node.stage.name, node.key).whole
    if manifest is None:
        raise StoreError(
            "disappeared during the run",
            code="store-changed",
            where=str(node.folder),
            hint="run the same command again",
        )
    return manifest


def _run(step: Step, progress: Progress) -> tuple[Step, Manifest]:
    """Make a step's result, unless another process has since the plan was made: then take that one."""
    node = step.node
    store, stage = node.context.store, node.stage
    with ExitStack() as stack:
        stack.enter_context(_named(node))
        partial = stack.enter_context(store.begin(stage.name, node.key))
        if (there := _made_since(step)) is not None:
            store.discard(partial)
            return replace(step, runs=False, cause=Cause.ELSEWHERE, reason=_ELSEWHERE), there
        store.check_free(stage.name, node.key)
        spared: set[str] = set()
        read = []
        for role, need in node.needs.items():
            found = stack.enter_context(store.reading(need.stage.name, need.key))
            if found.whole is None and role in stage.sparing:
                spared.add(role)
            elif found.whole is None:
                what = f"needs {need.label}, which has changed since the run began {found.damage}".strip()
                raise StoreError(what, code="store-changed", where=node.label, hint="run the same command again")
            else:
                read.append((need.folder, found.whole.files))
        started, clock = datetime.now(UTC), time.monotonic()
        job = Job(
            context=node.context, out=partial.out, work=partial.work,
            progress=stack.enter_context(tracked(progress, node)),
            forced=step.cause is Cause.FORCED,
            inputs={role: need.folder for role, need in node.needs.items() if role not in spared},
            keys={role: need.key for role, need in node.needs.items()},
        )  # fmt: skip
        if stage.reads_texts:
            require_texts(job)
        report = to_json(stage.run(job))
        files = share(partial.out, file_records(partial.out), read)
        manifest = Manifest(
            stage=stage.name, variant=node.variant, recipe=node.context.recipe.name, key=node.key,
            material=node.material, report=report, files=files,
            started=started.isoformat(timespec="microseconds"), seconds=round(time.monotonic() - clock, 3),
            versions=versions(),
        )  # fmt: skip
        store.commit(partial, manifest)
    return step, manifest


def _made_since(step: Step) -> Manifest | None:
    """A whole result that was not there, or was another one, when the plan was made."""
    store, of = step.node.context.store, (step.node.stage.name, step.node.key)
    there = store.look(*of).whole
    return store.examine(*of).whole if there is not None and there.digest != step.seen else None


@contextmanager
def _named(node: Node) -> Iterator[None]:
    """Say that a library is missing or the disk full, wherever that was noticed and however it was worded."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise PackageError(error.name or "", where=node.label) from error
    except Exception as error:
        told = f"{error} {error.__cause__}"
        if not any(words in told for words in _FULL):
            raise
        free = shutil.disk_usage(node.context.store.root).free / 1e6
        raise StoreError(
            f"no space left on the disk of {node.context.store.root} ({free:,.0f} MB free)",
            code="disk-full",
            where=node.label,
            hint="free some space, or choose another folder with --artifacts DIR; then run the same command to resume",
        ) from error
