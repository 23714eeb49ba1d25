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
    """Which of a user's earlier events a sample carries."""

    max_length: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Most recent events kept, all strictly before the sample's own time."""
    events: Literal["positive", "all"] = "positive"
    """`positive`: only liked or clicked items (as in DIN); `all`: every earlier interaction."""


class KCoreSection(Config):
    """Least number of interactions a user and an item must have; repeated until stable."""

    user: Annotated[int, Field(ge=0)] = 0
    """Least interactions per user; 0 and 1 filter nothing."""
    item: Annotated[int, Field(ge=0)] = 0
    """Least interactions per item."""


class TextSection(Config):
    """How an item and a user read in prompts and to the text encoder: Mustache templates over their columns."""

    item: Annotated[str, Template()] = ""
    """e.g. `{{movie_title}} ({{release_year}})`. Empty: all item columns but numeric features, joined by
    commas."""
    user: Annotated[str, Template()] = ""
    """e.g. `a {{age}}-year-old {{occupation}}`. Empty: all user columns but numeric features, joined by
    commas."""


class LimitsSection(Config):
    """Counts past which a run stops before it costs anything. Ingest measures and shows them in any case."""

    unjoined: Share = 0.9
    """Share of the items (or users) with interactions that the item (or user) table may lack."""
    blank_texts: Share = 0.9
    """Share of the items that may have no text, where a stage reads texts."""
    empty_histories: Share = 0.99
    """Share of the samples that may have no earlier event of their user."""
    tied_events: Share = 1.0
    """Share of the events that may have their user and time in common with another."""
    per_class: Annotated[int, Field(ge=0)] = 1
    """Least samples of each label in each split."""


class ConflictsSection(Config):
    """Which row stays where several rows of one id differ: `stop` (none: ingest stops), `first` or `last` of the
    file."""

    items: Conflicts = "stop"
    """Of the item table."""
    users: Conflicts = "stop"
    """Of the user table."""


class AddedSection(Config):
    """Files with later rows, in the form of `dataset.source`."""

    interactions: FilePath
    """Interactions, all later than those before; rows that are there already are left out and counted."""
    items: Annotated[str | None, FileRef()] = None
    """Table of new items, and of known ones with changes; none: the source's own table describes new items."""
    users: Annotated[str | None, FileRef()] = None
    """Table of new users, likewise."""


class CutsSection(Config):
    """Two cuts in time: train before the first, validation up to the second, test from there on."""

    validation_from: str
    """Time of the first validation events, in ISO 8601."""
    test_from: str
    """Time of the first test events, later than `validation_from`."""


class DatasetSection(Config):
    """The data set and how samples are made from it (`ingest`)."""

    source: Source
    """Where the raw tables are and how to read them."""
    label: Label
    """What counts as a positive sample, and where negatives come from."""
    split: Split
    """Which samples are for training, validation and test."""
    derive: DeriveSection = DeriveSection()
    """Columns computed from others as the tables are read."""
    filter: FilterSection = FilterSection()
    """Rows that are read."""
    features: FeaturesSection | None = None
    """What models know of items and users beside their ids; none: the columns in the source's `multi`."""
    history: HistorySection = HistorySection()
    """The events before a sample that the models see."""
    repeats: Repeats = "first"
    """A user's later events with the same item (re-buys, new ratings): `first` drops them, `keep` makes them samples
    too. With `keep`, what a user took earlier may also be drawn as a negative."""
    max_users: Positive | None = None
    """Users drawn at random before the k-core, for a trial at a smaller size; None: all. Those of `added` are drawn at
    the share that the first files were, so they may be more in all."""
    k_core: KCoreSection = KCoreSection()
    """Filter for users and items with few interactions."""
    text: TextSection = TextSection()
    """Texts of items and users."""
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of unparsable rows past which ingest stops instead of dropping them."""
    conflicts: ConflictsSection = ConflictsSection()
    """Rows of items and users that differ under one id."""
    limits: Annotated[LimitsSection, Runtime()] = LimitsSection()
    """Counts past which a run stops."""
    # Part of the key of ingest by itself, where there is one: without one, keys are those of before there was this.
    forgotten: Annotated[str | None, FileRef(), Runtime()] = None
    """List of users whose rows no ingest reads, of the files added, too, as `llmcf forget` writes it: digests of their
    ids."""
    added: Annotated[tuple[AddedSection, ...], Field(max_length=1000)] = ()
    """Later rows, oldest first. Each addition extends the ingest before it: users, items and samples keep their
    numbers, samples their histories, labels and splits. Needs a split by cuts in time: `fixed_cut`, or `global_time`,
    whose cuts are then those of the first ingest. Training rows are in the first files: what comes later is validation
    or test, unless `recut` moves the cuts."""
    recut: Annotated[CutsSection | None, Runtime()] = None
    """Later cuts for the splits of all rows, so that models can learn from those of `added`; none: those of `split`.
    Samples keep their histories, labels and negatives. `llmcf refresh` writes it."""

    @rule("added", "recut")
    def _there_is_something_to_learn(self) -> Iterator[Broken]:
        if self.recut is not None and not self.added:
            yield Broken("moves the cuts for rows of `added`, and there are none; change `split`", ("recut",))

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
                    what = f"the source {self.source.type} takes no later table of {role}"
                    yield Broken(what, ("added", number, role), tuple(taken))
