"""What the endpoints share: the bundle, the queue before it, and what is measured."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.serve.champion.pointer import pointed_at
from llmcf_cli.serve.golden import try_out
from llmcf_cli.serve.http.answering import Answer, Answering, Body
from llmcf_cli.serve.http.batcher import Batcher
from llmcf_cli.serve.http.bodies import Fault, ScoreBody
from llmcf_cli.serve.http.bundles import Bundles, Loaded, Watch
from llmcf_cli.serve.http.faults import Refusal
from llmcf_cli.serve.http.metrics import Metrics
from llmcf_cli.serve.http.settings import ServeSettings

log = logging.getLogger("llmcf.serve")
WATCH_SECONDS = 1.0
ITEMS_OF_A_ROW = 1000
"""Items of the catalogue that a search compares in about the time in which one candidate is scored."""


class Service:
    """What the endpoints share. The thread that scores runs until `close`.

    Args:
        settings: How to answer.

    Raises:
        StoreError: There is no such bundle, or it is not complete, or not signed as demanded.
        ModelError: Its parts do not fit together.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings, self.metrics = settings, Metrics()
        first = pointed_at(settings.watch) if settings.watch else settings.bundle
        if first is None:
            raise ValueError("neither a bundle nor a file to watch")
        self.bundles = Bundles(first, settings.signers, settings.engine)
        self.stopping = False
        limits = settings.limits
        warm = threading.Event()  # the first request to be answered waits for no library to be imported

        def prepare() -> None:
            try_out(self.bundles.current.scorer)
            warm.set()

        self._batcher: Batcher[Body, Answer] = Batcher(
            Answering(self.bundles, self.metrics), batch_rows=limits.batch_rows, queue_rows=limits.queue_rows,
            prepare=prepare, waited=self.metrics.waited.observe,
        )  # fmt: skip
        warm.wait()
        self.metrics.queue.set_function(lambda: self._batcher.waiting_rows)

    async def answer(self, body: Body) -> Answer:
        """The answer to a body, see `Answering`.

        Raises:
            Refusal: It asks for too much.
            Exception: See `Batcher.submit`, and what `Scorer` raises.
        """
        rows, what, hint = self._size(body)
        if rows > self.settings.limits.rows:
            raise Refusal(413, Fault(code="rows-too-many", what=f"{what}; at most {self.settings.limits.rows:,}",
                                     where="requests", hint=hint))  # fmt: skip
        return await self._batcher.submit(body, rows, self.settings.limits.deadline_seconds)

    def _size(self, body: Body) -> tuple[int, str, str]:
        """How many pairs of user and candidate a body is, or counts for, in words, and how it gets smaller."""
        scorer = self.bundles.current.scorer
        if isinstance(body, ScoreBody):
            rows = sum(len(request.candidates) for request in body.requests)
            rows *= 1 + scorer.examples_of_a_score if body.explain else 1
            more = ", one more per example" if body.explain else ""
            return rows, f"{rows:,} pairs of user and candidate{more}", "send fewer candidates per request"
        items = len(scorer.model.resources.catalog.items.ids)
        least = scorer.finder.candidates if scorer.finder else 0
        chosen = sum(max(one.k, least) + len(one.allow or ()) + len(one.deny) for one in body.requests)
        rows = len(body.requests) * (1 + items // ITEMS_OF_A_ROW) + chosen
        what = f"lists of {items:,} items for {len(body.requests):,} users count as {rows:,} pairs of user and item"
        return rows, what, "ask for fewer users or items per request"

    def change(self, load: Callable[[], Loaded]) -> Loaded:
        """Let another bundle answer; whatever goes wrong, the current one stays, and log and metrics say why."""
        begun = time.monotonic()
        try:
            now = load()
        except LlmcfError as error:
            self.metrics.reloads.labels("failed").inc()
            log.error("reload failed", extra={"fields": {"why": str(error), "bundle": self.bundles.current.digest}})
            raise
        self.metrics.reloads.labels("done").inc()
        self.metrics.bundle.set_to_current_time()
        seconds = round(time.monotonic() - begun, 3)
        log.info("bundle", extra={"fields": {"bundle": now.digest, "path": str(now.path), "seconds": seconds}})
        return now

    def reload(self) -> Loaded:
        """Load what the watched file names, or the bundle's folder again.

        Raises:
            LlmcfError: See `Bundles.load`.
        """
        watch = self.settings.watch
        return self.change(lambda: self.bundles.load(pointed_at(watch) if watch else self.bundles.current.path))

    async def follow(self, pointer: Path) -> None:
        """Load what a file names whenever that changes, for ever."""
        watch = Watch(pointer)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if await asyncio.to_thread(watch.changed):
                try:
                    await asyncio.to_thread(self.reload)
                except LlmcfError:
                    continue  # logged and counted; the bundle before goes on answering
                except Exception:
                    log.exception("reload failed")

    def close(self) -> None:
        """Answer what was accepted, and no more."""
        self.stopping = True
        self._batcher.close()
