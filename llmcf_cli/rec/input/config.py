"""Declarations of arm inputs: what makes each, and what a bundle keeps of the recipe for it. Cheap to import."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from llmcf_cli.core.types import ComponentConfig, Form, FromRecipe, InputConfig
from llmcf_cli.rec.config import MAX_EXAMPLES
from llmcf_cli.recipe.component import FileOr
from llmcf_cli.recipe.sections import Positive, Searcher, Space


class TextInputConfig(InputConfig):
    """Vectors of item texts."""

    made_by: ClassVar[tuple[str, ...]] = ("embed",)
    follows: ClassVar[tuple[str, ...]] = ("embed",)

    type: Literal["text"] = "text"
    encoder: Annotated[str | SerializeAsAny[ComponentConfig], FileOr("encoder"), FromRecipe("match.space.encoder")] = ""
    """What made the vectors; vectors of new items must come from it."""
    encoder_digest: Annotated[str, FromRecipe("match.space.encoder", digest=True)] = ""
    """Digest of the encoder's content."""
    template: Annotated[str, FromRecipe("dataset.text.item")] = ""
    """Template of an item's text. Empty: all its columns except numeric features."""


class CollaborativeInputConfig(InputConfig):
    """Item vectors and popularity from train positives."""

    made_by: ClassVar[tuple[str, ...]] = ("collab",)

    type: Literal["collaborative"] = "collaborative"


class SignalsInputConfig(InputConfig):
    """How well a target matches a history, in text and collaborative space."""

    needs: ClassVar[frozenset[str]] = frozenset({"text", "collaborative"})
    forms: ClassVar[frozenset[Form]] = frozenset({"pair"})

    type: Literal["signals"] = "signals"


class ExamplesInputConfig(InputConfig):
    """The retrieved examples of a row, with their chains of thought."""

    made_by: ClassVar[tuple[str, ...]] = ("examples", "match")
    grows: ClassVar[tuple[str, ...]] = ("examples",)
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    type: Literal["examples"] = "examples"
    cot: Annotated[Literal["own", "shuffled", "mean"], FromRecipe("rec.cot")] = "own"
    """Which chain of thought an example carries."""
    seed: Annotated[int, FromRecipe("seed")] = 0
    """Seed of that shuffle."""
    space: Annotated[Space | None, FromRecipe("match.space")] = None
    """How queries and examples become vectors. If not set: nothing will be searched."""
    search: Annotated[Searcher, FromRecipe("match.search")] = Field(default="exact", validate_default=True)
    """How the nearest examples are found."""
    k: Annotated[int, Field(ge=1, le=MAX_EXAMPLES), FromRecipe("match.k")] = 4
    """Examples per row."""
    balance: Annotated[Literal["labels", "none"], FromRecipe("match.balance")] = "labels"
    """Whether half of them are positive."""
    exclude: Annotated[Literal["strict", "own_item", "reference"], FromRecipe("match.exclude")] = "strict"
    """Which examples a row must not see."""
    max_per_user: Annotated[Positive | None, FromRecipe("match.max_per_user")] = None
    """Maximum number of examples from one user. If not set: no limit."""
    distinct_items: Annotated[bool, FromRecipe("match.distinct_items")] = False
    """Whether all examples must be of different items."""
    query: Annotated[Literal["row", "history"], FromRecipe("match.query")] = "row"
    """Whether a row's item, too, decides which examples are found."""


class KnowledgeInputConfig(InputConfig):
    """Vectors of what the language model wrote about users and items."""

    made_by: ClassVar[tuple[str, ...]] = ("knowledge",)
    grows: ClassVar[tuple[str, ...]] = ("knowledge",)

    type: Literal["knowledge"] = "knowledge"


class TeacherInputConfig(InputConfig):
    """The language model's scores of train samples."""

    made_by: ClassVar[tuple[str, ...]] = ("teacher",)
    for_losses: ClassVar[bool] = True

    type: Literal["teacher"] = "teacher"


class EventsInputConfig(InputConfig):
    """What users did, in order."""

    type: Literal["events"] = "events"
    read: Annotated[Literal["positive", "all"], FromRecipe("dataset.history.events")] = "positive"
    """Which events models read, as in histories; all events count as seen in either case."""
