"""Prompt files: chat messages as logic-less Mustache templates over a few known variables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from llmcf_cli.core.errors import LlmcfError, RecipeError, closest
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.types import Config
from llmcf_cli.recipe.tree import Node, dotted, nearest, plain
from llmcf_cli.recipe.yamlfile import read_yaml

VARIABLES: dict[str, str] = {
    "history": "texts of the user's earlier items, oldest first: a list for {{#history}}, joined text for {{history}}",
    "item": "text of the target item",
    "user": "text of the user, empty where the data set has none",
    "decision": "what the user did with the item: `liked` or `did not like`",
}

_TAG = re.compile(r"\{\{\s*([#^/&>!={]?)\s*(.*?)\s*[=}]?\}\}", re.DOTALL)
_FORBIDDEN = {">": "partials", "=": "changed delimiters"}
_OPENING = ("#", "^")


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


def template_problems(template: str, variables: Sequence[str]) -> list[TemplateProblem]:
    """Everything wrong with a Mustache template.

    Args:
        template: The text with its tags.
        variables: Names that it may use.

    Returns:
        Problems by line; empty for a sound template. Allowed are `{{x}}`, `{{{x}}}`, `{{&x}}`, `{{#x}}`, `{{^x}}`,
        `{{/x}}`, `{{.}}` inside a section and comments; partials and changed delimiters are refused.
    """
    problems: list[TemplateProblem] = []
    open_sections: list[tuple[str, int]] = []
    for sign, name, line in _tags(template):
        if sign == "!":
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
                problems.append(TemplateProblem(line, "{{.}} stands outside any section"))
            continue
        if name not in variables:
            what = f'unknown variable "{name}"{_suggestion(name, variables)}'
            problems.append(TemplateProblem(line, what, tuple(variables), name))
    problems += [TemplateProblem(line, f"{{{{#{name}}}}} is never closed") for name, line in open_sections]
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


class PromptMessage(Config):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    """Who speaks."""
    content: str = Field(min_length=1)
    """Mustache template of what is said."""


class PromptSection(Config):
    """One consideration that the answer should touch."""

    name: str = Field(min_length=1)
    """Name in reports, e.g. `diversity`."""
    words: tuple[str, ...] = Field(min_length=1)
    """Word beginnings that show it was touched, lower case, e.g. `divers`."""


class Prompt(Config):
    """A checked prompt file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=80)
    """Short name."""
    description: str = ""
    """What the prompt asks for and where it comes from."""
    variables: tuple[str, ...] = ()
    """Variables the messages use; each one of the known ones."""
    messages: tuple[PromptMessage, ...] = Field(min_length=1)
    """The chat up to the model's answer; the last message is the user's."""
    sections: tuple[PromptSection, ...] = ()
    """What a complete answer covers, for the judge."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that shapes the answer or its score (not the name and the description)."""
        return digest_json(self.model_dump(mode="json", include={"variables", "messages", "sections"}))

    def render(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """The chat messages for one sample.

        Args:
            values: Value of every declared variable; further ones are ignored.

        Raises:
            LlmcfError: A declared variable has no value.
        """
        missing = [name for name in self.variables if name not in values]
        if missing:
            raise LlmcfError(f"no value for {', '.join(missing)}", where=f"prompt {self.name}")
        given = {name: values[name] for name in self.variables}
        return [{"role": m.role, "content": render_template(m.content, given).strip()} for m in self.messages]


def load_prompt(path: Path) -> Prompt:
    """Read and check a prompt file.

    Raises:
        RecipeError: The file cannot be read, is no YAML, has unknown or missing keys, or a template uses an unknown
            or undeclared variable or leaves a declared one unused. Holds every problem found, each with its line.
    """
    root = read_yaml(path)
    try:
        prompt = Prompt.model_validate(plain(root))
    except ValidationError as error:
        raise RecipeError([_problem(item, root) for item in error.errors()]) from error
    problems = [*_variable_problems(prompt, root), *_message_problems(prompt, root)]
    if problems:
        raise RecipeError(problems)
    return prompt


def _variable_problems(prompt: Prompt, root: Node) -> Iterator[LlmcfError]:
    used = {name for m in prompt.messages for sign, name, _ in _tags(m.content) if sign not in ("!", "/")}
    for index, name in enumerate(prompt.variables):
        where = f"{nearest(root, ('variables', index)).origin}: variables"
        if name not in VARIABLES:
            yield LlmcfError(
                f'unknown variable "{name}"{_suggestion(name, VARIABLES)}',
                where=where,
                allowed=tuple(VARIABLES),
            )
        elif name not in used:
            yield LlmcfError(
                f'variable "{name}" is declared but no message uses it', where=where,
                hint="use it or take it out of `variables`",
            )  # fmt: skip
    if prompt.messages[-1].role != "user":
        where = f"{nearest(root, ('messages', len(prompt.messages) - 1)).origin}: messages"
        yield LlmcfError("the last message must be the user's", where=where)


def _message_problems(prompt: Prompt, root: Node) -> Iterator[LlmcfError]:
    for index, message in enumerate(prompt.messages):
        origin = nearest(root, ("messages", index, "content")).origin
        # A block scalar (the only kind with line breaks worth counting) begins on the line below its key.
        first = origin.line + ("\n" in message.content)
        for problem in template_problems(message.content, prompt.variables):
            undeclared = problem.name in VARIABLES and problem.name not in prompt.variables
            yield LlmcfError(
                problem.what, where=f"{replace(origin, line=first + problem.line - 1)}: messages.{index}.content",
                allowed=problem.allowed, hint=f"add {problem.name} to `variables`" if undeclared else "",
            )  # fmt: skip


def _problem(item: Mapping[str, Any], root: Node) -> LlmcfError:
    path = tuple(item["loc"])
    where = f"{nearest(root, path).origin}: {dotted(path)}"
    if item["type"] == "extra_forbidden":
        models: dict[str, type[Config]] = {"messages": PromptMessage, "sections": PromptSection}
        known = tuple(models.get(str(path[0]), Prompt).model_fields)
        return LlmcfError(f'unknown key "{path[-1]}"{_suggestion(path[-1], known)}', where=where, allowed=known)
    if item["type"] == "missing":
        return LlmcfError(f"the required key `{path[-1]}` is missing", where=where)
    return LlmcfError(str(item["msg"]), where=where)


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = closest(name, known)
    return f'; did you mean "{near}"?' if near else ""


def _tags(template: str) -> Iterator[tuple[str, str, int]]:
    """(sign, name, line) of every tag."""
    for match in _TAG.finditer(template):
        yield match.group(1), match.group(2), template.count("\n", 0, match.start()) + 1


def _verbatim(text: str) -> str:
    return text
