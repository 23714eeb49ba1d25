"""Work on a Ray cluster: actors that come and go, each with a copy of the worker.

Actors, not a Ray data set: the caller leases an item when a worker has room for it (`llm.workers`), and a data set
wants all of its items at the start. Workers are asked for at once and used as they come up; where the cluster has no
room for one, the others do its work. An item whose worker died (its node was lost, it ran out of memory) is given to
another, and a new worker is asked for: nothing is lost, and as an item's result leaves `map` once, nothing comes twice.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import socket
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

from llmcf_cli.core.errors import LlmcfError, PackageError, as_data, from_data
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.scale.base import Pool, R, T

ROOM = 2
"""Items a worker has at once: the next one is there when it ends the last."""
LIVES = 3
"""Workers that may die of one item, or before they are ready, one after the other."""
PATIENCE = 600.0
"""Seconds to wait for a first worker; clusters that grow on demand need minutes."""

_FORWARDED = ("LLMCF_", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM")
_WORDS = ("auto", "local")
_ADDRESS = re.compile(r"(ray://)?(?P<host>[^\s:/]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")
_PORTS = 65535
_SAME = "every node needs the same Python, llmcf and plugins, and the artifact folder under the same path"


class RayExecutor:
    """Pools of Ray actors: one per GPU of the cluster, or one per node where there is none.

    Args:
        address: Of the cluster, `HOST:PORT` or `ray://HOST:PORT`; None: RAY_ADDRESS, the cluster that runs on this
            machine, or else one of this machine alone, for as long as the pool.
        workers: Another number of workers.
        progress: Told that Ray is started here, which takes seconds.

    Raises:
        PackageError: Ray is not installed.
        LlmcfError: The address is none, or nothing answers there.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, progress: Progress = SILENT) -> None:
        if importlib.util.find_spec("ray") is None:
            raise PackageError("ray", where="--on ray")
        self._address, self._workers = address or os.environ.get("RAY_ADDRESS") or None, workers
        self._progress = progress
        if self._address:
            _require_answer(self._address)

    @contextmanager
    def pool(self, worker: Callable[[T], R]) -> Iterator[Pool[T, R]]:
        """See `Executor.pool`."""
        with _connected(self._address, self._progress):
            pool = RayPool(worker, *_share(self._workers))
            try:
                yield pool
            finally:
                pool.close()


@dataclass
class _Task(Generic[T]):
    item: T
    lives: int = LIVES


class RayPool(Generic[T, R]):
    """Actors with copies of one worker; see `RayExecutor`.

    Args:
        worker: What each of them does.
        count: How many.
        resources: What one of them takes, as Ray's options.
    """

    def __init__(self, worker: Callable[[T], R], count: int, resources: dict[str, float]) -> None:
        import ray

        self._ray: Any = ray
        self._kind: Any = ray.remote(_Actor).options(scheduling_strategy="SPREAD", max_restarts=0, **resources)
        self._worker = ray.put(worker)
        self._environment = {name: value for name, value in os.environ.items() if name.startswith(_FORWARDED)}
        self._starting: dict[Any, Any] = {}  # what says that an actor is ready → the actor
        self._load: dict[Any, int] = {}  # actors that are ready → items they have
        self._failed_starts = 0
        for _ in range(count):
            self._start()

    def map(self, items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """See `Pool.map`."""
        source = (_Task(item) for item in items)
        again: deque[_Task[T]] = deque()
        running: dict[Any, tuple[Any, _Task[T]]] = {}
        idle_since = time.monotonic()
        try:
            while True:
                more = self._hand_out(source, again, running)
                if not more and not running:
                    return
                ready = self._wait([*running, *self._starting], idle_since)
                for ref in ready:
                    if ref in self._starting:
                        self._started(ref)
                        continue
                    actor, task = running.pop(ref)
                    found = self._result(ref, actor, task)
                    if found is None:
                        again.append(task)
                    else:
                        yield task.item, found.value
                if running:
                    idle_since = time.monotonic()
        finally:
            for actor in {actor for actor, _ in running.values()}:  # the caller stopped: what they do is not wanted
                self._replace(actor)

    def close(self) -> None:
        """End the actors."""
        for actor in [*self._load, *self._starting.values()]:
            self._ray.kill(actor)
        self._load, self._starting = {}, {}

    def _hand_out(self, source: Iterator[_Task[T]], again: deque[_Task[T]], running: dict[Any, Any]) -> bool:
        """Give items to the workers with most room; whether some may be left."""
        while self._load:
            actor = min(self._load, key=self._load.__getitem__)
            if self._load[actor] >= ROOM:
                return True
            task = again.popleft() if again else next(source, None)
            if task is None:
                return False
            self._load[actor] += 1
            running[actor.do.remote(task.item)] = (actor, task)
        return True

    def _wait(self, refs: list[Any], idle_since: float) -> list[Any]:
        """What has ended, one at least."""
        ready, _ = self._ray.wait(refs, timeout=max(1.0, PATIENCE - (time.monotonic() - idle_since)))
        if not ready and not self._load:
            raise LlmcfError(
                f"the cluster had no room for a worker within {PATIENCE:.0f} s",
                code="cluster-no-room", where="--on ray",
                hint="check `ray status`; raise --workers to make each worker smaller",
            )  # fmt: skip
        return list(ready)

    def _result(self, ref: Any, actor: Any, task: _Task[T]) -> _Answer | None:
        """What a worker answered; None if it died."""
        from ray import exceptions

        try:
            answer: _Answer = self._ray.get(ref)
        except (exceptions.RayTaskError, exceptions.TaskCancelledError):
            raise
        except exceptions.RayError as error:  # of many kinds: the actor, its process, its node or the result is lost
            self._replace(actor)
            task.lives -= 1
            if not task.lives:
                raise LlmcfError(
                    f"{LIVES} workers died on the same piece of work; the last error: {_line(error)}",
                    code="cluster-worker-died", where="--on ray",
                    hint="lower --workers to give each more memory, or use smaller batches",
                ) from error  # fmt: skip
            return None
        if actor in self._load:
            self._load[actor] -= 1
        if answer.error is not None:
            raise from_data(answer.error)
        return answer

    def _start(self) -> None:
        actor = self._kind.remote([self._worker], self._environment)
        self._starting[actor.ready.remote()] = actor

    def _started(self, ref: Any) -> None:
        from ray import exceptions

        actor = self._starting.pop(ref)
        try:
            self._ray.get(ref)
        except exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= LIVES:
                raise LlmcfError(
                    f"workers cannot start: {_line(error)}", code="cluster-worker-died", where="--on ray", hint=_SAME
                ) from error
            self._start()
            return
        self._failed_starts = 0
        self._load[actor] = 0

    def _replace(self, actor: Any) -> None:
        """Let go of an actor, once, and ask for another."""
        if self._load.pop(actor, None) is not None:
            self._ray.kill(actor)
            self._start()


@dataclass(frozen=True)
class _Answer:
    """A result, or an error as data: not all kinds can be unpickled."""

    value: Any = None
    error: dict[str, Any] | None = None


class _Actor:
    """A copy of the worker in a process of its own."""

    def __init__(self, worker: list[Any], environment: dict[str, str]) -> None:
        import ray

        os.environ.update(environment)  # before the worker, and with it the libraries that read it, is unpickled
        self._worker = ray.get(worker[0])

    def ready(self) -> None:
        """Return once it is."""

    def do(self, item: Any) -> _Answer:
        """The worker's result."""
        try:
            return _Answer(self._worker(item))
        except ModuleNotFoundError as error:
            lacks = LlmcfError(f"a node lacks the package {error.name!r}", code="package-missing", hint=_SAME)
            return _Answer(error=as_data(lacks))
        except LlmcfError as error:
            return _Answer(error=as_data(error))


@contextmanager
def _connected(address: str | None, progress: Progress) -> Iterator[None]:
    """A connection to the cluster, for as long as this block where the process had none."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address in (None, "local"):
        unless = "" if address else ", unless `ray start` did already"
        progress.say(
            f"starting Ray on this machine, {os.cpu_count()} CPUs{unless}: some seconds; for a cluster, give --address"
        )
    try:
        with warnings.catch_warnings():
            # Of libraries that mind a fork: what Ray forks here becomes another program at once.
            warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"--address {address}" if address else "--on ray"
        raise LlmcfError(f"cannot be used: {_line(error)}", code="cluster-unusable", where=where, hint=_SAME) from error
    try:
        yield
    finally:
        ray.shutdown()


def _share(wanted: int | None) -> tuple[int, dict[str, float]]:
    """How many workers, and what each takes: sized so that as many fit as there are."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(resources.get("GPU", 0) for resources in alive)
    processors = [int(resources["CPU"]) for resources in alive if resources.get("CPU", 0) >= 1]
    if gpus:
        count = wanted or int(gpus)
        return count, {"num_cpus": 1, "num_gpus": 1 / -(-count // int(gpus))}
    if not processors:
        raise LlmcfError(
            "no node of the cluster has a free CPU",
            code="cluster-no-room",
            where="--on ray",
            hint="ray status",
        )
    count = wanted or len(processors)
    return count, {"num_cpus": max(1, min(processors) // -(-count // len(processors)))}


def _require_answer(address: str) -> None:
    """Refuse what is no address, and one where nothing listens: Ray itself would end the process, after a minute."""
    if address in _WORDS:
        return
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > _PORTS:
        raise LlmcfError(
            "not an address of a Ray cluster", code="cluster-address", where=f"--address {address}",
            allowed=("HOST:PORT", "ray://HOST:PORT", *_WORDS),
            hint="start a cluster with: ray start --head, which prints HOST:PORT",
        )  # fmt: skip
    try:
        with socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=5):
            return
    except (OSError, UnicodeError) as error:
        raise LlmcfError(
            f"no Ray cluster answers: {_line(error)}", code="cluster-unreachable", where=f"--address {address}",
            hint="start a cluster with: ray start --head, which prints HOST:PORT",
        ) from error  # fmt: skip


def _line(error: BaseException) -> str:
    """An error's message on one line, its last one where Ray wraps a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
