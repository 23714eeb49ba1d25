"""The expression language of `dataset.derive` and `dataset.filter`: text → tree.

    number(quantity) > 0 and country in ["France", "Spain"] and `Invoice No` is not null

Expressions read columns of one row and give one value. There are no loops, no definitions and no way to reach anything
else; their length and depth are bounded. `kinds.py` beside this says which values go together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

MAX_LENGTH = 2000
"""Characters of an expression."""
MAX_DEPTH = 40
"""Operations within operations."""

COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")
_SAME = {"==": "="}
_CONSTANTS = {"null": None, "true": True, "false": False}
_WORDS = ("and", "or", "not", "in", "is", *_CONSTANTS)
_TOKEN = re.compile(
    r"""(?P<blank>\s+)
      | (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<name>[^\W\d]\w*)
      | (?P<quoted>`[^`]*`)
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<sign>==|!=|<=|>=|[=<>+\-*/%(),\[\]])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "'": "'"}
_FOREIGN = {
    "&": "and", "&&": "and", "|": "or", "||": "or", "!": "not", "<>": "!=", "≠": "!=", "≤": "<=", "≥": ">=", "×": "*",
    "÷": "/", "“": '"', "”": '"', "‘": "'", "’": "'",
}  # fmt: skip
_SHOWN = 40


@dataclass(frozen=True)
class Literal:
    """A value that stands in the expression: text, a number, true, false or null."""

    value: str | int | float | bool | None
    start: int
    end: int


@dataclass(frozen=True)
class Column:
    """The row's value in a column."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Call:
    """A function or an operator with its arguments.

    Attributes:
        function: Name of a function, or an operator: `+`, `=`, `and`, `or`, `not`, `in`, `is null`, `negative`.
        args: What it is applied to; of `in` the first is looked for among the others.
        start: First character of its text in the expression.
        end: The character after its last.
        depth: Operations within operations, this one included.
    """

    function: str
    args: tuple[Tree, ...]
    start: int
    end: int
    depth: int = 1


Tree = Literal | Column | Call


class ExpressionError(ValueError):
    """An expression is wrong.

    Attributes:
        what: The problem, with its place in the expression.
        allowed: What may stand there.
    """

    def __init__(self, what: str, source: str, start: int, allowed: Sequence[str] = ()) -> None:
        self.what = f"{what}{_place(source, start)}"
        self.allowed = tuple(allowed)
        super().__init__(self.what)


def parse(source: str) -> Tree:
    """The tree of an expression.

    Raises:
        ExpressionError: It is too long, too deep or malformed; says where.
    """
    if len(source) > MAX_LENGTH:
        raise ExpressionError(f"has {len(source):,} characters; at most {MAX_LENGTH:,} are allowed", source, 0)
    if "\0" in source:
        raise ExpressionError("has a NUL character", source, source.index("\0"))
    return _Parser(source).whole()


def columns_in(tree: Tree) -> Iterator[Column]:
    """Every mention of a column, from left to right."""
    if isinstance(tree, Column):
        yield tree
    elif isinstance(tree, Call):
        for argument in tree.args:
            yield from columns_in(argument)


def conditions(tree: Tree) -> tuple[Tree, ...]:
    """The parts of a condition that must all hold: what its outermost `and` joins."""
    return tree.args if isinstance(tree, Call) and tree.function == "and" else (tree,)


def _place(source: str, start: int) -> str:
    """Where in an expression: the position, and the text around it if the expression is long."""
    if len(source) <= 2 * _SHOWN:
        return f" (at character {start + 1} of: {source.strip()})"
    low, high = max(start - _SHOWN, 0), min(start + _SHOWN, len(source))
    shown = f"{'…' * (low > 0)}{source[low:high].strip()}{'…' * (high < len(source))}"
    return f" (at character {start + 1}: {shown})"


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def _tokens(source: str) -> list[_Token]:
    found, at = [], 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise _unreadable(source, at)
        kind, text = str(match.lastgroup), match[0]
        if kind == "name" and text.lower() in _WORDS:
            kind, text = "word", text.lower()
        if kind != "blank":
            found.append(_Token(kind, _SAME.get(text, text) if kind == "sign" else text, at, match.end()))
        at = match.end()
    return [*found, _Token("end", "", len(source), len(source))]


def _unreadable(source: str, at: int) -> ExpressionError:
    sign = source[at]
    if sign in "\"'`":
        return ExpressionError(
            f"the {'name' if sign == '`' else 'text'} that starts with {sign} is not closed", source, at
        )
    meant = _FOREIGN.get(source[at : at + 2]) or _FOREIGN.get(sign)
    hint = f"; write {meant}" if meant else "; put names with characters other than letters, digits and _ in backticks"
    return ExpressionError(f"unexpected {sign!r}{hint}", source, at)


class _Parser:
    """Recursive descent, one method per binding strength, loosest first."""

    def __init__(self, source: str) -> None:
        self._source, self._tokens, self._at, self._open = source, _tokens(source), 0, 0

    def whole(self) -> Tree:
        if self._now.kind == "end":
            raise ExpressionError("is empty", self._source, 0)
        tree = self._either()
        if self._now.kind != "end":
            raise self._unexpected("an operator or the end", ("and", "or", "in", "is", *COMPARISONS, *"+-*/%"))
        return tree

    @property
    def _now(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, *texts: str) -> _Token | None:
        """The next token if it is a sign or word of that text."""
        token = self._now
        if token.kind in ("sign", "word") and token.text in texts:
            self._at += 1
            return token
        return None

    def _need(self, text: str) -> _Token:
        found = self._take(text)
        if found is None:
            raise self._unexpected(repr(text))
        return found

    def _unexpected(self, wanted: str, allowed: Sequence[str] = ()) -> ExpressionError:
        token = self._now
        found = "the end" if token.kind == "end" else repr(self._source[token.start : token.end])
        if token.kind == "sign" and token.text in ("<", ">") and self._source[token.start - 1 : token.end] == "<>":
            wanted, allowed = "!= for `is not`", ()
        return ExpressionError(f"expected {wanted}, found {found}", self._source, token.start, allowed)

    def _call(self, function: str, args: Sequence[Tree], start: int, end: int) -> Call:
        depth = 1 + max((a.depth for a in args if isinstance(a, Call)), default=0)
        self._bound(depth, start)
        return Call(function, tuple(args), start, end, depth)

    def _bound(self, depth: int, start: int) -> None:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"operations are nested more than {MAX_DEPTH} deep", self._source, start)

    def _nested(self, opening: _Token, part: Callable[[], Tree]) -> Tree:
        """What stands behind a bracket or a sign: this is where the parser calls itself."""
        self._open += 1
        self._bound(self._open, opening.start)
        tree = part()
        self._open -= 1
        return tree

    def _either(self) -> Tree:
        return self._joined("or", self._all)

    def _all(self) -> Tree:
        return self._joined("and", self._not)

    def _joined(self, word: str, part: Callable[[], Tree]) -> Tree:
        parts = [part()]
        while self._take(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else self._call(word, parts, parts[0].start, parts[-1].end)

    def _not(self) -> Tree:
        token = self._take("not")
        if token is None:
            return self._comparison()
        inner = self._nested(token, self._not)
        return self._call("not", [inner], token.start, inner.end)

    def _comparison(self) -> Tree:
        left = self._sum()
        sign = self._take(*COMPARISONS)
        if sign is not None:
            right = self._sum()
            if self._now.text in COMPARISONS:
                raise ExpressionError("comparisons do not chain; join two by `and`", self._source, self._now.start)
            return self._call(sign.text, [left, right], left.start, right.end)
        if self._take("is"):
            negated = self._take("not")
            end = self._need("null").end
            found = self._call("is null", [left], left.start, end)
            return self._call("not", [found], left.start, end) if negated else found
        negated = self._take("not")
        if negated is not None or self._now.text == "in":
            self._need("in")
            self._need("[")
            values = self._list("]", self._sum)
            end = self._tokens[self._at - 1].end
            found = self._call("in", [left, *values], left.start, end)
            return self._call("not", [found], left.start, end) if negated else found
        return left

    def _sum(self) -> Tree:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> Tree:
        return self._chain(("*", "/", "%"), self._signed)

    def _chain(self, signs: tuple[str, ...], part: Callable[[], Tree]) -> Tree:
        left = part()
        while sign := self._take(*signs):
            right = part()
            left = self._call(sign.text, [left, right], left.start, right.end)
        return left

    def _signed(self) -> Tree:
        sign = self._take("-")
        if sign is None:
            return self._value()
        inner = self._nested(sign, self._signed)
        if isinstance(inner, Literal) and isinstance(inner.value, int | float) and not isinstance(inner.value, bool):
            return Literal(-inner.value, sign.start, inner.end)
        return self._call("negative", [inner], sign.start, inner.end)

    def _value(self) -> Tree:
        token = self._now
        if self._take("("):
            inner = self._nested(token, self._either)
            self._need(")")
            return inner
        self._at += token.kind != "end"
        if token.kind == "number":
            return Literal(self._number(token), token.start, token.end)
        if token.kind == "text":
            return Literal(self._text(token), token.start, token.end)
        if token.kind == "quoted":
            return Column(token.text[1:-1], token.start, token.end)
        if token.kind == "word" and token.text in _CONSTANTS:
            return Literal(_CONSTANTS[token.text], token.start, token.end)
        if token.kind == "name":
            if not self._take("("):
                return Column(token.text, token.start, token.end)
            args = self._list(")", lambda: self._nested(token, self._either))
            return self._call(token.text, args, token.start, self._tokens[self._at - 1].end)
        self._at -= token.kind != "end"
        raise self._unexpected("a column, a value, a function or `(`")

    def _list(self, closing: str, part: Callable[[], Tree]) -> list[Tree]:
        """Values up to the closing bracket, with commas between."""
        found: list[Tree] = []
        while not self._take(closing):
            if found and not self._take(","):
                raise self._unexpected(f"`,` or `{closing}`")
            found.append(part())
        return found

    def _number(self, token: _Token) -> int | float:
        if token.text.isdecimal() and int(token.text) < 1 << 63:
            return int(token.text)
        value = float(token.text)
        if math.isinf(value):
            raise ExpressionError("the number is too large", self._source, token.start)
        return value

    def _text(self, token: _Token) -> str:
        def unescaped(match: re.Match[str]) -> str:
            if match[1] not in _ESCAPES:
                what = f"unknown escape {match[0]}; write a backslash as \\\\"
                place = token.start + 1 + match.start()
                raise ExpressionError(what, self._source, place, [f"\\{c}" for c in _ESCAPES])
            return _ESCAPES[match[1]]

        return _ESCAPE.sub(unescaped, token.text[1:-1])
