"""Bodies → answers, many requests at once, each as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.serve.http.bodies import ScoreBody
from llmcf_cli.serve.http.bundles import Bundles, Loaded
from llmcf_cli.serve.http.metrics import Metrics
from llmcf_cli.serve.requests import Lists, to_lists

Answer = dict[str, Any]


class Answering:
    """Scores batches of bodies with the bundle that answers at that moment.

    Args:
        bundles: Where it comes from.
        metrics: What is measured.
    """

    def __init__(self, bundles: Bundles, metrics: Metrics) -> None:
        self._bundles, self._metrics = bundles, metrics

    def __call__(self, bodies: Sequence[ScoreBody]) -> list[Answer | Exception]:
        """An answer of `ScoreAnswer` to each body, or what is wrong with it: one bad body spoils no other."""
        now = self._bundles.current
        plain = [at for at, body in enumerate(bodies) if not body.explain]
        answers: list[Answer | Exception] = [LookupError()] * len(bodies)
        for at, body in enumerate(bodies):
            if body.explain:
                answers[at] = self._caught(now, [body])
        together = self._caught(now, [bodies[at] for at in plain]) if plain else {}
        for at in plain:
            if isinstance(together, Exception):
                answers[at] = together if len(plain) == 1 else self._caught(now, [bodies[at]])
        if not isinstance(together, Exception):
            results = iter(together.get("results", ()))
            for at in plain:
                mine = [next(results) for _ in bodies[at].requests]
                answers[at] = {"bundle": now.digest, "results": mine}
        return answers

    def _caught(self, now: Loaded, bodies: Sequence[ScoreBody]) -> Answer | Exception:
        try:
            return self._answer(now, bodies)
        except LlmcfError as error:
            return error

    def _answer(self, now: Loaded, bodies: Sequence[ScoreBody]) -> Answer:
        scorer, metrics = now.scorer, self._metrics
        requests = [request for body in bodies for request in body.requests]
        with metrics.step("read"):
            lists = to_lists([vars(request) for request in requests], scorer.form)
        metrics.batch.observe(len(lists.list_N))
        details: list[list[Answer]] | None = None
        if bodies[0].explain:
            explained = scorer.explain_lists(lists)
            score_N, details = explained.score_N, _details(now, explained)
        else:
            score_N = scorer.score_lists(lists, metrics.step)
        with metrics.step("write"):
            return {"bundle": now.digest, "results": self._results(now, lists, score_N, details)}

    def _results(
        self, now: Loaded, lists: Lists, score_N: np.ndarray, details: list[list[Answer]] | None
    ) -> list[Answer]:
        scorer, catalog = now.scorer, now.scorer.model.resources.catalog
        columns = {name: column.tolist() for name, column in scorer.task.answer(score_N).items()}
        known_N = (catalog.items.rows(lists.item_ids) > 0).tolist()
        users = lists.users["user_id"].combine_chunks()
        user_known_n = (catalog.users.rows(users) > 0).tolist()
        self._count(columns, known_N, user_known_n)
        scores = [
            {"item_id": item, "known": known, "score": dict(zip(columns, values, strict=True))}
            for item, known, *values in zip(lists.item_ids.to_pylist(), known_N, *columns.values(), strict=True)
        ]
        for score, examples in zip(scores, details or (), strict=False):
            score["examples"] = examples
        end_n = np.cumsum(np.bincount(lists.list_N, minlength=lists.users.num_rows)).tolist()
        start_n = [0, *end_n[:-1]]
        heads = zip(
            users.to_pylist(), user_known_n, scorer.events_of(lists.users).tolist(), start_n, end_n, strict=True
        )
        return [
            {"user_id": user or "", "known": known, "events": events, "scores": scores[start:end]}
            for user, known, events, start, end in heads
        ]

    def _count(self, columns: dict[str, list[float]], known_N: list[bool], user_known_n: list[bool]) -> None:
        for value in next(iter(columns.values())):
            self._metrics.scores.observe(value)
        for kind, known in (("item", known_N), ("user", user_known_n)):
            if lacking := known.count(False):
                self._metrics.unknown.labels(kind).inc(lacking)


def _details(now: Loaded, explained: Any) -> list[list[Answer]]:
    """The examples of each candidate, best first."""
    bank, items = now.scorer.model.resources.get("examples"), now.scorer.model.resources.catalog.items
    if bank is None:
        return [[] for _ in explained.score_N]
    return [
        [
            {"item_id": items.ids[int(bank.samples.item_row_N[e]) - 1].as_py(), "label": int(bank.samples.label_N[e]),
             "likeness": float(likeness), "moved": float(moved)}
            for e, likeness, moved in zip(*row, strict=True) if e >= 0
        ]
        for row in zip(explained.example_NK, explained.likeness_NK, explained.moved_NK, strict=True)
    ]  # fmt: skip
