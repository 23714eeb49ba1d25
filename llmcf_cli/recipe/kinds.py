"""Which values go together in an expression: the kind of every part, or what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal as Either

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from llmcf_cli.core.errors import closest
from llmcf_cli.core.types import Broken, refusal
from llmcf_cli.recipe.expression import COMPARISONS, Call, Column, ExpressionError, Literal, Tree, parse

Kind = Either["text", "number", "boolean", "time", "texts", "other", "null", "any"]
"""`texts` is a list of texts, `other` what no expression reads (structures, bytes), `null` the kind of the value null
alone, `any` what is not known yet."""

SHOWN = {
    "text": "text", "number": "a number", "boolean": "a condition", "time": "a time", "texts": "a list of texts",
    "other": "a structure", "null": "null", "any": "anything",
}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """What a function takes in one place.

    Attributes:
        name: For errors and the documentation.
        kinds: Kinds that it may be of.
        constant: Whether it must stand in the expression as a value.
        optional: Whether it may be left out.
    """

    name: str
    kinds: tuple[Kind, ...]
    constant: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Function:
    """A function of the language.

    Attributes:
        takes: Its parameters.
        gives: Kind of its value.
        meaning: One line of documentation.
    """

    takes: tuple[Parameter, ...]
    gives: Kind
    meaning: str


def _text(name: str = "x") -> Parameter:
    return Parameter(name, ("text",))


def _of(*kinds: Kind) -> tuple[Parameter, ...]:
    return (Parameter("x", kinds),)


_SEPARATOR = Parameter("separator", ("text",), constant=True)

FUNCTIONS: Mapping[str, Function] = {
    "lower": Function(_of("text"), "text", "the text in lower case"),
    "upper": Function(_of("text"), "text", "the text in upper case"),
    "trim": Function(_of("text"), "text", "the text without white space at both ends"),
    "length": Function(_of("text", "texts"), "number", "number of characters of a text, or of entries of a list"),
    "starts_with": Function((_text(), _text("beginning")), "boolean", "whether the text begins with `beginning`"),
    "ends_with": Function((_text(), _text("end")), "boolean", "whether the text ends with `end`"),
    "contains": Function(
        (Parameter("x", ("text", "texts")), _text("part")), "boolean",
        "whether a text contains `part`, or a list has that entry",
    ),
    "replace": Function((_text(), _text("old"), _text("new")), "text", "the text with every `old` replaced by `new`"),
    "split": Function(
        (_text(), _SEPARATOR, Parameter("n", ("number",), constant=True)), "text",
        "the n-th part between separators, counted from 1, or from the end with -1; null if there are fewer",
    ),
    "parts": Function((_text(), _SEPARATOR), "texts", "the list of all parts between separators"),
    "coalesce": Function(
        (Parameter("a", ()), Parameter("b", ()), Parameter("…", ())), "any", "the first value that is not null"
    ),
    "if": Function(
        (Parameter("condition", ("boolean",)), Parameter("a", ()), Parameter("b", ())), "any",
        "a if the condition holds, otherwise b",
    ),
    "number": Function(_of("text", "number", "boolean"), "number", "x as a number; counted if it is none"),
    "text": Function(
        _of("text", "number", "boolean", "time"), "text", "x as text; whole numbers without a decimal point"
    ),
    "time": Function(
        (Parameter("x", ("text", "number", "time")), Parameter("format", ("text",), constant=True, optional=True),
         Parameter("zone", ("text",), constant=True, optional=True)),
        "time",
        "x as a time; counted if it is none. `format` and `zone` are as `columns.time_format` and `columns.time_zone` "
        "of a source. Without `zone`, a time that names no zone is in `columns.time_zone` in interactions, and in UTC "
        "in items and users",
    ),
    "floor": Function(_of("number"), "number", "x rounded down to a whole number"),
    "round": Function(
        (Parameter("x", ("number",)), Parameter("digits", ("number",), constant=True, optional=True)), "number",
        "x rounded to this many decimal places (0 by default), halves away from zero",
    ),
    "abs": Function(_of("number"), "number", "the absolute value"),
    "log": Function(_of("number"), "number", "natural logarithm; counted if there is none"),
    "year": Function(_of("time"), "number", "year of a time; this and the functions below are in UTC"),
    "month": Function(_of("time"), "number", "month, 1 to 12"),
    "day": Function(_of("time"), "number", "day of the month"),
    "hour": Function(_of("time"), "number", "hour, 0 to 23"),
    "weekday": Function(_of("time"), "number", "day of the week, 1 (Monday) to 7"),
}  # fmt: skip
"""Every function by name."""


def signature(name: str, function: Function) -> str:
    """A function with its parameters; `?` marks those that may be left out."""
    return f"{name}({', '.join(p.name + '?' * p.optional for p in function.takes)})"


@dataclass(frozen=True)
class Typed:
    """A part of an expression with its kind and its arguments."""

    tree: Tree
    kind: Kind
    args: tuple[Typed, ...] = ()


class Expression:
    """Field annotation: `Annotated[str, Expression()]` is refused if its form is wrong, whatever the columns."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, expression: str) -> str:
        try:
            typed(parse(expression), expression, None)
        except ExpressionError as error:
            raise refusal("expression", [Broken(error.what, allowed=error.allowed)], expression) from None
        return expression


def typed(tree: Tree, source: str, columns: Mapping[str, Kind] | None) -> Typed:
    """The kind of every part of an expression.

    Args:
        tree: The expression.
        source: Its text, for errors.
        columns: Column → kind; None: not known yet, so that columns may be anything.

    Raises:
        ExpressionError: A column or function does not exist, or values do not go together; says what to write.
    """
    return _Checker(source, columns).check(tree)


class _Checker:
    def __init__(self, source: str, columns: Mapping[str, Kind] | None) -> None:
        self._source, self._columns = source, columns

    def check(self, tree: Tree) -> Typed:
        if isinstance(tree, Literal):
            return Typed(tree, _kind_of(tree.value))
        if isinstance(tree, Column):
            return Typed(tree, self._column(tree))
        args = tuple(map(self.check, tree.args))
        return Typed(tree, self._call(tree, args), args)

    def _column(self, tree: Column) -> Kind:
        if self._columns is None:
            return "any"
        if tree.name not in self._columns:
            near = closest(tree.name, self._columns)
            meant = f"did you mean {near!r}?" if near else f'put texts in quotes: "{tree.name}"'
            what = f"unknown column {tree.name!r}; {meant}"
            raise self._error(what, tree, tuple(self._columns))
        kind = self._columns[tree.name]
        if kind == "other":
            raise self._error(f"the values of {tree.name!r} are structures or bytes, which no expression reads", tree)
        return kind

    def _call(self, tree: Call, args: Sequence[Typed]) -> Kind:
        name = tree.function
        if name in ("and", "or", "not"):
            for part in args:
                self._need(part, ("boolean",), f"`{name}` takes conditions")
            return "boolean"
        if name in COMPARISONS or name == "in":
            return self._comparison(tree, args)
        if name == "is null":
            return "boolean"
        if name in ("+", "-", "*", "/", "%", "negative"):
            for part in args:
                self._need(part, ("number",), f"`{'-' if name == 'negative' else name}` takes numbers")
            return "number"
        if name not in FUNCTIONS:
            near = closest(name, FUNCTIONS)
            what = f"unknown function {name!r}" + (f"; did you mean {near!r}?" if near else "")
            raise self._error(what, tree, tuple(FUNCTIONS))
        if name in ("coalesce", "if"):
            return self._choice(tree, args)
        return self._function(tree, FUNCTIONS[name], args)

    def _comparison(self, tree: Call, args: Sequence[Typed]) -> Kind:
        if len(args) == 1:
            raise self._error("the list is empty, so nothing is in it", tree)
        for part in args:
            if part.kind == "null":
                raise self._error("nothing equals null; write `is null` or `is not null`", part.tree)
            if part.kind == "texts":
                raise self._error(f"{self._shown(part)} is a list; ask contains(list, text)", part.tree)
            if isinstance(part.tree, Literal) and part.tree.value == "":
                raise self._error("blank values are null; write `is null` or `is not null`", part.tree)
        if tree.function == "in":
            for part in args[1:]:
                if not isinstance(part.tree, Literal):
                    raise self._error("lists hold constant texts or numbers", part.tree)
        elif tree.function not in ("=", "!="):
            for part in args:
                self._need(part, ("text", "number", "time"), f"`{tree.function}` takes numbers, times or texts")
        self._same(args, "are compared")
        return "boolean"

    def _choice(self, tree: Call, args: Sequence[Typed]) -> Kind:
        if tree.function == "if":
            if len(args) != 3:
                raise self._error(f"if(condition, a, b) takes 3 arguments, not {len(args)}", tree)
            self._need(args[0], ("boolean",), "the first argument of `if` must be a condition")
            args = args[1:]
        elif len(args) < 2:
            raise self._error(f"coalesce takes 2 or more arguments, not {len(args)}", tree)
        return self._same(args, "must be of one kind")

    def _same(self, args: Sequence[Typed], together: str) -> Kind:
        """The kind that all arguments have in common."""
        known = [part for part in args if part.kind not in ("any", "null")]
        for part in known[1:]:
            if part.kind != known[0].kind:
                first, kinds = known[0], {known[0].kind, part.kind}
                text = first if first.kind == "text" else part
                remedy = ""
                if kinds == {"text", "number"} or kinds == {"text", "time"}:
                    other = "number" if "number" in kinds else "time"
                    remedy = f"; write {self._as(other, text)}"
                what = f"{self._shown(first)} is {SHOWN[first.kind]} and {self._shown(part)} is {SHOWN[part.kind]}"
                raise self._error(f"{what}, but they {together}{remedy}", part.tree)
        if known:
            return known[0].kind
        return "null" if all(part.kind == "null" for part in args) else "any"

    def _function(self, tree: Call, function: Function, args: Sequence[Typed]) -> Kind:
        least = sum(not parameter.optional for parameter in function.takes)
        if not least <= len(args) <= len(function.takes):
            many = f"{len(args)} argument{'s' * (len(args) != 1)}"
            raise self._error(f"{signature(tree.function, function)} has {many} here", tree)
        for part, parameter in zip(args, function.takes, strict=False):
            self._need(
                part, parameter.kinds, f"`{parameter.name}` of {tree.function} must be {_one_of(parameter.kinds)}"
            )
            if parameter.constant and not isinstance(part.tree, Literal):
                raise self._error(f"`{parameter.name}` of {tree.function} must be a constant, not computed", part.tree)
        for place, whole in (("split", 2), ("round", 1)):
            if tree.function == place and len(args) > whole:
                value = args[whole].tree
                assert isinstance(value, Literal)
                if (
                    not isinstance(value.value, int)
                    or (place == "split" and not value.value)
                    or abs(value.value) > 1000
                ):
                    raise self._error("must be a whole number, 1, 2, … or -1, -2, …" * (place == "split")
                                      or "must be a whole number", value)  # fmt: skip
        for part, parameter in zip(args, function.takes, strict=False):
            if parameter.name in ("separator", "old") and isinstance(part.tree, Literal) and part.tree.value == "":
                raise self._error(f"`{parameter.name}` of {tree.function} must not be empty", part.tree)
        return function.gives

    def _need(self, part: Typed, kinds: Sequence[Kind], rule: str) -> None:
        if part.kind in (*kinds, "any", "null"):
            return
        remedy = ""
        if part.kind == "text" and kinds == ("number",):
            remedy = f"; write {self._as('number', part)}"
        elif part.kind == "text" and kinds == ("time",):
            remedy = f"; write {self._as('time', part)}"
        elif part.kind in ("number", "time") and "text" in kinds:
            remedy = f"; write {self._as('text', part)}"
        raise self._error(f"{rule}; {self._shown(part)} is {SHOWN[part.kind]}{remedy}", part.tree)

    def _as(self, kind: str, part: Typed) -> str:
        """How to make a value of another kind of a part."""
        tree = part.tree
        if kind == "number" and isinstance(tree, Literal):
            return (
                f"{tree.value} without quotes" if _is_number(str(tree.value)) else f"a number instead of {tree.value!r}"
            )
        form = ', "%Y-%m-%d"' if kind == "time" else ""
        return f"{kind}({self._shown(part)}{form})"

    def _shown(self, part: Typed) -> str:
        return self._source[part.tree.start : part.tree.end]

    def _error(self, what: str, tree: Tree, allowed: Sequence[str] = ()) -> ExpressionError:
        return ExpressionError(what, self._source, tree.start, allowed)


def _kind_of(value: object) -> Kind:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


def _one_of(kinds: Sequence[Kind]) -> str:
    return " or ".join(SHOWN[kind] for kind in kinds)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
