"""What a server measures of itself, in Prometheus' form."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 4096, 10_000, 20_000)
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of prometheus-client: folder that several workers share."""


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter("llmcf_requests", "Requests answered.", ("endpoint", "status"), registry=registry)
        self.seconds = Histogram("llmcf_request_seconds", "From the last byte of a request to its answer.",
                                 ("endpoint",), buckets=SECONDS, registry=registry)  # fmt: skip
        self.steps = Histogram("llmcf_step_seconds", "Time of a step for a batch: read, encode, match, model, write.",
                               ("step",), buckets=SECONDS, registry=registry)  # fmt: skip
        self.waited = Histogram("llmcf_wait_seconds", "Time that a request waited for the model.", buckets=SECONDS,
                                registry=registry)  # fmt: skip
        self.batch = Histogram("llmcf_batch_rows", "(user, candidate) pairs scored at once.", buckets=ROWS,
                               registry=registry)  # fmt: skip
        self.lists = Histogram("llmcf_batch_lists", "Lists of the catalogue made at once.", buckets=ROWS,
                               registry=registry)  # fmt: skip
        self.queue = Gauge(
            "llmcf_queue_rows",
            "Pairs that wait, or as many as lists count for.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.unknown = Counter("llmcf_unknown", "Unknown users, candidates (item) and events of histories.", ("kind",),
                               registry=registry)  # fmt: skip
        self.scores = Histogram("llmcf_score", "Of ranking the logit, of retrieval the score.",
                                buckets=[b / 2 for b in range(-12, 13)], registry=registry)  # fmt: skip
        self.reloads = Counter("llmcf_reloads", "Attempts to load another bundle.", ("outcome",), registry=registry)
        self.bundle = Gauge("llmcf_bundle_loaded_timestamp_seconds", "When the bundle that answers was loaded.",
                            registry=registry, multiprocess_mode="max")  # fmt: skip
        self.bundle.set_to_current_time()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.steps.labels(name).observe(time.perf_counter() - begun)

    def page(self) -> bytes:
        """Everything measured, of all workers, in Prometheus' text form."""
        if os.environ.get(MULTIPROCESS):
            shared = CollectorRegistry()
            MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
            return generate_latest(shared)
        return generate_latest(self._registry)
