"""Jobs are answered in batches, in order, each with its own answer or fault, and never after their deadline."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from llmcf_cli.serve.http.batcher import Batcher, ClosedError, DeadlineError, OverloadedError


class Slow:
    """Doubles numbers, one batch at a time, when it is let; remembers the batches."""

    def __init__(self) -> None:
        self.batches, self.go = [], threading.Event()

    def __call__(self, jobs):
        self.go.wait()
        self.batches.append(list(jobs))
        return [ValueError(job) if job < 0 else job * 2 for job in jobs]


def batcher_of(run, **sizes):
    return Batcher(run, **{"batch_rows": 10, "queue_rows": 20} | sizes)


async def submitted(batcher, jobs, rows=1, seconds=20):
    tasks = []
    for job in jobs:
        tasks.append(asyncio.create_task(batcher.submit(job, rows, seconds)))
        await asyncio.sleep(0.01)  # in this order
    return tasks


def test_what_arrives_while_a_batch_is_computed_is_the_next_batch():
    run = Slow()
    batcher = batcher_of(run)

    async def main():
        tasks = await submitted(batcher, range(16))
        run.go.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [2 * n for n in range(16)]
    assert run.batches == [[0], list(range(1, 11)), list(range(11, 16))]
    batcher.close()


def test_a_long_job_is_a_batch_by_itself():
    run = Slow()
    batcher = batcher_of(run, queue_rows=100)

    async def main():
        tasks = [
            *await submitted(batcher, [1]),
            *await submitted(batcher, [2], rows=50),
            *await submitted(batcher, [3]),
        ]
        run.go.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [2, 4, 6]
    assert run.batches == [[1], [2], [3]]
    batcher.close()


def test_one_fault_is_one_jobs_and_a_fault_of_the_batch_is_everybodys():
    run = Slow()
    run.go.set()
    batcher = batcher_of(run)

    async def main():
        return await asyncio.gather(*(batcher.submit(n, 1, 20) for n in (1, -2, 3)), return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert (first, third) == (2, 6)
    assert isinstance(second, ValueError)

    def broken(jobs):
        raise RuntimeError("all of them")

    other = batcher_of(broken)

    async def again():
        for _ in range(2):  # the thread goes on
            with pytest.raises(RuntimeError):
                await other.submit(1, 1, 20)

    asyncio.run(again())
    batcher.close()
    other.close()


def test_too_much_waiting_is_refused_and_one_large_job_is_not():
    run = Slow()
    batcher = batcher_of(run)

    async def main():
        tasks = await submitted(batcher, [0, 1, 2], rows=8)
        with pytest.raises(OverloadedError):
            await batcher.submit(3, 8, 20)
        run.go.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4]
        assert batcher.waiting_rows == 0
        return await batcher.submit(4, 1000, 20)

    assert asyncio.run(main()) == 8
    batcher.close()


def test_a_job_past_its_deadline_is_told_and_not_computed():
    run = Slow()
    batcher = batcher_of(run)

    async def main():
        (first,) = await submitted(batcher, [0])
        begun = time.monotonic()
        with pytest.raises(DeadlineError):
            await batcher.submit(1, 1, 0.05)
        assert time.monotonic() - begun < 5
        run.go.set()
        assert await first == 0
        return await batcher.submit(2, 1, 20)

    assert asyncio.run(main()) == 4
    assert run.batches == [[0], [2]]
    batcher.close()


def test_closing_answers_what_waits_and_nothing_after():
    run = Slow()
    batcher = batcher_of(run)

    async def main():
        tasks = await submitted(batcher, [1, 2, 3])
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        with pytest.raises(ClosedError):
            await batcher.submit(4, 1, 20)
        run.go.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6]
        await closing

    asyncio.run(main())
