"""A server in the tests' own process."""

from __future__ import annotations

from contextlib import contextmanager

from starlette.testclient import TestClient

from llmcf_cli.serve.http.app import create_app
from llmcf_cli.serve.http.service import Service
from llmcf_cli.serve.http.settings import Limits, ServeSettings

PATIENT = Limits(deadline_seconds=120, body_seconds=120)
"""A test machine may be slow."""


@contextmanager
def serving(bundle=None, limits=None, **settings):
    """A client of a server in this process."""
    app = create_app(Service(ServeSettings(bundle, limits=limits or PATIENT, **settings)))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
