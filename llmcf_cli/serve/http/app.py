"""The endpoints."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llmcf_cli import __version__
from llmcf_cli.serve.http.bodies import (
    Fault,
    FaultAnswer,
    Info,
    RecommendAnswer,
    RecommendBody,
    ScoreAnswer,
    ScoreBody,
)
from llmcf_cli.serve.http.faults import Refusal, refusal_of
from llmcf_cli.serve.http.page import Asked, page_of, reference
from llmcf_cli.serve.http.service import Service
from llmcf_cli.serve.http.settings import ServeSettings

log = logging.getLogger("llmcf.serve")
OPEN = frozenset({"/live", "/ready"})
"""Paths that need no key: an orchestrator asks them."""
_CLIENT_GONE = 499
"""The status that nginx logs for it."""
_REQUEST_ID, _BUNDLE = "X-Request-Id", "X-Bundle"
_FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": FaultAnswer, "description": meaning}
    for status, meaning in ((401, "Wrong or missing key"), (413, "Too large"), (422, "Malformed"),
                            (429, "Too much is waiting"), (503, "Not in time, or stopping"))
}  # fmt: skip


def create_app(service: Service) -> FastAPI:
    """The application; it closes the service when it ends."""
    settings = service.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service
        log.info("ready", extra={"fields": {"bundle": service.bundles.current.digest}})
        watching = asyncio.create_task(service.follow(settings.watch)) if settings.watch else None
        yield
        if watching:
            watching.cancel()
        await asyncio.to_thread(service.close)

    # The framework's own pages load scripts from elsewhere: nothing without a network, and nobody's business.
    app = FastAPI(title="llmcf serve", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
                  description="Scores and lists of a trained bundle. No request calls a language model.")  # fmt: skip
    app.middleware("http")(_guarded(settings))
    app.exception_handler(HTTPException)(_no_such_place)
    _add_answers(app, settings)
    _add_administration(app)
    _add_examples(app, service)
    return app


def _body_of(body: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a body that the endpoint reads itself."""
    schema = body.model_json_schema()
    (schema["properties"]["requests"]["items"],) = schema.pop("$defs").values()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _add_answers(app: FastAPI, settings: ServeSettings) -> None:
    async def answered(request: Request, kind: type[ScoreBody | RecommendBody]) -> Response:
        body = kind.model_validate_json(await _body(request, settings))
        answer = await _service(request).answer(body)
        text = await asyncio.to_thread(json.dumps, answer) if len(body.requests) > 100 else json.dumps(answer)
        return Response(text, media_type="application/json", headers={_BUNDLE: answer["bundle"]})

    @app.post("/v1/score", response_model=ScoreAnswer, responses=_FAULTS, openapi_extra=_body_of(ScoreBody),
              tags=["scores"])  # fmt: skip
    async def score(request: Request) -> Response:
        """Score each user's candidates."""
        return await answered(request, ScoreBody)

    lacking: dict[int | str, dict[str, Any]] = {
        409: {"model": FaultAnswer, "description": "The bundle scores given items and cannot make lists"}
    }

    @app.post("/v1/recommend", response_model=RecommendAnswer, responses=_FAULTS | lacking,
              openapi_extra=_body_of(RecommendBody), tags=["lists"])  # fmt: skip
    async def recommend(request: Request) -> Response:
        """List the best items of the whole catalogue for each user; needs a bundle of the task `retrieval`."""
        return await answered(request, RecommendBody)

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def documentation() -> Response:
        return reference(app.openapi())

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page(request: Request, user: str = "", items: str = "", history: str = "", k: str = "") -> Response:
        service = _service(request)
        return await page_of(service.bundles, service.answer, Asked(user, items, history, k))


def _add_examples(app: FastAPI, service: Service) -> None:
    """Let OpenAPI's examples be of the bundle that answers, so that they work."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        items = service.bundles.current.scorer.model.resources.catalog.items.ids[:3].to_pylist() or [""]
        one = {"user_id": "somebody", "history": items[:1]}
        for path, request in (("score", {**one, "candidates": items}), ("recommend", {**one, "k": 1})):
            content = document["paths"][f"/v1/{path}"]["post"]["requestBody"]["content"]
            content["application/json"]["schema"]["examples"] = [{"requests": [request]}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _add_administration(app: FastAPI) -> None:
    @app.get("/live", tags=["health"])
    async def live() -> dict[str, str]:
        """Whether the process runs."""
        return {"status": "live"}

    @app.get("/ready", tags=["health"], responses={503: {"model": FaultAnswer}})
    async def ready(request: Request) -> dict[str, str]:
        """Whether a bundle is loaded and requests are accepted."""
        service = _service(request)
        if service.stopping:
            raise Refusal(503, Fault(code="stopping", what="the server is stopping"))
        return {"status": "ready", "bundle": service.bundles.current.digest}

    @app.get("/info", tags=["health"], responses={401: _FAULTS[401]})
    async def info(request: Request) -> Info:
        """The bundle that is served."""
        return _service(request).bundles.info()

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """Metrics in Prometheus' text format."""
        page = await asyncio.to_thread(_service(request).metrics.page)
        return Response(page, media_type="text/plain; version=0.0.4")

    @app.post("/admin/reload", tags=["administration"], responses={401: _FAULTS[401], 409: {"model": FaultAnswer}})
    async def reload(request: Request) -> Info:
        """Reload the bundle's folder, or what the watched file names; the current bundle answers until then."""
        service = _service(request)
        await asyncio.to_thread(service.reload)
        return service.bundles.info()

    @app.post("/admin/rollback", tags=["administration"], responses={401: _FAULTS[401], 409: {"model": FaultAnswer}})
    async def rollback(request: Request) -> Info:
        """Serve the previous bundle again."""
        service = _service(request)
        await asyncio.to_thread(service.change, service.bundles.rollback)
        return service.bundles.info()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Next = Callable[[Request], Awaitable[Response]]


def _guarded(settings: ServeSettings) -> Callable[[Request, Next], Awaitable[Response]]:
    """Around every endpoint: the key, the request's id, log, metrics, and faults as JSON."""

    async def guard(request: Request, answer: Next) -> Response:
        begun = time.perf_counter()
        own = uuid.uuid4().hex
        given = request.headers.get(_REQUEST_ID, "")
        request_id = given if given.isascii() and given.isprintable() and 0 < len(given) <= 64 else own
        request.state.request_id = request_id
        try:
            _check_key(request, settings.key)
            response = await answer(request)
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                log.exception("fault", extra={"fields": {"request": request_id}})
                what = "internal server error"
                refusal = Refusal(
                    500, Fault(code="internal", what=what, hint="see the server's log, under the request's id")
                )
            response = _refused(refusal, request_id)
        response.headers[_REQUEST_ID] = request_id
        seconds = time.perf_counter() - begun
        route = request.scope.get("route")
        endpoint = getattr(route, "path", "none")
        metrics = _service(request).metrics
        metrics.requests.labels(endpoint, response.status_code).inc()
        metrics.seconds.labels(endpoint).observe(seconds)
        fields = {"request": request_id, "endpoint": endpoint, "status": response.status_code,
                  "ms": round(seconds * 1000, 2), "bundle": response.headers.get(_BUNDLE)}  # fmt: skip
        log.info("request", extra={"fields": fields})
        return response

    return guard


def _refused(refusal: Refusal, request_id: str) -> Response:
    answer = FaultAnswer(error=refusal.fault, request_id=request_id)
    return JSONResponse(answer.model_dump(), refusal.status, refusal.headers)


async def _no_such_place(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    fault = Fault(
        code="endpoint-unknown", what=str(error.detail), where=request.url.path, hint="GET /docs lists the endpoints"
    )
    return _refused(Refusal(error.status_code, fault), request.state.request_id)


def _check_key(request: Request, key: str) -> None:
    if not key or request.url.path in OPEN:
        return
    given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
    if not hmac.compare_digest(given, key.encode()):
        raise Refusal(401, Fault(code="key", what="wrong or missing key", hint="send Authorization: Bearer KEY"),
                      {"WWW-Authenticate": "Bearer"})  # fmt: skip


async def _body(request: Request, settings: ServeSettings) -> bytes:
    """The body, if it is short and comes in time."""
    most, parts, size = settings.limits.body_bytes, [], 0
    too_large = Refusal(
        413, Fault(code="body-too-large", what=f"a body has at most {most:,} bytes", hint="send fewer rows")
    )
    declared = request.headers.get("Content-Length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    try:
        async with asyncio.timeout(settings.limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        what = f"the body did not arrive within {settings.limits.body_seconds:g} s"
        raise Refusal(408, Fault(code="body-slow", what=what)) from None
    except ClientDisconnect:  # nobody reads the answer, but log and metrics tell it from a fault
        what = "the client disconnected before its request was complete"
        raise Refusal(_CLIENT_GONE, Fault(code="client-gone", what=what)) from None
    return b"".join(parts)
