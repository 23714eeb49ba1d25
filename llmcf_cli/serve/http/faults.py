"""Whatever goes wrong with a request, as a status and a body that says what to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import ValidationError

from llmcf_cli.core.errors import DataError, LlmcfError, closest
from llmcf_cli.serve.http.batcher import ClosedError, DeadlineError, OverloadedError
from llmcf_cli.serve.http.bodies import CandidateList, Fault, ListWanted, RecommendBody, ScoreBody


@dataclass
class Refusal(Exception):
    """A request that gets no answer.

    Attributes:
        status: HTTP status.
        fault: What the client is told.
        headers: Headers of the response.
    """

    status: int
    fault: Fault
    headers: dict[str, str] = field(default_factory=dict)


def refusal_of(error: BaseException) -> Refusal | None:
    """What a client is told about an error; None: it is no fault of the client, nor of the load."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ValidationError):
        return Refusal(422, _fault_of(error))
    if isinstance(error, LlmcfError):
        status = 422 if isinstance(error, DataError) else 409
        return Refusal(status, Fault(code=error.code, what=error.what, where=str(error.where),
                                     allowed=list(error.allowed), hint=error.hint))  # fmt: skip
    if isinstance(error, OverloadedError):
        fault = Fault(code="overloaded", what="too many requests are waiting", hint="try again in a second")
        return Refusal(429, fault, {"Retry-After": "1"})
    if isinstance(error, DeadlineError):
        fault = Fault(code="deadline", what="the answer was not ready in time", hint="send fewer candidates, or retry")
        return Refusal(503, fault, {"Retry-After": "1"})
    if isinstance(error, ClosedError):
        return Refusal(503, Fault(code="stopping", what="the server is stopping", hint="try another server"))
    return None


def _fault_of(error: ValidationError) -> Fault:
    first, *others = error.errors(include_url=False, include_context=False, include_input=False)
    where = ".".join(str(part) for part in first["loc"])
    more = f" ({len(others):,} more problems)" if others else ""
    allowed = _fields(error.title, first["loc"])
    what, hint = first["msg"], "GET /docs shows the form of a request"
    if allowed and first["type"] == "extra_forbidden":
        near = closest(str(first["loc"][-1]), allowed)
        what = f"{first['loc'][-1]!r} is not a field of a request" + (f'; did you mean "{near}"?' if near else "")
    elif allowed and first["type"] == "missing":
        what = f"{first['loc'][-1]!r} is missing"
    return Fault(code="body", what=what + more, where=where, allowed=allowed, hint=hint)


def _fields(title: str, place: tuple[int | str, ...]) -> list[str]:
    """Names of the fields where one was too many, or is missing."""
    body = {one.__name__: one for one in (ScoreBody, RecommendBody)}.get(title)
    if body is None:
        return []
    inner = ListWanted if body is RecommendBody else CandidateList
    return sorted((body if len(place) == 1 else inner).model_fields)
