"""Requests → scores, by the same encoding, inputs and model as offline.

Legend: N requests, B batch, L history, T text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.features.batch import Catalog, Samples, encode_entities, encode_rows
from llmcf_cli.features.spec import list_parts
from llmcf_cli.rec.bundle.bundle import MANIFEST, Bundle, load_bundle
from llmcf_cli.rec.bundle.cascade import read_cascade
from llmcf_cli.rec.bundle.grow import grown
from llmcf_cli.rec.bundle.signature import check_signer
from llmcf_cli.rec.input.base import Input
from llmcf_cli.rec.input.examples import EXAMPLES, ExampleAnswers
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.recommender import Recommender
from llmcf_cli.rec.train.without import moved_without_each
from llmcf_cli.serve.answers import Added, Explained, KeptHistories, Scores, Unknown
from llmcf_cli.serve.cascade import check_catalogues
from llmcf_cli.serve.core import BATCH, EXPORTED, Core, Engine, TorchCore, exported_core
from llmcf_cli.serve.lists import UserLists, Wanted, best_items
from llmcf_cli.serve.requests import NEEDED, Lists, RequestForm, Rows, to_requests, to_users
from llmcf_cli.serve.rows import events_of, first_of, history_rows, known_of, times_of, unknown_of

Step = Callable[[str], AbstractContextManager[None]]


def _unmeasured(name: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Finder:
    """What finds the candidates of a cascade.

    Attributes:
        other: Searches the catalogue.
        candidates: How many it finds for a list; for a longer one, as many as that has.
    """

    other: Scorer
    candidates: int


class Scorer:
    """Scores (user, item) requests with a bundle. Make one by `Scorer.load`.

    Safe to share between threads: `add_items` makes another model, of the same weights, and puts it in the place of
    `model` at once. A call that runs meanwhile ends with the items that it began with. Scores are computed by `core`.

    That of a cascade scores by the model that ranks, and makes lists of what the other model, its `finder`, finds.
    """

    def __init__(self, bundle: Bundle, exported: Path | None = None) -> None:
        self.recipe, self.clock = bundle.recipe, bundle.clock
        self.task, self.inputs, self.digest = bundle.task, bundle.inputs, bundle.digest
        self.golden, self.reasoning_E = bundle.golden, bundle.reasoning_E
        self.form = RequestForm(bundle.clock, bundle.times)
        bundle.model.keep()
        self.core: Core = TorchCore(bundle.model)
        self._adding = Lock()
        self._answers = {name: one.answers(self.model.resources, bundle.clock) for name, one in bundle.inputs.items()}
        if exported is not None:
            self.core = exported_core(bundle, exported)
        self.finder: Finder | None = None

    @property
    def model(self) -> Recommender:
        """The model of now."""
        return self.core.model

    @classmethod
    def load(cls, bundle: str | Path, *, signers: Path | None = None, engine: Engine = "torch") -> Scorer:
        """The scorer of a bundle, which holds everything it needs.

        Args:
            bundle: Its folder, or that of a cascade.
            signers: File of public keys in OpenSSH's form, one of which must have signed the bundle; None: anybody.
            engine: What computes scores: the model, or `onnx`: what `llmcf export-onnx` left in the bundle. Of a
                cascade, the one that ranks.

        Raises:
            StoreError: The folder is no complete bundle, or is not signed by any of them, or has no export.
            ModelError: Its parts do not fit together.
        """
        folder = Path(bundle)
        if signers is not None and engine == "onnx":
            raise ModelError("the signature does not cover the export", code="option-conflict",
                             where="signers", hint="use the engine torch")  # fmt: skip
        if signers is not None:
            check_signer(folder, MANIFEST, signers)
        parts = read_cascade(folder)
        if parts is None:
            return cls(load_bundle(folder), folder / EXPORTED if engine == "onnx" else None)
        finds = cls(load_bundle(parts.retrieve))
        ranks = cls(load_bundle(parts.rank), parts.rank / EXPORTED if engine == "onnx" else None)
        parts.check(finds.digest, ranks.digest)
        ranks.put_behind(finds, parts.manifest.candidates)
        ranks.digest = parts.digest
        return ranks

    def put_behind(self, other: Scorer, candidates: int) -> None:
        """Make lists from now on: of the best that another finds in the catalogue, the best by this one.

        Args:
            other: Finds them.
            candidates: How many; a longer list takes more.

        Raises:
            ModelError: It makes no lists, has another catalogue, or times are written in another way.
        """
        if not other.makes_lists or self.makes_lists:
            raise ModelError(
                f"cannot find candidates with the task {other.task.config.type} and rank them with "
                f"{self.task.config.type}", code="cascade-unfit", where="cascade",
                hint="give a bundle of the task `retrieval` first, and one of `ranking` second",
            )  # fmt: skip
        if other.form != self.form:
            raise ModelError("the two bundles use different time formats", code="cascade-unfit", where="cascade",
                             hint="train both from the same `dataset`")  # fmt: skip
        check_catalogues(*(one.model.resources.catalog.items.ids for one in (other, self)))
        self.finder = Finder(other, candidates)

    @property
    def examples_of_a_score(self) -> int:
        """K; 0 for an arm without examples."""
        bank = self.model.resources.get(EXAMPLES)
        return 0 if bank is None else bank.k

    def score(self, requests: Rows) -> pa.Table:
        """Score requests.

        A user or item that training never saw is scored by what is known: its history, and the item's text and features
        if `add_items` gave them. A request without a history is scored by the events that the bundle keeps of its user
        (strictly earlier than the request's time); an empty list is a history without events.

        Args:
            requests: An Arrow table or mappings, read as ingest reads tables: user_id and item_id; optional `history`,
                item ids the user took, oldest first, and `time`, when the request is made, written as in the data;
                without it, after everything. Examples are strictly earlier. Items of a history that the catalogue lacks
                are left out.

        Returns:
            Columns user_id, item_id, and the task's answer, in the order of the requests: of `ranking` logit (float32)
            and probability (float64).

        Raises:
            DataError: A column is missing, or a value cannot be read.
        """
        asked = to_requests(requests, self.form)
        score_N = self.score_lists(Lists.of_pairs(asked)).score_N
        return pa.table({"user_id": asked["user_id"], "item_id": asked["item_id"], **self.task.answer(score_N)})

    def score_lists(self, lists: Lists, step: Step = _unmeasured) -> Scores:
        """Scores of users' lists of candidates; see `score`.

        Args:
            lists: Users and candidates.
            step: Context in which each of the steps `encode`, `match` and `model` runs, e.g. to time it.
        """
        core = self.core
        model = core.model
        with step("encode"):
            users, samples, lacking_n = self._encode(model, lists)
        score_N = np.empty(len(samples), np.float32)
        for start in range(0, len(samples), BATCH):
            part = samples.take(slice(start, start + BATCH))
            with step("match"):
                values = self._values(model, part)
            with step("model"):
                score_N[start : start + BATCH] = core.score(part, values)
        return Scores(score_N, *known_of(users, samples), lacking_n)

    def recommend(
        self, requests: Rows, k: int, *, allow: Collection[str] | None = None, deny: Collection[str] = (),
        filter_seen: bool = True,
    ) -> pa.Table:  # fmt: skip
        """The k items of the whole catalogue that suit each user best.

        Unless `filter_seen` is false, the items of the request's history are left out, and all that the bundle knows
        the user to have taken before the request's time.

        Args:
            requests: As for `score`, without items: user_id; optional `history` and `time`.
            k: Items for each user.
            allow: Ids of the only items to choose from; None: all.
            deny: Ids of items to leave out.
            filter_seen: Whether items that were taken are left out.

        Returns:
            Columns user_id, rank (int64, from 1), item_id and score (float32), k rows for each request in order.

        Raises:
            ModelError: The bundle's model makes no lists.
            DataError: k is below 1, fewer items are left, nothing is known that a user did, an id of `allow` or `deny`
                is unknown, or a value cannot be read.
        """
        asked = to_users(requests, self.form)
        return self.user_lists(asked, [Wanted.of(k, allow, deny, filter_seen)] * asked.num_rows).to_arrow()

    def user_lists(self, asked: pa.Table, wanted: Sequence[Wanted], step: Step = _unmeasured) -> UserLists:
        """The lists of users, each as it is wanted; see `recommend`.

        Args:
            asked: Users, as `to_users` gives them.
            wanted: What each user's list is to hold.
            step: Context in which each of the steps `encode` and `model` runs, e.g. to time it.
        """
        if self.finder is not None:
            found = self.finder.other.user_lists(asked, [one.widened(self.finder.candidates) for one in wanted], step)
            scores = self.score_lists(Lists(asked, found.item_ids, found.list_M), step)
            return found.in_order(scores.score_N, np.array([one.k for one in wanted], np.int64))
        model = self.model
        with step("encode"):
            users, own = self._users(model, asked)
        with step("model"):
            return best_items(model, users, asked, own, wanted, partial(self._values, model))

    def has_events(self, asked: pa.Table) -> NDArray[np.bool_]:
        """Of each user, whether anything is known that it did, without which there is no list; bool [N].

        Args:
            asked: Users, as `to_users` gives them.
        """
        if self.finder is not None:
            return self.finder.other.has_events(asked)
        users, _ = self._users(self.model, asked)
        return events_of(users) > 0

    def encoded_users(
        self, requests: Rows
    ) -> tuple[Samples, Callable[[Samples], Mapping[str, NDArray[Any] | None]]]:  # fmt: skip
        """Users as the model reads them, and what gives the values of its inputs for some of them.

        Args:
            requests: As for `recommend`.
        """
        model = self.model
        users, _ = self._users(model, to_users(requests, self.form))
        return users, partial(self._values, model)

    @property
    def makes_lists(self) -> bool:
        """Whether `recommend` answers."""
        return self.finder is not None or self.task.config.form == "user"

    def explain_lists(self, lists: Lists) -> Explained:
        """What `score_lists` gives, with the examples behind each score and what each of them does to it."""
        core, search = self.core, self._answers.get(EXAMPLES)
        model = core.model
        users, samples, lacking_n = self._encode(model, lists)
        known = *known_of(users, samples), lacking_n
        if not isinstance(search, ExampleAnswers):
            nothing = np.empty((len(samples), 0), np.float32)
            whole_N = core.score(samples, self._values(model, samples))
            return Explained(whole_N, *known, nothing.astype(np.int32), nothing, nothing)
        matches = search.search(model.resources, samples)
        values = self._values(model, samples, {EXAMPLES: matches.index_NK})
        whole_N = core.score(samples, values)

        def score(index_NK: NDArray[np.int32]) -> NDArray[np.float32]:
            return core.score(samples, {**values, EXAMPLES: index_NK})

        moved_NK = moved_without_each(score, whole_N, matches.index_NK).astype(np.float32)
        return Explained(whole_N, *known, matches.index_NK, matches.score_NK, moved_NK)

    def unknown(self, requests: Rows) -> dict[str, Unknown]:
        """What the bundle does not know of the users, the items, and the items of histories in requests.

        Args:
            requests: As for `score`.
        """
        catalog: Catalog = self.model.resources.catalog
        asked = to_requests(requests, self.form)
        users, items = (asked[name].combine_chunks() for name in NEEDED)
        values, length_N = list_parts(asked["history"].combine_chunks())
        each = np.arange(asked.num_rows)
        return {
            "users": unknown_of(catalog.users, users, each), "items": unknown_of(catalog.items, items, each),
            "items of histories": unknown_of(catalog.items, values, np.repeat(each, length_N)),
        }  # fmt: skip

    def add_items(self, items: pa.Table, text_nT: np.ndarray | None = None) -> Added:
        """Make new items known, without training: by features the vocabulary has, and by text. All of them or none.

        Args:
            items: `item_id` and any of the item's feature columns.
            text_nT: Their text vectors, float32 of unit norm, from the encoder of the recipe's `match.space`.
                None, or a row of zeros: the item has no text.

        Returns:
            How many there are, and how many of them lack a text that the model reads.

        Raises:
            DataError: An id is missing, there twice or known already, or a vector does not fit or is not of unit norm.
        """
        with self._adding:
            resources = self.model.resources
            known = resources.catalog.items
            added = encode_entities(items, "item", resources.spec, resources.vocab)
            if added.ids.null_count:
                raise DataError(f"{added.ids.null_count:,} items have no id", code="items-no-id", where="add_items")
            if (old_n := known.rows(added.ids) > 0).any():
                raise DataError(
                    f"{first_of(added.ids, old_n)}: already in the catalogue", code="items-known", where="add_items"
                )
            given = {"text": text_nT}

            def extended(one: Input, longer: Resources) -> Any:
                return one.extended(resources.get(one.name), longer, items, given.get(one.name))

            catalog = replace(resources.catalog, items=known.extended(added))
            longer_model = grown(self.model, self.inputs, replace(resources, catalog=catalog), extended)
            longer = longer_model.resources
            before, self.core = self.core, self.core.with_model(longer_model)
            if self.finder is not None:  # after this one, which so knows whatever the other finds
                try:
                    self.finder.other.add_items(items, text_nT)
                except Exception:
                    self.core = before
                    raise
            texts = longer.get("text") if "text" in self.inputs else None
            added_nT = None if texts is None else texts[-len(added.ids) :]
            return Added(len(added.ids), 0 if added_nT is None else int((~added_nT.any(1)).sum()))

    def _encode(self, model: Recommender, lists: Lists) -> tuple[Samples, Samples, NDArray[np.int64]]:
        """The users of lists, each encoded once; the candidates; and how many items of each history are unknown."""
        users, own = self._users(model, lists.users)
        item_row_N = model.resources.catalog.items.rows(lists.item_ids)
        given_n, kept_n = (np.asarray(list_parts(one)[1]) for one in (lists.users["history"].combine_chunks(), own))
        samples = replace(users.take(lists.list_N), item_row_N=item_row_N)
        return users, samples, (given_n - kept_n).astype(np.int64)

    def _users(self, model: Recommender, asked: pa.Table) -> tuple[Samples, pa.Array]:
        """Samples without items: each request's user, time, and history, given or kept; and the given histories as rows
        of the catalogue."""
        catalog: Catalog = model.resources.catalog
        size, own = asked.num_rows, history_rows(asked, catalog)
        rows = pa.table({
            "sample_id": np.full(size, -1, np.int64), "user_row": catalog.users.rows(asked["user_id"].combine_chunks()),
            "item_row": np.zeros(size, np.int32), "label": np.zeros(size, np.float32), "time": times_of(asked),
            "history": own,
        })  # fmt: skip
        samples = encode_rows(rows, model.resources.spec.history_length)
        histories, without_N = model.resources.histories, asked["history"].is_null().to_numpy()
        if histories is None or not without_N.any():
            return samples, own
        kept_nL = histories.before(
            samples.user_row_N[without_N], samples.time_N[without_N], samples.history_row_NL.shape[1]
        )
        history_row_NL = samples.history_row_NL.copy()
        history_row_NL[without_N] = kept_nL
        return replace(samples, history_row_NL=history_row_NL), own

    def kept_histories(self, requests: Rows) -> KeptHistories:
        """How requests that bring no history are scored.

        Args:
            requests: As for `score`.
        """
        asked = to_requests(requests, self.form)
        without_N = asked["history"].is_null().to_numpy()
        users, _ = self._users(self.model, asked)
        has_N = events_of(users) > 0
        return KeptHistories(int(without_N.sum()), int((without_N & has_N).sum()))

    def values_of(self, samples: Samples) -> dict[str, NDArray[Any] | None]:
        """Values of the inputs that the model reads, for encoded requests."""
        return self._values(self.model, samples)

    def _values(
        self, model: Recommender, samples: Samples, found: Mapping[str, NDArray[Any]] = MappingProxyType({})
    ) -> dict[str, NDArray[Any] | None]:
        """Values of the inputs for some requests; those that are found already are taken as they are."""
        asked = {name: answers for name, answers in self._answers.items() if name not in found}
        return {**found, **{name: answers(model.resources, samples) for name, answers in asked.items()}}
