"""Running the server: one process, or several workers on one port."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.serve.http.app import create_app
from llmcf_cli.serve.http.metrics import MULTIPROCESS
from llmcf_cli.serve.http.service import Service
from llmcf_cli.serve.http.settings import KEY_VARIABLE, Limits, ServeSettings

SETTINGS_VARIABLE = "LLMCF_SERVE_SETTINGS"
"""Environment variable by which workers get their settings; the key has its own."""


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and the event's fields. No ids of users or items."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def serve(settings: ServeSettings, *, host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or Ctrl-C; then answer what was accepted, and return.

    Args:
        settings: What is served, and how.
        host: Address to listen at.
        port: TCP port; 0: any free one, which the first line of the log names.
        workers: Processes; each loads its own copy of the bundle.

    Raises:
        LlmcfError: The port is taken, or the bundle cannot be served.
    """
    configure_log()
    # Before it listens: a bundle that cannot be served ends the command, and nobody reaches a server without one.
    service = Service(settings)
    listening = _listen(host, port)
    common: dict[str, Any] = {
        "log_config": None, "access_log": False, "server_header": False, "lifespan": "on",
        "timeout_graceful_shutdown": settings.limits.drain_seconds, "h11_max_incomplete_event_size": 1 << 16,
    }  # fmt: skip
    place = listening.getsockname()
    logging.getLogger("llmcf.serve").info("listening", extra={"fields": {"host": place[0], "port": place[1]}})
    if workers == 1:
        uvicorn.Server(uvicorn.Config(create_app(service), **common)).run(sockets=[listening])
        return
    service.close()
    with tempfile.TemporaryDirectory() as shared:
        os.environ[MULTIPROCESS] = shared
        os.environ[SETTINGS_VARIABLE] = _written(settings)
        config = uvicorn.Config(f"{__name__}:app_of_environment", factory=True, workers=workers, **common)
        Multiprocess(config, sockets=[listening]).run()


def app_of_environment() -> FastAPI:
    """The application of a worker."""
    configure_log()
    written = json.loads(os.environ[SETTINGS_VARIABLE])
    paths = {name: written[name] and Path(written[name]) for name in ("bundle", "watch", "signers")}
    settings = ServeSettings(**paths, key=os.environ.get(KEY_VARIABLE, ""), limits=Limits(**written["limits"]),
                             engine=written["engine"])  # fmt: skip
    return create_app(Service(settings))


def configure_log() -> None:
    """Log as JSON lines on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("llmcf.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def _written(settings: ServeSettings) -> str:
    paths = {name: str(path.absolute()) if (path := getattr(settings, name)) else None
             for name in ("bundle", "watch", "signers")}  # fmt: skip
    return json.dumps({**paths, "limits": vars(settings.limits), "engine": settings.engine})


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise LlmcfError(f"cannot listen: {error.strerror or error}", code="address-unusable", where=f"{host}:{port}",
                         hint="choose another --port, or --port 0 for any free one") from error  # fmt: skip
    listening.set_inheritable(True)
    return listening
