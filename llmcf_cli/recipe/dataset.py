"""The section `dataset` of a recipe."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from llmcf_cli.core.types import Broken, ComponentConfig, Config, FilePath, FileRef, Runtime, rule
from llmcf_cli.recipe.component import ComponentOf
from llmcf_cli.recipe.features import DeriveSection, FeaturesSection, FilterSection
from llmcf_cli.recipe.template import Template

Source = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("source")]
Label = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("label")]
Split = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("split")]

Repeats = Literal["first", "keep"]
Conflicts = Literal["stop", "first", "last"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]


class HistorySection(Config):
    """The user's earlier events that a sample carries."""

    max_length: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Number of most recent events to keep, all strictly before the sample's own time."""
    events: Literal["positive", "all"] = "positive"
    """`positive`: only items that the user liked or clicked (as in DIN); `all`: every earlier interaction."""


class KCoreSection(Config):
    """Minimum number of interactions per user and item. The filter repeats until nothing more drops out."""

    user: Annotated[int, Field(ge=0)] = 0
    """Minimum interactions per user; 0 and 1 filter nothing."""
    item: Annotated[int, Field(ge=0)] = 0
    """Minimum interactions per item, likewise."""


class TextSection(Config):
    """How items and users are described in prompts and to the text encoder: Mustache templates over their columns."""

    item: Annotated[str, Template()] = ""
    """For example `{{movie_title}} ({{release_year}})`. Empty: all item columns except numeric features, joined by
    commas."""
    user: Annotated[str, Template()] = ""
    """For example `a {{age}}-year-old {{occupation}}`. Empty: all user columns except numeric features, joined by
    commas."""


class LimitsSection(Config):
    """Limits beyond which a run stops before it costs anything. Ingest measures and reports these counts in any
    case."""

    unjoined: Share = 0.9
    """Maximum share of the items (or users) with interactions that may be missing from the item (or user) table."""
    blank_texts: Share = 0.9
    """Maximum share of items without text, if a stage reads texts."""
    empty_histories: Share = 0.99
    """Maximum share of samples without an earlier event of their user."""
    tied_events: Share = 1.0
    """Maximum share of events that have the same user and time as another event."""
    per_class: Annotated[int, Field(ge=0)] = 1
    """Minimum number of samples of each label in each split."""


class ConflictsSection(Config):
    """Which row to keep if rows with the same id differ: the `first` or `last` in the file, or neither (`stop`: ingest
    stops)."""

    items: Conflicts = "stop"
    """For the item table."""
    users: Conflicts = "stop"
    """For the user table."""

    def of(self, entity: str) -> Conflicts:
        """The setting for the table of an entity, `item` or `user`."""
        return self.items if entity == "item" else self.users


class AddedSection(Config):
    """Files with later rows, in the format of `dataset.source`."""

    interactions: FilePath
    """Interactions, all later than the existing ones. Rows that already exist are dropped and counted."""
    items: Annotated[str | None, FileRef()] = None
    """Table of new items, and of known items that changed. New items that it lacks, or all if it is not set, are looked
    up in the tables of earlier additions, then in the source's own."""
    users: Annotated[str | None, FileRef()] = None
    """Table of new and changed users, likewise."""


class CutsSection(Config):
    """Two cuts in time: train before the first, validation between them, test from the second on."""

    validation_from: str
    """Time at which validation starts, in ISO 8601."""
    test_from: str
    """Time at which test starts, later than `validation_from`."""


class DatasetSection(Config):
    """The data set, and how samples are made from it (`ingest`)."""

    source: Source
    """Where the raw tables are and how to read them."""
    label: Label
    """What counts as a positive sample, and where negatives come from."""
    split: Split
    """Which samples are train, validation and test."""
    derive: DeriveSection = DeriveSection()
    """Columns computed from others when the tables are read."""
    filter: FilterSection = FilterSection()
    """Which rows are kept."""
    features: FeaturesSection | None = None
    """Columns that models read in addition to the ids. If not set: the columns in the source's `multi`."""
    history: HistorySection = HistorySection()
    """The earlier events that models see with a sample."""
    repeats: Repeats = "first"
    """What happens to a user's later events with the same item (re-buys, new ratings): `first` drops them, `keep` makes
    them samples too. With `keep`, items that a user took earlier may also be drawn as negatives."""
    max_users: Positive | None = None
    """Keep only this many users, drawn at random before the k-core, for a trial at a smaller size. If not set: all.
    Users in `added` are drawn at the same rate, so the total may be larger."""
    k_core: KCoreSection = KCoreSection()
    """Drops users and items with few interactions."""
    text: TextSection = TextSection()
    """Texts that describe items and users."""
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Maximum share of rows that cannot be parsed. They are dropped; above this share, ingest stops."""
    conflicts: ConflictsSection = ConflictsSection()
    """What to do with rows of items and users that have the same id but differ."""
    limits: Annotated[LimitsSection, Runtime()] = LimitsSection()
    """Limits beyond which a run stops."""
    # Part of the key of ingest by itself, where there is one: without one, keys are those of before there was this.
    forgotten: Annotated[str | None, FileRef(), Runtime()] = None
    """List of users whose rows no ingest reads, not even from added files. `llmcf forget` writes it; it holds digests
    of their ids."""
    added: Annotated[tuple[AddedSection, ...], Field(max_length=1000)] = ()
    """Later rows, oldest first. Each addition extends the ingest before it: users, items and samples keep their
    numbers, and samples keep their histories, labels and splits. Needs a split with cuts in time: `fixed_cut`, or
    `global_time`, which keeps the cuts of the first ingest. Training rows are in the first files: later rows are
    validation or test, unless `recut` moves the cuts."""
    recut: Annotated[CutsSection | None, Runtime()] = None
    """Later cuts for the splits of all rows, so that models can learn from `added` rows. If not set: the cuts of
    `split`. Samples keep their histories, labels and negatives. `llmcf refresh` writes this."""

    @rule("added", "recut")
    def _there_is_something_to_learn(self) -> Iterator[Broken]:
        if self.recut is not None and not self.added:
            yield Broken("moves the cuts for rows of `added`, but there are none; change `split` instead", ("recut",))

    @rule("added", "source", "split")
    def _can_be_extended(self) -> Iterator[Broken]:
        if not self.added:
            return
        if not getattr(self.split, "cuts_in_time", True):
            what = f"{self.split.type} has no cuts in time, so later rows would move earlier ones between splits"
            yield Broken(what, ("split",), ("fixed_cut", "global_time"))
        taken = getattr(self.source, "roles", {})
        for number, one in enumerate(self.added):
            for role, file in one:
                if file is not None and role not in taken:
                    what = f"the source {self.source.type} does not accept a later {role} table"
                    yield Broken(what, ("added", number, role), tuple(taken))
