"""The page at `/`: scores of one user's candidates with the examples behind them, or the user's list. No scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from fastapi import Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError

from llmcf_cli.core.text import visible
from llmcf_cli.serve.http.answering import Answer, Body
from llmcf_cli.serve.http.bodies import CandidateList, ListWanted, RecommendBody, ScoreBody
from llmcf_cli.serve.http.bundles import Bundles
from llmcf_cli.serve.http.faults import refusal_of

Answers = Callable[[Body], Awaitable[Answer]]

SHOWN = 20
"""Candidates of a page, each of which is also scored without each of its examples; and users to choose from."""
LIST = 10
"""Items of a list, unless another number is asked for."""
_SPLIT = re.compile(r"[,;\r\n]")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


@dataclass(frozen=True)
class Asked:
    """What is written in the form.

    Attributes:
        user: The user's id; empty: nothing is asked yet.
        items: Item ids, between commas: candidates, of a bundle that makes lists those to leave out.
        history: Items the user took, oldest first; empty: what the bundle keeps.
        k: Items of the list; empty: `LIST`.
    """

    user: str
    items: str
    history: str
    k: str


async def page_of(bundles: Bundles, answer: Answers, asked: Asked) -> Response:
    """The page about a user, or the empty form: scores of candidates, or a list where the bundle makes lists.

    Args:
        bundles: What is served.
        answer: Answers a body.
        asked: What is written in the form.
    """
    now, result, fault = bundles.current.scorer, None, None
    catalog = now.model.resources.catalog
    wanted = _ids(asked.items)
    if asked.user and not wanted and not now.makes_lists:
        wanted = catalog.items.ids[:SHOWN].to_pylist()
    if asked.user:
        try:
            result = (await answer(_body(asked, wanted, now.makes_lists)))["results"][0]
        except (Exception, ValidationError) as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            fault = refusal.fault
    scores = sorted(result["scores"], key=_first, reverse=True) if result and "scores" in result else []
    text = _template("lists.html" if now.makes_lists else "scores.html").render(
        info=bundles.info(), asked=asked, result=result, scores=scores, fault=fault,
        left_out=max(len(wanted) - SHOWN, 0), users=catalog.users.ids[:SHOWN].to_pylist() if now.makes_lists else [],
    )  # fmt: skip
    return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"})


def reference(document: dict[str, Any]) -> Response:
    """The page at `/docs`: every endpoint of an OpenAPI document, with an example of each body. It loads nothing."""
    endpoints = [
        {"method": method.upper(), "path": path, "about": entry.get("description") or entry.get("summary", ""),
         "body": _fields(entry), "example": _example(entry)}
        for path, methods in document["paths"].items() for method, entry in methods.items()
    ]  # fmt: skip
    text = _template("docs.html").render(info=document["info"], endpoints=endpoints)
    return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"})


def _schema(entry: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (
        entry.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    )
    return found


def _fields(entry: dict[str, Any]) -> list[tuple[str, bool, str]]:
    """(Name, whether it must be given, meaning) of a body's fields, those of its requests after them."""
    whole = _schema(entry)
    if not whole:
        return []
    each = whole["properties"]["requests"]["items"]
    return [
        (prefix + name, name in part.get("required", ()), field.get("description", ""))
        for prefix, part in (("", whole), ("requests[].", each)) for name, field in part["properties"].items()
    ]  # fmt: skip


def _example(entry: dict[str, Any]) -> str:
    examples = _schema(entry).get("examples", [])
    return json.dumps(examples[0], ensure_ascii=False) if examples else ""


def _body(asked: Asked, wanted: list[Any], lists: bool) -> Body:
    history = _ids(asked.history) or None
    if not lists:
        one = CandidateList(user_id=asked.user, candidates=wanted[:SHOWN], history=history)
        return ScoreBody(requests=[one], explain=True)
    k = asked.k.strip()
    size: Any = int(k) if k.isascii() and k.isdigit() and len(k) < 10 else k or LIST  # else the model says what may be
    return RecommendBody(requests=[ListWanted(user_id=asked.user, k=size, history=history, deny=wanted)])


@cache
def _template(name: str) -> Any:
    environment = Environment(loader=PackageLoader("llmcf_cli.serve.http", "."), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters["visible"] = visible
    return environment.get_template(name)


def _ids(text: str) -> list[Any]:
    return [part.strip() for part in _SPLIT.split(text) if part.strip()]


def _first(score: Any) -> float:
    value: float = next(iter(score["score"].values()))
    return value
