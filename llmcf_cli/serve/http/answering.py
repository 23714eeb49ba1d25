"""Bodies → answers, many requests at once, each as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.rec.input.examples import EXAMPLES
from llmcf_cli.serve.http.bodies import ScoreBody
from llmcf_cli.serve.http.bundles import Bundles, Loaded
from llmcf_cli.serve.http.metrics import Metrics
from llmcf_cli.serve.requests import Lists, to_lists
from llmcf_cli.serve.scorer import Explained, Scores

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
        plain = partial(now.scorer.score_lists, step=self._metrics.step)
        together = iter(self._answers(now, [body for body in bodies if not body.explain], plain))
        return [
            self._answers(now, [body], now.scorer.explain_lists)[0] if body.explain else next(together)
            for body in bodies
        ]

    def _answers(
        self, now: Loaded, bodies: Sequence[ScoreBody], score: Callable[[Lists], Scores]
    ) -> list[Answer | Exception]:
        """Of bodies that are scored at once; where that fails, of each by itself."""
        if not bodies:
            return []
        try:
            results = iter(self._results(now, bodies, score))
        except LlmcfError as error:
            alone = [self._answers(now, [body], score) for body in bodies] if len(bodies) > 1 else [[error]]
            return [answer for answers in alone for answer in answers]
        return [{"bundle": now.digest, "results": list(islice(results, len(body.requests)))} for body in bodies]

    def _results(self, now: Loaded, bodies: Sequence[ScoreBody], score: Callable[[Lists], Scores]) -> list[Answer]:
        """A result for each list of the bodies."""
        with self._metrics.step("read"):
            lists = to_lists([vars(request) for body in bodies for request in body.requests], now.scorer.form)
        self._metrics.batch.observe(len(lists.list_N))
        scores = score(lists)
        with self._metrics.step("write"):
            return self._written(now, lists, scores)

    def _written(self, now: Loaded, lists: Lists, scores: Scores) -> list[Answer]:
        columns = {name: column.tolist() for name, column in now.scorer.task.answer(scores.score_N).items()}
        known_N, user_known_n = scores.item_known_N.tolist(), scores.user_known_n.tolist()
        self._count(columns, known_N, user_known_n)
        written = [
            {"item_id": item, "known": known, "score": dict(zip(columns, values, strict=True))}
            for item, known, *values in zip(lists.item_ids.to_pylist(), known_N, *columns.values(), strict=True)
        ]
        if isinstance(scores, Explained):
            for one, examples in zip(written, _details(now, scores), strict=True):
                one["examples"] = examples
        of_lists = iter(written)
        users, size_n = lists.users["user_id"].to_pylist(), np.bincount(lists.list_N, minlength=lists.users.num_rows)
        return [
            {"user_id": user or "", "known": known, "events": events, "scores": list(islice(of_lists, size))}
            for user, known, events, size in zip(users, user_known_n, scores.event_n.tolist(), size_n, strict=True)
        ]

    def _count(self, columns: dict[str, list[float]], known_N: list[bool], user_known_n: list[bool]) -> None:
        for value in next(iter(columns.values())):
            self._metrics.scores.observe(value)
        for kind, known in (("item", known_N), ("user", user_known_n)):
            if lacking := known.count(False):
                self._metrics.unknown.labels(kind).inc(lacking)


def _details(now: Loaded, explained: Explained) -> list[list[Answer]]:
    """The examples of each candidate, best first."""
    bank, items = now.scorer.model.resources.get(EXAMPLES), now.scorer.model.resources.catalog.items
    texts = now.scorer.reasoning_E
    if bank is None:
        return [[] for _ in explained.score_N]
    return [
        [
            {"item_id": items.ids[int(bank.samples.item_row_N[e]) - 1].as_py(), "label": int(bank.samples.label_N[e]),
             "likeness": float(likeness), "moved": float(moved),
             "reasoning": None if texts is None else texts[int(e)].as_py()}
            for e, likeness, moved in zip(*row, strict=True) if e >= 0
        ]
        for row in zip(explained.example_NK, explained.likeness_NK, explained.moved_NK, strict=True)
    ]  # fmt: skip
