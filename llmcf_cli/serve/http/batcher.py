"""Micro-batching: one thread scores whatever waits, in batches, while the event loop reads and writes.

No request waits for others to come: an idle thread takes what there is at once, and what arrives while it computes is
the next batch. So batches grow with the load alone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class OverloadedError(Exception):
    """Too much is waiting."""


class DeadlineError(Exception):
    """The answer did not come in time; nothing was computed for it, or nobody waits for it any more."""


class ClosedError(Exception):
    """The server is stopping."""


@dataclass
class _Job(Generic[T, R]):
    work: T
    rows: int
    deadline: float
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[R]
    entered: float = field(default_factory=time.monotonic)


class Batcher(Generic[T, R]):
    """Answers jobs in batches on a thread of its own.

    Args:
        run: A batch of jobs → their answers, in order; an answer that is an exception is raised to who submitted it.
        batch_rows: Most rows of a batch; a longer job is a batch by itself.
        queue_rows: Most rows that may wait.
        prepare: Called once on the thread, before its first batch.
        waited: Called with the seconds that each job waited.
    """

    def __init__(
        self, run: Callable[[Sequence[T]], Sequence[R | Exception]], *, batch_rows: int, queue_rows: int,
        prepare: Callable[[], object] = lambda: None, waited: Callable[[float], None] = lambda seconds: None,
    ) -> None:  # fmt: skip
        self._run, self._batch_rows, self._queue_rows = run, batch_rows, queue_rows
        self._prepare, self._waited = prepare, waited
        self._jobs: deque[_Job[T, R]] = deque()
        self._rows, self._closed = 0, False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="scoring", daemon=True)
        self._thread.start()

    @property
    def waiting_rows(self) -> int:
        """Rows that wait."""
        return self._rows

    async def submit(self, work: T, rows: int, seconds: float) -> R:
        """The answer to a job.

        Args:
            work: The job.
            rows: Its size.
            seconds: How long it may wait and be computed.

        Raises:
            OverloadedError: Too many rows wait already.
            DeadlineError: It took too long.
            ClosedError: The batcher was closed before.
        """
        loop = asyncio.get_running_loop()
        job: _Job[T, R] = _Job(work, rows, time.monotonic() + seconds, loop, loop.create_future())
        with self._changed:
            if self._closed:
                raise ClosedError
            if self._rows and self._rows + rows > self._queue_rows:
                raise OverloadedError
            self._jobs.append(job)
            self._rows += rows
            self._changed.notify()
        try:
            async with asyncio.timeout(seconds):
                return await job.answer
        except TimeoutError:
            raise DeadlineError from None

    def close(self) -> None:
        """Accept nothing more, answer what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        self._prepare()
        while batch := self._next():
            now = time.monotonic()
            for job in batch:
                self._waited(now - job.entered)
            try:
                answers = self._run([job.work for job in batch])
            except Exception as error:  # a fault of ours: every request of the batch is told, and the thread goes on
                answers = [error] * len(batch)
            for job, answer in zip(batch, answers, strict=True):
                job.loop.call_soon_threadsafe(_settle, job.answer, answer)

    def _next(self) -> list[_Job[T, R]]:
        """The next batch, of jobs that somebody still waits for; none when closed and empty."""
        with self._changed:
            while True:
                batch: list[_Job[T, R]] = []
                rows = 0
                while self._jobs and (not batch or rows + self._jobs[0].rows <= self._batch_rows):
                    job = self._jobs.popleft()
                    self._rows -= job.rows
                    if job.deadline > time.monotonic() and not job.answer.done():
                        batch.append(job)
                        rows += job.rows
                if batch or (self._closed and not self._jobs):
                    return batch
                if not self._jobs:
                    self._changed.wait()


def _settle(future: asyncio.Future[R], answer: R | Exception) -> None:
    if future.done():  # the client is gone, or it took too long
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
