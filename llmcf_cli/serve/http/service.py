"""What the endpoints share: the bundle, the queue before it, and what is measured."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.serve.http.answering import Answer, Answering
from llmcf_cli.serve.http.batcher import Batcher
from llmcf_cli.serve.http.bodies import Fault, ScoreBody
from llmcf_cli.serve.http.bundles import Bundles, Loaded, Watch, pointed_at, try_out
from llmcf_cli.serve.http.faults import Refusal
from llmcf_cli.serve.http.metrics import Metrics
from llmcf_cli.serve.http.settings import ServeSettings

log = logging.getLogger("llmcf.serve")
WATCH_SECONDS = 1.0


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
        self.bundles = Bundles(first, settings.signers)
        self.stopping = False
        limits = settings.limits
        warm = threading.Event()  # the first request to be answered waits for no library to be imported

        def prepare() -> None:
            try_out(self.bundles.current.scorer)
            warm.set()

        self._batcher: Batcher[ScoreBody, Answer] = Batcher(
            Answering(self.bundles, self.metrics), batch_rows=limits.batch_rows, queue_rows=limits.queue_rows,
            prepare=prepare, waited=self.metrics.waited.observe,
        )  # fmt: skip
        warm.wait()
        self.metrics.queue.set_function(lambda: self._batcher.waiting_rows)

    async def score(self, body: ScoreBody) -> Answer:
        """The answer to a body.

        Raises:
            Refusal: It asks for too much.
            Exception: See `Batcher.submit`, and what `Scorer` raises.
        """
        rows = sum(len(request.candidates) for request in body.requests)
        rows *= 1 + self.bundles.current.scorer.examples if body.explain else 1
        if rows > self.settings.limits.rows:
            what = f"{rows:,} pairs of user and candidate" + (", one more per example" if body.explain else "")
            raise Refusal(413, Fault(code="rows-too-many", what=f"{what}; at most {self.settings.limits.rows:,}",
                                     where="requests", hint="send fewer candidates at once"))  # fmt: skip
        return await self._batcher.submit(body, rows, self.settings.limits.deadline_seconds)

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
