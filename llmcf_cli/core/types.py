"""The base of every configuration class, the rules between its fields, and markers for fields."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from llmcf_cli.core.errors import AccessError, LlmcfError
from llmcf_cli.core.meanings import meanings

Clock = Literal["global", "per_user"]
"""Whether times of different users can be compared."""
Form = Literal["pair", "user"]
"""What a model predicts from: `pair`, a user with an item; `user`, a user, whom all items are compared with."""

BROKEN = "broken"
"""pydantic's error type of whatever a `Broken` tells."""

_READS = "_reads"
_Method = TypeVar("_Method", bound=Callable[..., Iterator["Broken"]])


@dataclass(frozen=True)
class Broken:
    """A value that is of the right type, and wrong.

    Attributes:
        what: The problem.
        at: Where, below the value that was checked: names of fields, places in lists.
        allowed: What would be right.
        line: Line of a text of several lines, from 1; 0: the value as a whole.
    """

    what: str
    at: tuple[str | int, ...] = ()
    allowed: tuple[str, ...] = ()
    line: int = 0


def refusal(title: str, found: Sequence[Broken], value: Any) -> ValidationError:
    """All that is wrong with a value as one error, which pydantic places where the value stands."""
    details: list[InitErrorDetails] = [
        {
            "type": PydanticCustomError(
                BROKEN, "{what}", {"what": one.what, "allowed": one.allowed, "line": one.line}
            ),
            "loc": one.at, "input": value,
        }
        for one in found
    ]  # fmt: skip
    return ValidationError.from_exception_data(title, details)


def rule(*reads: str) -> Callable[[_Method], _Method]:
    """Mark a method of a `Config` as a rule between fields: it yields a `Broken` for all that breaks it.

    All rules are checked, not only up to the first that is broken. Where fields are wrong, `llmcf recipe validate`
    still checks the rules that do not read them.

    Args:
        reads: Key paths below the class, all that the method reads: `k`, `rec.compare`. What it yields is at one of
            these, below or above.
    """

    def mark(method: _Method) -> _Method:
        setattr(method, _READS, tuple(tuple(path.split(".")) for path in reads))
        return method

    return mark


@cache
def rules_of(
    model: type[BaseModel],
) -> tuple[tuple[tuple[tuple[str, ...], ...], Callable[[Any], Iterator[Broken]]], ...]:
    """(key paths that it reads, rule) of every rule of a class, inherited ones first."""
    methods = {name: method for cls in reversed(model.__mro__) for name, method in vars(cls).items()}
    functions = [method for method in methods.values() if isinstance(method, FunctionType)]
    return tuple((getattr(method, _READS), method) for method in functions if hasattr(method, _READS))


class Config(BaseModel):
    """Base of all configuration: frozen, no unknown keys, each field documented by the docstring under it.

    Modules that derive from it do without `from __future__ import annotations`: pydantic would compile each text.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        defer_build=True,  # most classes of a module are not used by one command
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        properties = handler.resolve_ref_schema(found).get("properties", {})
        for name, text in meanings(cls).items():
            if name in properties:
                properties[name].setdefault("description", text)
        return found

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        found = [broken for _, check in rules_of(type(self)) for broken in check(self)]
        if found:
            raise refusal(type(self).__name__, found, self)
        return self


class ComponentConfig(Config):
    """Base of a pluggable component's own settings; `type` is the name it is registered under."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Inputs beyond a sample's own features that the component reads: names of registered inputs.

    Of engines: `model`, the tuned language model.
    """

    targets: ClassVar[frozenset[str]] = frozenset()
    """Targets that it predicts or is trained on, as `TaskConfig.target` names them; empty: whatever a task has."""

    forms: ClassVar[frozenset[Form]] = frozenset({"pair"})
    """Forms of models that it can be a part of, or stand beside as a baseline."""

    version: ClassVar[int] = 1
    """Raised when settings of before no longer mean what they say; part of keys. `upgraded` brings stored ones up to
    date."""

    type: str
    """Registered name of the component."""

    @classmethod
    def upgraded(cls, settings: Mapping[str, Any], version: int) -> Mapping[str, Any]:
        """Settings that an earlier version stored, as this one writes them."""
        return settings


Declared = ComponentConfig | type[ComponentConfig]
"""What a component declares of itself is on its class."""


class InputConfig(ComponentConfig):
    """Base of an arm input's declaration. `needs` names the inputs that it is made of.

    A recipe does not choose inputs: components read them. Fields are what loading and serving must know of the recipe,
    each marked `FromRecipe`; a bundle keeps them.
    """

    made_by: ClassVar[tuple[str, ...]] = ()
    """Stages that it is loaded from, besides `ingest` and those of the inputs it is made of."""
    follows: ClassVar[tuple[str, ...]] = ()
    """Stages among these whose results for later rows a refreshed bundle takes; those for earlier rows stay."""
    grows: ClassVar[tuple[str, ...]] = ()
    """Stages among these by which a language model writes about later rows, at the level `examples` of a refresh."""
    forms: ClassVar[frozenset[Form]] = frozenset({"pair", "user"})
    """Forms of models whose queries it has values for; without `user` it needs a query's target."""
    for_losses: ClassVar[bool] = False
    """Whether only objectives read it, as they read the target. No augmenter does, and no bundle keeps it."""


class TaskConfig(ComponentConfig):
    """Base of a task's settings: what is predicted, and what may choose among epochs and settings.

    `needs` names inputs that its models read whatever the arm.
    """

    target: ClassVar[str]
    """What is predicted, in a word, e.g. `label`; objectives, backbones and baselines say which they are for."""
    form: ClassVar[Form] = "pair"
    """Of the models that are trained for it."""
    monitors: ClassVar[tuple[str, ...]]
    """Measures that `rec.fit.monitor` may name, the default first."""

    def takes(self, config: Declared) -> bool:
        """Whether a component can be a part of the task's models, or a baseline beside them."""
        return self.form in config.forms and (not config.targets or self.target in config.targets)


@dataclass(frozen=True)
class Runtime:
    """Annotation for a field that changes how work is done, never its result: `Annotated[int, Runtime()]`.

    Such fields stay out of artifact keys, so changing them reuses what exists.
    """


@dataclass(frozen=True)
class FromRecipe:
    """Annotation for a field of an `InputConfig`: the key path of the recipe's value that it takes, if there is one.

    Attributes:
        path: Key path, e.g. `match.k`.
        digest: Take the content digest of the file or asset named there.
    """

    path: str
    digest: bool = False


@dataclass(frozen=True)
class FileRef:
    """Annotation for a field that names a file, a folder or `asset:NAME`; write `FilePath` for the common case.

    Where it lies is no part of an artifact's key, what it holds is.

    Attributes:
        beside: Endings of files that are read with it where they stand beside it: of `a.inter`, `.item` is `a.item`.
            What they hold is part of the key, too.
    """

    beside: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class PromptRef(FileRef):
    """Annotation for a field that names a prompt file; write `PromptPath` where it may use all that a prompt can.

    Attributes:
        knows: All that its one step may use; empty: what the steps of any prompt may.
    """

    knows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sends:
    """Annotation for a field that names a server which prompts are sent to: `Annotated[str, Sends()]`.

    The user's permission is asked for its host (`core.permissions`), and `llmcf recipe inspect` shows it.
    """


FilePath = Annotated[str, FileRef()]
PromptPath = Annotated[str, PromptRef()]


class Distinct:
    """Annotation for a list that holds nothing twice: `Annotated[tuple[int, ...], Distinct()]`.

    Args:
        by: Field of its entries that must differ; none: the entries themselves must.
    """

    def __init__(self, by: str = "") -> None:
        self._by = by

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "uniqueItems": True}

    def _check(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        values = [getattr(item, self._by) if self._by else item for item in items]
        first: dict[Any, int] = {}
        found = []
        for place, value in enumerate(values):
            other = first.setdefault(_known_by(value), place)
            if other < place:
                found.append(self._broken(values, place, other))
        if found:
            raise refusal("list", found, items)
        return items

    def _broken(self, values: Sequence[Any], place: int, other: int) -> Broken:
        if self._by:
            return Broken(f"has the same {self._by} as entry {other}, {values[place]!r}", (place, self._by))
        return Broken(f"repeats entry {other}; list it only once", (place,))


def _known_by(value: Any) -> Any:
    """Something hashable that equal values have in common."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, BaseModel):
        return f"{type(value).__qualname__} {_known_by(value.model_dump(mode='json'))}"
    return json.dumps(value, sort_keys=True, default=repr)


def key_view(value: Any, digest_of: Callable[[str], str]) -> Any:
    """`value` as plain JSON data for hashing: defaults included, `Runtime` fields out, `FileRef` fields as digests, and
    the version of components after their first.

    Args:
        value: A `Config`, or mappings, sequences and scalars holding them.
        digest_of: Content digest of what a `FileRef` field names.
    """
    if isinstance(value, BaseModel):
        view: dict[str, Any] = {}
        for name, info in type(value).model_fields.items():
            item = getattr(value, name)
            if is_marked(info, Runtime):
                continue
            if is_marked(info, FileRef):
                beside = next((mark.beside for mark in _marks(info) if isinstance(mark, FileRef)), ())
                view[name] = _digests(item, digest_of, beside)
            else:
                view[name] = key_view(item, digest_of)
        if isinstance(value, ComponentConfig) and value.version > 1:
            view["version"] = value.version
        # Keys know a task without settings by its name alone, as they did when a task was no more than that.
        return view["type"] if isinstance(value, TaskConfig) and len(view) == 1 else view
    if isinstance(value, Mapping):
        return {str(k): key_view(v, digest_of) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [key_view(v, digest_of) for v in value]
    return value


def file_refs(value: Any) -> Iterator[str]:
    """Every file, folder or asset that a `Config` names in its `FileRef` fields, at any depth."""
    return _named(value, FileRef)


def servers(value: Any) -> Iterator[str]:
    """Every server that a `Config` names in its `Sends` fields, at any depth."""
    return _named(value, Sends)


def _named(value: Any, mark: type[FileRef] | type[Sends]) -> Iterator[str]:
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            item = getattr(value, name)
            yield from _texts(item) if is_marked(info, mark) else _named(item, mark)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _named(item, mark)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from _named(item, mark)


def is_marked(info: FieldInfo, mark: type[Runtime] | type[FileRef] | type[Sends]) -> bool:
    """Whether a field carries an annotation, itself or inside its type (`FilePath | None`, `tuple[FilePath, ...]`)."""
    return any(isinstance(found, mark) for found in _marks(info))


def _marks(info: FieldInfo) -> Iterator[Any]:
    yield from info.metadata
    yield from _inner_marks(info.annotation)


def _inner_marks(annotation: Any) -> Iterator[Any]:
    for part in get_args(annotation):
        yield from getattr(part, "__metadata__", ())
        yield from _inner_marks(part)


def _digests(item: Any, digest_of: Callable[[str], str], beside: tuple[str, ...] = ()) -> Any:
    if isinstance(item, str):
        if not item:
            return item
        stem, dot, ending = item.rpartition(".")
        others = {end: _digest_if_there(f"{stem}{end}", digest_of) for end in beside if dot and "/" not in ending}
        found = {end: digest for end, digest in others.items() if digest is not None}
        return {"file": digest_of(item), "beside": found} if found else digest_of(item)
    if isinstance(item, BaseModel):  # a component in place of a file
        return key_view(item, digest_of)
    if isinstance(item, Mapping):
        return {str(key): _digests(below, digest_of, beside) for key, below in item.items()}
    return [_digests(below, digest_of, beside) for below in item] if isinstance(item, Sequence) else item


def _digest_if_there(name: str, digest_of: Callable[[str], str]) -> str | None:
    try:
        return digest_of(name)
    except AccessError:
        raise
    except LlmcfError:
        return None


def _texts(item: Any) -> Iterator[str]:
    if isinstance(item, str):
        yield from [item] if item else []
    elif isinstance(item, BaseModel):
        yield from file_refs(item)
    elif isinstance(item, Mapping | Sequence):
        for below in item.values() if isinstance(item, Mapping) else item:
            yield from _texts(below)
