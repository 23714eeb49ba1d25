"""Do drawn negatives say what their users take later? Counted, and compared with fresh draws under the rule.

If negatives know the future, train negatives avoid what their users take in validation and test, and "was a negative
in train" predicts the label there. Under the rule they avoid nothing of the kind: as many of them are taken later as of
any other draw.

Legend: P positives of some users, T train positives among them, K negatives per positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmcf_cli.core.seeding import derive_seed, mixed
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.data.config import ImplicitLabelConfig
from llmcf_cli.data.negatives import Catalogue, Positives, Protected, draw_negatives, positives_of
from llmcf_cli.data.report import NegativesAudit
from llmcf_cli.recipe.dataset import Repeats

DRAWS = 199
_BATCH_DRAWS = 500_000
MAX_POSITIVES = 50_000
"""Positives of users drawn at random that fresh draws are made for; violations are counted over all."""
_PROTECTED = {"first": "e.time <= s.time", "keep": "e.time = s.time"}


def drawn_audit(
    con: Any, label: ComponentConfig, repeats: Repeats, seed: int, draws: int = DRAWS
) -> NegativesAudit | None:
    """The audit of a data set's negatives; None where the label draws none.

    Args:
        con: Connection with the tables `event`, `catalogue` and `sample`.
        label: The recipe's `dataset.label`.
        repeats: The recipe's `dataset.repeats`.
        seed: Of the fresh draws.
        draws: How many fresh draws.
    """
    if not isinstance(label, ImplicitLabelConfig):
        return None
    return audit_negatives(con, Catalogue.read(con, label.negatives), label.per_positive, repeats, seed, draws)


def audit_negatives(
    con: Any, catalogue: Catalogue, per_positive: int, repeats: Repeats, seed: int, draws: int = DRAWS
) -> NegativesAudit:
    """Check the train negatives of `sample` against the events of their users.

    Args:
        con: Connection with the tables `event(user_row, item_row, time, split, pair)`, all positives, and `sample`.
        catalogue: What they were drawn from.
        per_positive: Negatives per positive.
        repeats: The recipe's `dataset.repeats`.
        seed: Of the fresh draws and of the choice of users.
        draws: How many fresh draws.
    """
    violations = con.execute(
        "SELECT count(*) FROM sample s WHERE s.label = 0 AND EXISTS (FROM event e WHERE e.user_row = s.user_row AND "
        f"e.item_row = s.item_row AND {_PROTECTED[repeats]})"
    ).fetchone()[0]
    _choose_users(con, seed)
    positives, train_P = _positives(con)
    drawn = con.sql(
        "SELECT user_row, item_row, time, 0 AS pair FROM sample SEMI JOIN audited USING (user_row) "
        "WHERE label = 0 AND split = 'train'"
    ).to_arrow_table()
    later = _Later(positives, len(catalogue.item_I))
    observed = later.count(positives_of(drawn))
    fresh = np.empty(draws)
    at_once = max(1, _BATCH_DRAWS // (len(positives) * per_positive))
    protected = Protected(positives, repeats, len(catalogue.item_I))
    for start in range(0, draws, at_once):
        copies = min(at_once, draws - start)
        item_CPK = draw_negatives(
            _copies(positives, copies), protected.copies(copies), catalogue, per_positive,
            derive_seed(seed, "audit", start),
        )  # fmt: skip
        for number, item_PK in enumerate(item_CPK.reshape(copies, len(positives), per_positive)):
            fresh[start + number] = later.count_drawn(positives, item_PK, train_P)
    mean = float(fresh.mean())
    extreme = int((np.abs(fresh - mean) >= abs(observed - mean)).sum())
    return NegativesAudit(len(drawn), violations, observed, mean, draws, (1 + extreme) / (1 + draws))


def _choose_users(con: Any, seed: int) -> None:
    """Create `audited(user_row)`: users in a seeded order, until they have `MAX_POSITIVES` events."""
    con.execute(
        "CREATE OR REPLACE TEMP TABLE audited AS SELECT user_row FROM (SELECT user_row, sum(events) OVER "
        "(ORDER BY draw, user_row) - events AS before FROM (SELECT user_row, count(*) AS events, "
        f"md5(concat_ws(',', {seed}, user_row)) AS draw FROM event GROUP BY user_row)) WHERE before < {MAX_POSITIVES}"
    )


def _positives(con: Any) -> tuple[Positives, np.ndarray]:
    """The events of the audited users, and which are of the train split (bool [P])."""
    rows: pa.Table = con.sql(
        "SELECT user_row, item_row, time, split, pair FROM event SEMI JOIN audited USING (user_row) "
        "ORDER BY user_row, time, item_row"
    ).to_arrow_table()
    return positives_of(rows), pc.equal(rows["split"], "train").to_numpy()


def _copies(positives: Positives, count: int) -> Positives:
    """The positives `count` times, each time with other random numbers, so that one call makes as many draws."""
    user_P, item_P, time_P = (np.tile(row, count) for row in (positives.user_P, positives.item_P, positives.time_P))
    state_P = np.concatenate([mixed(positives.state_P + number) for number in range(count)])
    return Positives(user_P, item_P, time_P, state_P)


class _Later:
    """The last time that each user took each item."""

    def __init__(self, positives: Positives, num_items: int) -> None:
        self._stride = num_items + 1
        key_P = positives.user_P * self._stride + positives.item_P
        order_P = np.lexsort((-positives.time_P, key_P))
        self._key_S, first_S = np.unique(key_P[order_P], return_index=True)
        self._last_S = positives.time_P[order_P][first_S]

    def count(self, pairs: Positives) -> int:
        """How many pairs are taken after their time."""
        key_P = pairs.user_P * self._stride + pairs.item_P
        place_P = np.minimum(np.searchsorted(self._key_S, key_P), len(self._key_S) - 1)
        return int(((self._key_S[place_P] == key_P) & (self._last_S[place_P] > pairs.time_P)).sum())

    def count_drawn(self, positives: Positives, item_PK: np.ndarray, train_P: np.ndarray) -> int:
        """The same for what was drawn beside the train positives."""
        per_positive = item_PK.shape[1]
        user, time = (np.repeat(column[train_P], per_positive) for column in (positives.user_P, positives.time_P))
        item = item_PK[train_P].reshape(-1)
        found = item > 0
        return self.count(Positives(user[found], item[found], time[found], time[found]))
