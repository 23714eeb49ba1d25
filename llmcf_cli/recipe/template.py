"""Logic-less Mustache templates over a few known variables: what is wrong with one, and filling it in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from llmcf_cli.core.errors import closest
from llmcf_cli.core.types import Broken, refusal

MAX_LENGTH = 10_000
"""Characters of a template."""
MAX_BLANKS = 400
"""Blanks and tabs in a row that are too many."""
_SIGNS = "#^/&>!={"
_FORBIDDEN = {">": "partials", "=": "changed delimiters"}
_OPENING = ("#", "^")
_SHOWN = 30


class Texts(list[str]):
    """A list of texts that reads `a; b; c` where a template prints it whole."""

    def __str__(self) -> str:
        return "; ".join(self)


@dataclass(frozen=True)
class TemplateProblem:
    """One thing wrong with a template.

    Attributes:
        line: 1-based line within the template.
        what: The problem.
        allowed: Names that would be right.
        name: The variable in question, if there is one.
    """

    line: int
    what: str
    allowed: tuple[str, ...] = ()
    name: str = ""


class Template:
    """Field annotation: `Annotated[str, Template("item", "user")]` is refused if something is wrong with it.

    Args:
        variables: Names that it may use; none: they are known later, and only its form is checked.
    """

    def __init__(self, *variables: str) -> None:
        self._variables = variables or None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, template: str) -> str:
        problems = template_problems(template, self._variables)
        if problems:
            found = [Broken(problem.what, allowed=problem.allowed, line=problem.line) for problem in problems]
            raise refusal("template", found, template)
        return template


def template_problems(template: str, variables: Sequence[str] | None) -> list[TemplateProblem]:
    """Everything wrong with a Mustache template.

    Args:
        template: The text with its tags.
        variables: Names that it may use; None: any.

    Returns:
        Problems by line; empty for a sound template. Allowed are `{{x}}`, `{{{x}}}`, `{{&x}}`, `{{#x}}`, `{{^x}}`,
        `{{/x}}`, `{{.}}` inside a section and comments; partials and changed delimiters are refused.
    """
    if len(template) > MAX_LENGTH:
        return [TemplateProblem(1, f"has {len(template):,} characters; at most {MAX_LENGTH:,} are allowed")]
    if " " * MAX_BLANKS in template.replace("\t", " "):  # the library that fills templates in goes back over them
        return [TemplateProblem(1, f"has {MAX_BLANKS} spaces in a row")]
    problems: list[TemplateProblem] = []
    open_sections: list[tuple[str, int]] = []
    for sign, name, line in tags(template):
        if sign == "!":
            continue
        if not name or "{" in name or "}" in name:
            shown = name.split("\n")[0][:_SHOWN]
            what = f"the tag {{{{{shown} is not closed by }}}}" if name else "a tag has no name"
            problems.append(TemplateProblem(line, what))
            continue
        if sign in _FORBIDDEN:
            problems.append(TemplateProblem(line, f"{_FORBIDDEN[sign]} are not allowed in a template"))
            continue
        if sign == "/":
            if not open_sections or open_sections[-1][0] != name:
                problems.append(TemplateProblem(line, f"{{{{/{name}}}}} closes no open section"))
            else:
                open_sections.pop()
            continue
        if sign in _OPENING:
            open_sections.append((name, line))
        if name == ".":
            if not open_sections:
                problems.append(TemplateProblem(line, "{{.}} is outside any section"))
            continue
        if variables is not None and name not in variables:
            what = f'unknown variable "{name}"{suggestion(name, variables)}'
            problems.append(TemplateProblem(line, what, tuple(variables), name))
    problems += [TemplateProblem(line, f"{{{{#{name}}}}} is never closed") for name, line in open_sections]
    open_tag = template.find("{{", template.rfind("}}") + 1)
    if open_tag >= 0:
        line = template.count("\n", 0, open_tag) + 1
        problems.append(TemplateProblem(line, "a tag begins with {{ and is never closed"))
    return sorted(problems, key=lambda problem: problem.line)


def render_template(template: str, values: Mapping[str, Any]) -> str:
    """`template` with `values` filled in: no escaping, no partials, nothing inside a value is interpreted.

    Args:
        template: A template without `template_problems`.
        values: Value of each variable; lists become `Texts`.
    """
    import pystache

    renderer = pystache.Renderer(escape=_verbatim, partials={}, missing_tags="strict")
    plain = {name: Texts(value) if isinstance(value, list | tuple) else str(value) for name, value in values.items()}
    rendered: str = renderer.render(template, plain)
    return rendered


def used_variables(template: str) -> frozenset[str]:
    """Names that a template's tags read."""
    return frozenset(name for sign, name, _ in tags(template) if sign not in ("!", "/") and name != ".")


def suggestion(name: str, known: Sequence[str]) -> str:
    """`; did you mean "…"?` where a known name is near, else nothing."""
    near = closest(name, known)
    return f'; did you mean "{near}"?' if near else ""


def tags(template: str) -> Iterator[tuple[str, str, int]]:
    """(sign, name, line) of every tag that is closed, in one pass: no pattern that goes back."""
    line, done = 1, 0
    while (start := template.find("{{", done)) >= 0 and (stop := template.find("}}", start + 2)) >= 0:
        line += template.count("\n", done, start)
        inner = template[start + 2 : stop].lstrip()
        sign = inner[:1] if inner[:1] in _SIGNS else ""
        yield sign, inner[len(sign) :].removesuffix("=").strip(), line
        end = stop + 3 if sign == "{" and template[stop + 2 : stop + 3] == "}" else stop + 2
        line += template.count("\n", start, end)
        done = end


def _verbatim(text: str) -> str:
    return text
