"""Requests → scores, by the same encoding, inputs and model as offline.

Legend: N requests, n users or new items, B batch, L history, K examples, T text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.batch import Catalog, EntityTable, Samples, encode_entities, encode_rows, to_batch
from llmcf_cli.features.spec import list_parts
from llmcf_cli.rec.bundle.bundle import MANIFEST, Bundle, load_bundle
from llmcf_cli.rec.bundle.signature import check_signer
from llmcf_cli.rec.input.examples import EXAMPLES, ExampleAnswers
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.predict import score
from llmcf_cli.serve.requests import NEEDED, Lists, RequestForm, Rows, to_requests

NOW = np.iinfo(np.int64).max
"""Time of a request that names none: after everything."""
BATCH = 4096


Step = Callable[[str], AbstractContextManager[None]]


def _unmeasured(name: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Unknown:
    """What a bundle does not know of some requests.

    Attributes:
        ids: Different ids.
        requests: Requests with such an id, or without any.
    """

    ids: int
    requests: int


@dataclass(frozen=True)
class KeptHistories:
    """Requests that bring no history.

    Attributes:
        requests: How many there are.
        kept: Those that are scored by events which the bundle keeps; the others are scored without any.
    """

    requests: int
    kept: int


@dataclass(frozen=True)
class Explained:
    """Scores with their examples.

    Attributes:
        score_N: float32, what the model gives.
        example_NK: int32 positions in the bundle's examples, best first; -1 where there are fewer than K.
        likeness_NK: float32, each example's score in the search.
        moved_NK: float32, by how much `score_N` falls when the example is taken away.
    """

    score_N: NDArray[np.float32]
    example_NK: NDArray[np.int32]
    likeness_NK: NDArray[np.float32]
    moved_NK: NDArray[np.float32]


class Scorer:
    """Scores (user, item) requests with a bundle. Make one by `Scorer.load`.

    Safe to share between threads: `add_items` makes another model, of the same weights, and puts it in the place of
    `model` at once. A call that runs meanwhile ends with the items that it began with.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.model, self.recipe, self.clock = bundle.model, bundle.recipe, bundle.clock
        self.task, self.digest = bundle.task, bundle.digest
        self.form, self.inputs = RequestForm(bundle.clock, bundle.times), bundle.inputs
        self._adding = Lock()
        self._answers = {name: one.answers(self.model.resources, bundle.clock) for name, one in bundle.inputs.items()}

    @property
    def examples(self) -> int:
        """K, the examples of a request; 0 for an arm without."""
        bank = self.model.resources.get(EXAMPLES)
        return 0 if bank is None else int(bank.k)

    @classmethod
    def load(cls, bundle: str | Path, *, signers: Path | None = None) -> Scorer:
        """The scorer of a bundle, which holds everything it needs.

        Args:
            bundle: Its folder.
            signers: File of public keys in OpenSSH's form, one of which must have signed the bundle; None: anybody.

        Raises:
            StoreError: The folder is no complete bundle, or is not signed by any of them.
            ModelError: Its parts do not fit together.
        """
        if signers is not None:
            check_signer(Path(bundle), MANIFEST, signers)
        return cls(load_bundle(Path(bundle)))

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
        score_N = self.score_lists(Lists.of_pairs(asked))
        return pa.table({"user_id": asked["user_id"], "item_id": asked["item_id"], **self.task.answer(score_N)})

    def score_lists(self, lists: Lists, step: Step = _unmeasured) -> NDArray[np.float32]:
        """What the model gives for each candidate of users' lists, float32 [N]; see `score`.

        Args:
            lists: Users and candidates.
            step: Context in which each of the steps `encode`, `match` and `model` runs, e.g. to time it.
        """
        model = self.model
        with step("encode"):
            samples = self._encode(model, lists)
        score_N = np.empty(len(samples), np.float32)
        for start in range(0, len(samples), BATCH):
            part = samples.take(slice(start, start + BATCH))
            with step("match"):
                values = self._values(model, part)
            with step("model"):
                score_N[start : start + BATCH] = self._score(model, part, values)
        return score_N

    def explain_lists(self, lists: Lists) -> Explained:
        """What `score_lists` gives, with the examples behind each score and what each of them does to it."""
        model = self.model
        samples = self._encode(model, lists)
        values = self._values(model, samples)
        search = self._answers.get(EXAMPLES)
        if not isinstance(search, ExampleAnswers):
            whole_N = self._score(model, samples, values)
            nothing = np.empty((len(samples), 0), np.float32)
            return Explained(whole_N, nothing.astype(np.int32), nothing, nothing)
        matches = search.search(model.resources, samples)
        whole_N = self._score(model, samples, {**values, EXAMPLES: matches.index_NK})
        moved_NK = np.zeros_like(matches.score_NK, np.float32)
        for k in range(moved_NK.shape[1]):
            without_NK = matches.index_NK.copy()
            without_NK[:, k] = -1
            moved_NK[:, k] = whole_N - self._score(model, samples, {**values, EXAMPLES: without_NK})
        return Explained(whole_N, matches.index_NK, matches.score_NK, moved_NK)

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
            "users": _unknown(catalog.users, users, each), "items": _unknown(catalog.items, items, each),
            "items of histories": _unknown(catalog.items, values, np.repeat(each, length_N)),
        }  # fmt: skip

    def add_items(self, items: pa.Table, text_nT: np.ndarray | None = None) -> None:
        """Make new items known, without training: by features the vocabulary has, and by text. All of them or none.

        Args:
            items: `item_id` and any of the item's feature columns.
            text_nT: Their text vectors, float32 of unit norm, from the encoder of the recipe's `match.space`.

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
                    f"{_named(added.ids, old_n)}: in the catalogue already", code="items-known", where="add_items"
                )
            longer = replace(resources, catalog=replace(resources.catalog, items=known.extended(added)))
            given = {"text": text_nT}
            for name, one in self.inputs.items():
                if one.holds:
                    held = one.extended(resources.get(name), longer, items, given.get(name))
                    longer = longer.holding(**{name: held})
            self.model = self.model.with_items(longer)

    def _encode(self, model: RecModel, lists: Lists) -> Samples:
        """The candidates as samples; what is the user's is encoded once per list."""
        users = self._encode_users(model, lists.users)
        samples = users.take(lists.list_N)
        return replace(samples, item_row_N=model.resources.catalog.items.rows(lists.item_ids))

    def _encode_users(self, model: RecModel, asked: pa.Table) -> Samples:
        """Samples without items: each request's user, history and time."""
        catalog: Catalog = model.resources.catalog
        size = asked.num_rows
        rows = pa.table({
            "sample_id": np.full(size, -1, np.int64), "user_row": catalog.users.rows(asked["user_id"].combine_chunks()),
            "item_row": np.zeros(size, np.int32), "label": np.zeros(size, np.float32), "time": _times(asked),
            "history": _history(asked, catalog),
        })  # fmt: skip
        samples = encode_rows(rows, model.resources.spec.history_length)
        histories, without_N = model.resources.histories, asked["history"].is_null().to_numpy()
        if histories is None or not without_N.any():
            return samples
        kept_nL = histories.before(
            samples.user_row_N[without_N], samples.time_N[without_N], samples.history_row_NL.shape[1]
        )
        history_row_NL = samples.history_row_NL.copy()
        history_row_NL[without_N] = kept_nL
        return replace(samples, history_row_NL=history_row_NL)

    def events_of(self, asked: pa.Table) -> NDArray[np.int64]:
        """Events of history that the model reads of each request, int64 [n]: given, or kept in the bundle.

        Args:
            asked: Requests of `to_requests`, or users of `to_lists`.
        """
        read: NDArray[np.int64] = (self._encode_users(self.model, asked).history_row_NL > 0).sum(1)
        return read

    def kept_histories(self, requests: Rows) -> KeptHistories:
        """How requests that bring no history are scored.

        Args:
            requests: As for `score`.
        """
        asked = to_requests(requests, self.form)
        without_N = asked["history"].is_null().to_numpy()
        has_N = self.events_of(asked) > 0
        return KeptHistories(int(without_N.sum()), int((without_N & has_N).sum()))

    def _values(self, model: RecModel, samples: Samples) -> dict[str, NDArray[Any] | None]:
        """Values of the inputs for some requests."""
        return {name: answers(model.resources, samples) for name, answers in self._answers.items()}

    @staticmethod
    def _score(
        model: RecModel, samples: Samples, values: Mapping[str, NDArray[Any] | None]
    ) -> NDArray[np.float32]:  # fmt: skip
        return score(model, to_batch(samples, model.device, inputs=values), BATCH).cpu().numpy()


def _named(ids: pa.Array, of_n: np.ndarray) -> str:
    """The first of some ids, and how many more there are."""
    chosen = ids.filter(pa.array(of_n))
    return f"item {chosen[0].as_py()!r}" + (f" and {len(chosen) - 1:,} more" if len(chosen) > 1 else "")


def _times(requests: pa.Table) -> pa.Array:
    """Times as samples have them, int64; after everything where there is none."""
    return requests["time"].combine_chunks().cast(pa.int64()).fill_null(int(NOW))


def _unknown(known: EntityTable, ids: pa.Array, request_n: np.ndarray) -> Unknown:
    """Of ids, each of the request of that number, those that a table lacks."""
    lacking_n = known.rows(ids) == 0
    different = ids.filter(pa.array(lacking_n)).drop_null().cast(pa.string()).unique()
    return Unknown(len(different), len(np.unique(request_n[lacking_n])))


def _history(requests: pa.Table, catalog: Catalog) -> pa.Array:
    """Item rows of the histories, unknown items left out."""
    size = requests.num_rows
    values, length_N = list_parts(requests["history"].combine_chunks())
    row_n = catalog.items.rows(values)
    known_n = row_n > 0
    owner_n = np.repeat(np.arange(size), length_N)
    kept_N = np.bincount(owner_n[known_n], minlength=size)
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept_N)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(row_n[known_n]))
