"""What requests and answers look like; the source of the OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


def _written(value: Any) -> Any:
    if type(value) not in (str, int, float):
        raise PydanticCustomError("id", "must be a text or a number")
    return value


Id = Annotated[str | int | float, BeforeValidator(_written)]
"""As the reader of requests takes it: of `5`, `5.0` and `"5"` it makes the same id."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class UserBody(_Body):
    """The user of the request."""

    user_id: Id
    """The user, written as in the data. For a user that the bundle does not know, only the history is read."""
    history: list[Id] | None = None
    """Items that the user took, oldest first. Default: the events that the bundle has of the user. Empty: none."""
    time: Id | None = None
    """Time of the request, written as in the data. Default: after all events."""


class CandidateList(UserBody):
    """One user's candidates."""

    candidates: Annotated[list[Id], Field(min_length=1)]
    """Items to score."""


class ListWanted(UserBody):
    """One user, and what the list should contain."""

    k: Annotated[int, Field(ge=1, lt=2**31)] = 10
    """Length of the list."""
    allow: Annotated[list[Id], Field(min_length=1)] | None = None
    """The only items to choose from. Default: the whole catalogue."""
    deny: list[Id] = []
    """Items to leave out."""
    filter_seen: bool = True
    """Leave out the items of the history, and those that the user took before `time` as far as the bundle knows."""


class ScoreBody(_Body):
    """Lists of candidates to score."""

    requests: Annotated[list[CandidateList], Field(min_length=1)]
    """One entry for each user."""
    explain: bool = False
    """Also return, for each candidate, its examples and how the score moves without each."""


class RecommendBody(_Body):
    """Lists of the whole catalogue to make."""

    requests: Annotated[list[ListWanted], Field(min_length=1)]
    """One entry for each user."""


class ExampleShown(BaseModel):
    """An in-context example behind a score."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    item_id: str
    """Its item."""
    label: int
    """Whether its user took the item: 1 or 0."""
    likeness: float
    """Weighted similarity of its history and item to the request's, as matching computes it."""
    moved: float
    """How much the model's raw output (the logit, for ranking) falls without this example."""
    reasoning: str | None = None
    """What the language model wrote about it, if the bundle contains it (recipes: `serve.reasoning`)."""


class Scored(BaseModel):
    """A candidate with its score."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    item_id: str
    """The candidate."""
    known: bool
    """Whether the bundle's catalogue has it; an unknown item is scored with the embedding of unknown items."""
    score: dict[str, float]
    """What the bundle's task returns: `logit` and `probability` for ranking."""
    examples: list[ExampleShown] | None = None
    """See `explain`."""


class Result(BaseModel):
    """The scores of one list, in the order of its candidates."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    user_id: str
    """The user."""
    known: bool
    """Whether training saw the user."""
    events: int
    """Events of the history that the model read: given, or kept in the bundle."""
    unknown_events: int
    """Events of the given history that are not in the catalogue and were ignored."""
    scores: list[Scored]
    """One for each candidate."""


class ScoreAnswer(BaseModel):
    """The answer to `ScoreBody`."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    bundle: str
    """Digest of the bundle that answered."""
    results: list[Result]
    """One for each list."""


class Listed(BaseModel):
    """An item of a list."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    item_id: str
    """The item."""
    score: float
    """The raw output of the model that orders the list; higher is better."""


class ListResult(BaseModel):
    """One user's list."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    user_id: str
    """The user."""
    known: bool
    """Whether training saw the user."""
    events: int
    """Events of the history that the model read: given, or kept in the bundle."""
    unknown_events: int
    """Events of the given history that are not in the catalogue and were ignored."""
    items: list[Listed]
    """The `k` best, best first."""


class RecommendAnswer(BaseModel):
    """The answer to `RecommendBody`."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    bundle: str
    """Digest of the bundle that answered."""
    results: list[ListResult]
    """One for each user."""


class Info(BaseModel):
    """What is served."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    bundle: str
    """Digest of the bundle that answers."""
    previous: str | None
    """Digest of the previous bundle, which `POST /admin/rollback` restores; null if there is none."""
    recipe: str
    """Name of the recipe that made it."""
    task: str
    backbone: str
    augmenter: str
    users: int
    items: int
    examples: int
    """In-context examples in the bundle."""
    k: int
    """Examples per score."""
    golden: int
    """Golden requests that the bundle answered as when it was made, before it was served."""
    lists: bool
    """Whether it answers `POST /v1/recommend`."""
    finder: str | None
    """For a cascade, the backbone that finds the candidates; null: the same as `backbone`."""
    candidates: int
    """Candidates that it finds for a list; 0 without a cascade."""
    reasoning: bool
    """Whether explanations come with what the language model wrote about the examples."""
    keeps_histories: bool
    """Whether a request may leave its history out."""
    engine: str
    """What computes scores: `torch` or `onnx`."""
    llmcf: str
    """Version of this server."""


class Fault(BaseModel):
    """What is wrong, and what to do."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    code: str
    """Stable name of the kind of fault."""
    what: str
    """What is wrong."""
    where: str = ""
    """Which part of the request."""
    allowed: list[str] = []
    """Allowed values."""
    hint: str = ""
    """What to do."""


class FaultAnswer(BaseModel):
    """Every unsuccessful answer."""

    error: Fault
    request_id: str
