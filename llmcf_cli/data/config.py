"""Settings of labels, negatives and splits."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from llmcf_cli.core.types import Broken, ComponentConfig, rule
from llmcf_cli.recipe.component import ComponentOf
from llmcf_cli.recipe.words import CHOSE, LIKED, LabelWords

Negatives = Annotated[SerializeAsAny[ComponentConfig], ComponentOf("negatives")]
Moment = str | int | float
Fraction = Annotated[float, Field(gt=0, lt=1)]


class RatingLabelConfig(ComponentConfig):
    """Every interaction is a sample; its rating decides the label."""

    type: Literal["rating"] = "rating"
    positive_from: float = 4.0
    """Minimum rating of a positive sample; lower ratings are negative."""
    words: LabelWords = LIKED
    """What prompts say that users did; by default "liked" and "did not like"."""


class ImplicitLabelConfig(ComponentConfig):
    """Every interaction is a positive sample; negatives are drawn from the items that the user has not taken by
    then."""

    type: Literal["implicit"] = "implicit"
    negatives: Negatives = Field(default="uniform", validate_default=True)
    """How negative items are drawn."""
    per_positive: Annotated[int, Field(ge=1)] = 1
    """Number of negative items per positive sample, all different. Each gets the positive's time and split."""
    words: LabelWords = CHOSE
    """What prompts say that users did; by default "chose" and "did not choose", because nobody knows whether they would
    like the item."""


class UniformNegativesConfig(ComponentConfig):
    """Every item of the catalogue is equally likely."""

    type: Literal["uniform"] = "uniform"


class PopularityNegativesConfig(ComponentConfig):
    """An item's chance is its number of train interactions plus one, raised to a power."""

    type: Literal["popularity"] = "popularity"
    exponent: Annotated[float, Field(gt=0, le=2)] = 1.0
    """The power; below 1, it flattens the distribution (word2vec: 0.75)."""


class GlobalTimeConfig(ComponentConfig):
    """Two cuts in time, the same for all users; equal times stay on one side. Needs a clock shared by all users."""

    type: Literal["global_time"] = "global_time"
    validation: Fraction = 0.1
    """Share of the interactions between the two cuts."""
    test: Fraction = 0.1
    """Share of the interactions after the second cut."""

    @rule("validation", "test")
    def _leave_some_for_training(self) -> Iterator[Broken]:
        if self.validation + self.test >= 1:
            yield Broken(f"validation + test is {self.validation + self.test:g}, which leaves nothing to train on")


class FixedCutConfig(ComponentConfig):
    """Two cuts at given times, the same for all users. Needs a clock shared by all users.

    The cuts stay where they are when rows are added: rows at or after `test_from` are test, however many come.
    """

    type: Literal["fixed_cut"] = "fixed_cut"
    validation_from: Moment
    """Time at which validation starts: ISO 8601, or as times are written in the data. A time without a zone is in the
    data's `time_zone`, or UTC."""
    test_from: Moment
    """Time at which test starts, later than `validation_from`."""

    @rule("validation_from", "test_from")
    def _in_order(self) -> Iterator[Broken]:
        first, second = self.validation_from, self.test_from
        if not isinstance(first, str) and not isinstance(second, str) and second <= first:
            yield Broken(f"is {second}, not later than validation_from ({first})", ("test_from",))


class LeaveOneOutConfig(ComponentConfig):
    """Each user's last event is test and the one before it validation; users with fewer than three are all train."""

    cuts_in_time: ClassVar[bool] = False
    """Whether the split is by times that stay as rows are added; here a later event moves its user's last two."""
    type: Literal["leave_one_out"] = "leave_one_out"
