"""The page at `/`: scores of one user's candidates and the examples behind them. Works without scripts."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from fastapi import Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError

from llmcf_cli.core.text import visible
from llmcf_cli.serve.http.bodies import CandidateList, ScoreBody
from llmcf_cli.serve.http.bundles import Bundles
from llmcf_cli.serve.http.faults import refusal_of

Score = Callable[[ScoreBody], Awaitable[dict[str, Any]]]

SHOWN = 20
"""Candidates of a page; each is also scored without each of its examples."""
_SPLIT = re.compile(r"[\s,;]+")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


async def page_of(bundles: Bundles, score: Score, user: str, items: str, history: str) -> Response:
    """The page for a user and candidates, or the empty form.

    Args:
        bundles: What is served.
        score: Answers a body.
        user: The user's id; empty: nothing is asked yet.
        items: Candidates, between blanks or commas; empty: the first items of the catalogue.
        history: Items the user took, oldest first; empty: what the bundle keeps.
    """
    result, fault, wanted = None, None, _ids(items)
    if user and not wanted:
        wanted = bundles.current.scorer.model.resources.catalog.items.ids[:SHOWN].to_pylist()
    if user:
        try:
            one = CandidateList(user_id=user, candidates=wanted[:SHOWN], history=_ids(history) or None)
            answer = await score(ScoreBody(requests=[one], explain=True))
            result = answer["results"][0]
        except (Exception, ValidationError) as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            fault = refusal.fault
    scores = sorted(result["scores"], key=_first, reverse=True) if result else []
    text = _template().render(
        info=bundles.info(), user=user, items=items, history=history, result=result, scores=scores,
        fault=fault, left_out=max(len(wanted) - SHOWN, 0),
    )  # fmt: skip
    return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"})


@cache
def _template() -> Any:
    environment = Environment(loader=PackageLoader("llmcf_cli.serve.http", "."), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters["visible"] = visible
    return environment.get_template("page.html")


def _ids(text: str) -> list[Any]:
    return [part for part in _SPLIT.split(text) if part]


def _first(score: Any) -> float:
    value: float = next(iter(score["score"].values()))
    return value
