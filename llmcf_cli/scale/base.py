"""What an executor is, and the one that needs no cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Pool(Protocol[T, R_co]):
    """Workers that hold what they need (weights, an index) from the first item to the last."""

    def map(self, items: Iterable[T]) -> Iterator[tuple[T, R_co]]:
        """Each item with its result, in any order. An item is taken only when a worker has room for it.

        Raises:
            LlmcfError: What a worker raised; or workers cannot start, or keep ending.
        """


class Executor(Protocol):
    """Makes pools."""

    def pool(self, worker: Callable[[T], R]) -> AbstractContextManager[Pool[T, R]]:
        """A pool whose workers are copies of one function.

        Args:
            worker: Item → result, by the item alone. Where it travels it is pickled: it should travel as its settings
                and load what is large at its first call.

        Raises:
            LlmcfError: On entry, if there is no cluster.
        """


class LocalPool(Generic[T, R]):
    """This process as the only worker; results come in the order of the items."""

    def __init__(self, worker: Callable[[T], R]) -> None:
        self._worker = worker

    def map(self, items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """See `Pool.map`."""
        for item in items:
            yield item, self._worker(item)


class LocalExecutor:
    """Does the work here."""

    def pool(self, worker: Callable[[T], R]) -> AbstractContextManager[Pool[T, R]]:
        """See `Executor.pool`; the worker itself, not a copy."""
        return nullcontext(LocalPool(worker))


LOCAL = LocalExecutor()
