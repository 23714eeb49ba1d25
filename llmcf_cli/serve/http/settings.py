"""How a server answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llmcf_cli.serve.core import Engine

KEY_VARIABLE = "LLMCF_API_KEY"
"""Environment variable: the key that every request must bring."""


@dataclass(frozen=True)
class Limits:
    """What a server accepts, so that no client can take it from the others.

    Attributes:
        body_bytes: Most bytes of a request's body; more is refused with status 413.
        rows: Most (user, candidate) pairs of a request; more is refused with 413.
        batch_rows: Most pairs that the model scores at once. A longer request is scored by itself.
        queue_rows: Pairs that may wait; a request that finds more waiting is refused with 429.
        body_seconds: Longest a body may take to arrive; then 408.
        deadline_seconds: Longest a request may wait for the model; then 503. A client may ask for less.
        drain_seconds: On SIGTERM, time for what was accepted to be answered.
    """

    body_bytes: int = 4 << 20
    rows: int = 20_000
    batch_rows: int = 4096
    queue_rows: int = 65_536
    body_seconds: float = 10
    deadline_seconds: float = 5
    drain_seconds: int = 30


@dataclass(frozen=True)
class ServeSettings:
    """A server.

    Attributes:
        bundle: Folder of the bundle to begin with; None: what `watch` names.
        watch: File that holds the path of the bundle to serve, relative to itself; a change makes the server load it.
        signers: Public keys, one of which must have signed every bundle; None: anybody.
        key: What requests must bring as `Authorization: Bearer KEY`; empty: nothing.
        limits: What is accepted.
        engine: What computes scores; see `Scorer.load`.
    """

    bundle: Path | None
    watch: Path | None = None
    signers: Path | None = None
    key: str = field(default="", repr=False)
    limits: Limits = Limits()
    engine: Engine = "torch"
