"""What ingest did: the steps with their counts, and the size of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.types import Clock
from llmcf_cli.data.cut import Cuts
from llmcf_cli.tabular.times import Reading

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class IngestStep:
    """One step of ingest.

    Attributes:
        name: What was done, e.g. `k-core`.
        kept: Rows after the step.
        dropped: Rows the step removed.
        reason: Why rows were removed, or what else the step found.
        samples: A few of the removed rows, where they help.
    """

    name: str
    kept: int
    dropped: int
    reason: str
    samples: tuple[str, ...] = ()


@dataclass(frozen=True)
class FeatureCount:
    """A feature of the users or items that have interactions.

    Attributes:
        entity: `user` or `item`.
        name: Column.
        kind: `categorical`, `multi` or `numeric`.
        distinct: Different values.
        missing: Share of users or items without a value, in [0, 1].
        most_frequent: The value that most have, least of equals; empty: there is none.
        most_frequent_share: Share of users or items that have it.
        cut: Values beyond `max_values`, which are not read.
        not_numbers: Values of a numeric feature that are none; they count as missing.
        examples: Up to `MAX_BAD_SAMPLES` of these.
        warnings: What may be wrong with it.
    """

    entity: str
    name: str
    kind: str
    distinct: int
    missing: float
    most_frequent: str
    most_frequent_share: float
    cut: int
    not_numbers: int
    examples: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class SplitCount:
    """Samples of one split, by label.

    Attributes:
        split: Its name.
        positive, negative: Samples of the label.
        repeated_positive, repeated_negative: Those whose user had taken the item before.
    """

    split: str
    positive: int
    negative: int
    repeated_positive: int = 0
    repeated_negative: int = 0


@dataclass(frozen=True)
class Rule:
    """What a rule without any model reaches.

    Attributes:
        code: Its name.
        meaning: What it scores a sample by.
        auc: On validation; None where that has one label only.
        expected: What the rule would reach if it told nothing about the pair: by how often its user and its item are
            drawn alone. None where that is .5, or there is no AUC.
    """

    code: str
    meaning: str
    auc: float | None
    expected: float | None = None


@dataclass(frozen=True)
class SliceCount:
    """Test samples of a slice, by label."""

    name: str
    positive: int
    negative: int


@dataclass(frozen=True)
class TextCount:
    """How many items or users have no text.

    Attributes:
        entity: Which of the two.
        rows: Items or users.
        blank: Those whose text is empty.
        samples: Samples of such an item or user.
    """

    entity: Literal["item", "user"]
    rows: int
    blank: int
    samples: int


@dataclass(frozen=True)
class JoinCount:
    """How the ids of interactions met those of the item or user table.

    Attributes:
        entity: Which of the two.
        wanted: Items or users with interactions.
        unjoined: Those that the table lacks.
        examples: A few of their ids, those with most events first.
        listed: A few ids of the table that have no events, to compare.
        events: How many events each of the examples has.
    """

    entity: Literal["item", "user"]
    wanted: int
    unjoined: int
    examples: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    events: tuple[int, ...] = ()


@dataclass(frozen=True)
class SimilarIds:
    """Ids that differ only in case, or in signs and white space around them.

    Attributes:
        entity: Whose they are.
        ids: How many.
        different: How many would be left, were these differences none.
        examples: A few of them, alike ones together.
    """

    entity: Literal["item", "user"]
    ids: int
    different: int
    examples: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class NegativesAudit:
    """Whether drawn train negatives say what their users take later; see `data/negatives_audit.py`.

    Attributes:
        negatives: Train negatives that were checked.
        violations: Those of an item that was protected from them.
        taken_later: Those whose user takes the item later, in any split.
        expected: Mean of that over fresh draws under the rule.
        draws: How many fresh draws.
        p: Share of the fresh draws that lie at least as far from their mean, the draw itself counted.
    """

    negatives: int
    violations: int
    taken_later: int
    expected: float
    draws: int
    p: float


@dataclass(frozen=True)
class Note:
    """What reading a table did, or assumed, that a user may not expect.

    Attributes:
        table: `interactions`, `items` or `users`.
        message: What it is, with its count.
    """

    table: str
    message: str


@dataclass(frozen=True)
class Alarm:
    """Something measured that makes results doubtful.

    Attributes:
        code: What kind.
        message: The count and what it means.
        remedy: What to do; empty where there is nothing to do but to know.
    """

    code: str
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Added:
    """What was added to an ingest.

    Attributes:
        users, items, interactions, samples: New ones.
        known: Rows of the added files that were there already.
        changed_users, changed_items: Known ones whose text or features are new.
    """

    users: int = 0
    items: int = 0
    interactions: int = 0
    samples: int = 0
    known: int = 0
    changed_users: int = 0
    changed_items: int = 0


@dataclass(frozen=True)
class IngestReport:
    """The outcome of an ingest.

    Attributes:
        steps: What each step kept and dropped, in order.
        clock: `global`: times of different users compare; `per_user`: only the order within a user is known.
        users, items, interactions: Rows of these tables.
        repeats: Events of a pair that the user had taken before, dropped ones included.
        repeats_dropped: Those that `dataset.repeats: first` dropped.
        tied_events: Events that share their user and time with another.
        samples: Sample counts by split and label, in the order of `SPLITS`.
        history_median: Median history length over all samples.
        history_empty: Samples without any earlier event.
        texts: Blank texts of items and users.
        joins: For each table of items or users that the source has.
        rules: AUC on validation of rules without any model.
        slices: Sizes of the test split's slices.
        negatives: Audit of drawn negatives; None where none are drawn.
        alarms: What the user should know before going on.
        times: How times were read; None where there are positions only.
        notes: What else reading did.
        features: What models read beside the ids; where rows were added, over the new users and items.
        similar: Ids that are nearly alike, of items and users that have some.
        cuts: Of the split; None where rows cannot be added by cuts in time.
        added: What was added to a base; None where there is none. The steps, joins, notes and times are then those of
            the added rows, all else is of the whole.
    """

    steps: tuple[IngestStep, ...]
    clock: Clock
    users: int
    items: int
    interactions: int
    repeats: int
    repeats_dropped: int
    tied_events: int
    samples: tuple[SplitCount, ...]
    history_median: float
    history_empty: int
    texts: tuple[TextCount, ...]
    joins: tuple[JoinCount, ...]
    rules: tuple[Rule, ...]
    slices: tuple[SliceCount, ...]
    negatives: NegativesAudit | None
    alarms: tuple[Alarm, ...] = ()
    times: Reading | None = None
    notes: tuple[Note, ...] = ()
    features: tuple[FeatureCount, ...] = ()
    similar: tuple[SimilarIds, ...] = ()
    cuts: Cuts | None = None
    added: Added | None = None


class StepLog:
    """The steps so far, and what reading noted.

    Args:
        least: Rows that a step must keep; with fewer it stops the ingest.
    """

    def __init__(self, least: int = 1) -> None:
        self.least = least
        self.steps: list[IngestStep] = []
        self.notes: list[Note] = []
        self.alarms: list[Alarm] = []
        self.similar: tuple[SimilarIds, ...] = ()
        self.times: Reading | None = None

    def add(self, name: str, kept: int, dropped: int, reason: str, samples: tuple[str, ...] = ()) -> None:
        """Record a step.

        Raises:
            DataError: It kept too few rows.
        """
        self.steps.append(IngestStep(name, kept, dropped, reason, samples))
        if kept < self.least:
            detail = "".join(f"\n  {sample}" for sample in samples)
            raise DataError(
                f'no rows left after step "{name}": {dropped:,} dropped ({reason}){detail}',
                code="data-empty", where="dataset",
                hint="loosen that step's settings in the recipe, or check the source's columns",
            )  # fmt: skip
