"""Bodies → answers, many requests at once, each as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeAlias, TypeVar

import numpy as np

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.rec.input.examples import EXAMPLES
from llmcf_cli.serve.answers import Explained, Scores
from llmcf_cli.serve.http.bodies import RecommendBody, ScoreBody
from llmcf_cli.serve.http.bundles import Bundles, Loaded
from llmcf_cli.serve.http.metrics import Metrics
from llmcf_cli.serve.lists import Wanted
from llmcf_cli.serve.requests import Lists, to_lists, to_users

Answer = dict[str, Any]
Body: TypeAlias = ScoreBody | RecommendBody
B = TypeVar("B", ScoreBody, RecommendBody)


class Answering:
    """Answers batches of bodies with the bundle that answers at that moment.

    Args:
        bundles: Where it comes from.
        metrics: What is measured.
    """

    def __init__(self, bundles: Bundles, metrics: Metrics) -> None:
        self._bundles, self._metrics = bundles, metrics

    def __call__(self, bodies: Sequence[Body]) -> list[Answer | Exception]:
        """An answer to each body, or what is wrong with it: one bad body spoils no other.

        That of a `ScoreBody` is a `ScoreAnswer`, that of a `RecommendBody` a `RecommendAnswer`.
        """
        now = self._bundles.current
        plain = partial(self._scores, now, partial(now.scorer.score_lists, step=self._metrics.step))
        explained = partial(self._scores, now, now.scorer.explain_lists)
        lists = [body for body in bodies if isinstance(body, RecommendBody)]
        scores = [body for body in bodies if isinstance(body, ScoreBody)]
        of_plain = iter(self._answers(now, [body for body in scores if not body.explain], plain))
        of_lists = iter(self._answers(now, lists, partial(self._lists, now)))

        def of(body: Body) -> Answer | Exception:
            if isinstance(body, RecommendBody):
                return next(of_lists)
            return self._answers(now, [body], explained)[0] if body.explain else next(of_plain)

        return [of(body) for body in bodies]

    def _answers(
        self, now: Loaded, bodies: Sequence[B], results_of: Callable[[Sequence[B]], list[Answer]]
    ) -> list[Answer | Exception]:
        """Of bodies that are answered at once; where that fails, of each by itself."""
        if not bodies:
            return []
        try:
            results = iter(results_of(bodies))
        except LlmcfError as error:
            alone = [self._answers(now, [body], results_of) for body in bodies] if len(bodies) > 1 else [[error]]
            return [answer for answers in alone for answer in answers]
        return [{"bundle": now.digest, "results": list(islice(results, len(body.requests)))} for body in bodies]

    def _lists(self, now: Loaded, bodies: Sequence[RecommendBody]) -> list[Answer]:
        """A list for each user of the bodies."""
        with self._metrics.step("read"):
            asked = [request for body in bodies for request in body.requests]
            users = to_users([{"user_id": one.user_id, "history": one.history, "time": one.time} for one in asked],
                             now.scorer.form)  # fmt: skip
            wanted = [Wanted.of(one.k, one.allow, one.deny, one.filter_seen) for one in asked]
        self._metrics.lists.observe(len(asked))
        found = now.scorer.user_lists(users, wanted, self._metrics.step)
        with self._metrics.step("write"):
            known, lacking, scores = found.user_known_N.tolist(), found.lacking_N.tolist(), found.score_M.tolist()
            self._count(scores, {"user": known.count(False), "event": sum(lacking)})
            items = ({"item_id": item, "score": score}
                     for item, score in zip(found.item_ids.to_pylist(), scores, strict=True))  # fmt: skip
            return [
                {"user_id": user or "", "known": is_known, "events": events, "unknown_events": unknown,
                 "items": list(islice(items, size))}
                for user, is_known, events, unknown, size in zip(
                    found.user_ids.to_pylist(), known, found.event_N.tolist(), lacking, found.size_N.tolist(),
                    strict=True,
                )
            ]  # fmt: skip

    def _scores(
        self, now: Loaded, score: Callable[[Lists], Scores], bodies: Sequence[ScoreBody]
    ) -> list[Answer]:  # fmt: skip
        """A result for each list of candidates of the bodies."""
        with self._metrics.step("read"):
            lists = to_lists([vars(request) for body in bodies for request in body.requests], now.scorer.form)
        self._metrics.batch.observe(len(lists.list_N))
        scores = score(lists)
        with self._metrics.step("write"):
            return self._written(now, lists, scores)

    def _written(self, now: Loaded, lists: Lists, scores: Scores) -> list[Answer]:
        columns = {name: column.tolist() for name, column in now.scorer.task.answer(scores.score_N).items()}
        known_N, user_known_n = scores.item_known_N.tolist(), scores.user_known_n.tolist()
        lacking_n = scores.lacking_n.tolist()
        unknown = {"item": known_N.count(False), "user": user_known_n.count(False), "event": sum(lacking_n)}
        self._count(next(iter(columns.values())), unknown)
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
            {"user_id": user or "", "known": known, "events": events, "unknown_events": lacking,
             "scores": list(islice(of_lists, size))}
            for user, known, events, lacking, size in zip(
                users, user_known_n, scores.event_n.tolist(), lacking_n, size_n, strict=True
            )
        ]  # fmt: skip

    def _count(self, scores: list[float], unknown: dict[str, int]) -> None:
        for value in scores:
            self._metrics.scores.observe(value)
        for kind, lacking in unknown.items():
            if lacking:
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
