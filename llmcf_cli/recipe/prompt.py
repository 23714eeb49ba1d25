"""Prompt files: one step or several, each a chat of logic-less templates over what that step may know.

A step is asked once per interaction, per distinct item, or per user and block of history. What a step writes is a
variable of the steps after it, and all of it together is the chain of thought.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from llmcf_cli.core.errors import LlmcfError, RecipeError
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.meanings import meaning
from llmcf_cli.core.place import KeyPath, Place
from llmcf_cli.core.tree import Node, nearest, plain, text_origin
from llmcf_cli.core.types import Config, Distinct
from llmcf_cli.core.yamlfile import read_yaml
from llmcf_cli.recipe.problems import in_order, own_errors, worded
from llmcf_cli.recipe.template import render_template, suggestion, template_problems, used_variables
from llmcf_cli.recipe.words import WORDS

Scope = Literal["interaction", "item", "user_block"]

VARIABLES: dict[str, str] = {
    "history": "texts of the user's earlier items, oldest first: a list for {{#history}}, joined text for {{history}}",
    "recent": "the part of `history` that no step per user_block has read yet; a list likewise",
    "item": "text of the target item",
    "user": "text of the user, empty where the data set has none",
    "decision": "what the user did with the item, in the label's words: `liked` or `did not like`",
}
SCOPES: dict[Scope, tuple[str, ...]] = {
    "user_block": ("history", "user"),
    "item": ("item",),
    "interaction": tuple(VARIABLES),
}
"""What a step may know beside `WORDS` and the steps before it. Texts that several interactions share never know a
decision."""

ONLY_STEP = "answer"
"""Name of the step of a file that has `messages` instead of `steps`."""

_WHOLE = "cot"  # what the store calls all parts together
_STEP_KEYS = ("variables", "messages")


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
    words: Annotated[tuple[str, ...], Field(max_length=1000), Distinct()] = Field(min_length=1)
    """Word beginnings that show it was touched, lower case, e.g. `divers`."""


class PromptStep(Config):
    """One question to the model."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)
    """Name of what it writes: a variable of later steps, and the part's name in the store."""
    per: Scope = "interaction"
    """How often it is asked: per `interaction`, distinct `item` or `user_block` (user and block of history)."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the engine's `max_new_tokens` that an answer may take; with shares that sum to 1 a chain of thought is
    never longer than an answer to a single question."""
    variables: Annotated[tuple[str, ...], Field(max_length=100), Distinct()] = ()
    """Variables the messages use: known ones, and names of earlier steps."""
    messages: tuple[PromptMessage, ...] = Field(min_length=1, max_length=100)
    """The chat up to the model's answer; the last message is the user's."""

    def limit(self, max_new_tokens: int) -> int:
        """Most tokens of an answer, given the engine's."""
        return max(1, round(self.share * max_new_tokens))

    def render(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """The chat messages for one subject.

        Args:
            values: Value of every declared variable; further ones are ignored.

        Raises:
            LlmcfError: A declared variable has no value.
        """
        missing = [name for name in self.variables if name not in values]
        if missing:
            raise LlmcfError(
                f"no value for {', '.join(missing)}", code="prompt-variable-missing", where=f"prompt step {self.name}"
            )
        given = {name: values[name] for name in self.variables}
        return [{"role": m.role, "content": render_template(m.content, given).strip()} for m in self.messages]


class Prompt(Config):
    """A checked prompt file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=80)
    """Short name."""
    description: str = ""
    """What the prompt asks for and where it comes from."""
    label: Literal["allowed", "forbidden"] = "allowed"
    """`forbidden`: no step may know the decision, so nothing that is written depends on it."""
    block: Annotated[int, Field(ge=1)] = 10
    """Events of a user after which a step per `user_block` is asked anew."""
    steps: tuple[PromptStep, ...] = Field(min_length=1, max_length=100)
    """What is asked, in order; the last step is per `interaction`. A file of one step may have its `variables` and
    `messages` instead."""
    sections: Annotated[tuple[PromptSection, ...], Field(max_length=100)] = ()
    """What a complete chain of thought covers, for the judge."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that shapes the texts or their score (not the name and the description)."""
        return digest_json(self.model_dump(mode="json", exclude={"name", "description"}))

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that any step uses, without names of steps."""
        return tuple(name for name in VARIABLES if any(name in step.variables for step in self.steps))

    @property
    def shared(self) -> tuple[PromptStep, ...]:
        """The steps before the last one."""
        return self.steps[:-1]

    @property
    def last(self) -> PromptStep:
        """The step that is asked several times and judged."""
        return self.steps[-1]

    def readable(self, step: PromptStep) -> tuple[str, ...]:
        """Every variable that a step may use: what its scope knows, and the earlier steps it can read."""
        known = [name for name in SCOPES[step.per] if not self._withheld(name)]
        earlier = self.steps[: [s.name for s in self.steps].index(step.name)]
        return (*known, *WORDS, *(other.name for other in earlier if _shares_scope(step, other)))

    def _withheld(self, name: str) -> bool:
        if name == "decision":
            return self.label == "forbidden"
        return name == "recent" and all(step.per != "user_block" for step in self.steps)


def load_prompt(path: Path) -> Prompt:
    """Read and check a prompt file.

    Raises:
        RecipeError: The file cannot be read, is no YAML, has unknown or missing keys, or a template uses an unknown
            or undeclared variable, one that its step must not know, or leaves a declared one unused. Holds every
            problem found, each with its line.
    """
    return _File(read_yaml(path)).prompt()


def check_knows(prompt: Prompt, knows: tuple[str, ...], where: Place | str) -> None:
    """Refuse a prompt that takes several steps or uses anything but what it may know.

    Raises:
        LlmcfError: At `where`, which names the prompt.
    """
    if prompt.shared:
        raise LlmcfError(
            "must have a single step, but has several",
            code="prompt-steps",
            where=where,
            hint="use a prompt file with one step",
        )
    foreign = sorted(set(prompt.variables) - set(knows))
    if foreign:
        raise LlmcfError(f"must not depend on {', '.join(foreign)}", code="prompt-depends", where=where, allowed=knows)


def _shares_scope(step: PromptStep, other: PromptStep) -> bool:
    """Whether what `other` writes is one text for each subject of `step`."""
    return step.per in (other.per, "interaction")


class _File:
    """A prompt file as it was written; one without `steps` read as one step, with its keys shown as in the file."""

    def __init__(self, written: Node) -> None:
        self._single = isinstance(written.value, dict) and "steps" not in written.value
        self._root = _as_steps(written) if self._single else written

    def prompt(self) -> Prompt:
        try:
            prompt = Prompt.model_validate(plain(self._root))
        except ValidationError as error:
            problems = [*map(self._problem, own_errors(error)), *self._form_problems()]
            raise RecipeError(in_order(problems)) from error
        problems = list(self._step_problems(prompt))
        for index, step in enumerate(prompt.steps):
            problems += [*self._variable_problems(prompt, index, step), *self._message_problems(prompt, index, step)]
        if problems:
            raise RecipeError(in_order(problems))
        return prompt

    def _where(self, *path: str | int, text: str = "", line: int = 1) -> Place:
        """A place; with a text that stands there, a line of that text."""
        shown = path[2:] if self._single and path[:1] == ("steps",) else path
        return text_origin(nearest(self._root, path).origin, text, line).place(*shown)

    def _step_problems(self, prompt: Prompt) -> Iterator[LlmcfError]:
        seen: set[str] = set()
        for index, step in enumerate(prompt.steps):
            where = self._where("steps", index, "name")
            if step.name in (*VARIABLES, *WORDS, _WHOLE):
                what = "the whole chain of thought" if step.name == _WHOLE else "a variable"
                yield LlmcfError(
                    f'"{step.name}" names {what}, so no step can have this name', code="prompt-steps", where=where
                )
            if step.name in seen:
                yield LlmcfError(f'two steps are named "{step.name}"', code="prompt-steps", where=where)
            seen.add(step.name)
            if step.messages[-1].role != "user":
                last = self._where("steps", index, "messages", len(step.messages) - 1)
                yield LlmcfError("the last message must have the role user", code="prompt-steps", where=last)
        if prompt.last.per != "interaction":
            where = self._where("steps", len(prompt.steps) - 1, "per")
            yield LlmcfError(
                "the last step must be per interaction", code="prompt-steps", where=where, allowed=("interaction",)
            )

    def _variable_problems(self, prompt: Prompt, index: int, step: PromptStep) -> Iterator[LlmcfError]:
        used = frozenset[str]().union(*(used_variables(m.content) for m in step.messages))
        for place, name in enumerate(step.variables):
            where = self._where("steps", index, "variables", place)
            where = replace(where, path=where.path[:-1])
            if name not in prompt.readable(step):
                yield LlmcfError(
                    _unreadable(prompt, step, name),
                    code="prompt-variable-unknown",
                    where=where,
                    allowed=prompt.readable(step),
                )
            elif name not in used:
                yield LlmcfError(
                    f'variable "{name}" is declared but no message uses it', code="prompt-variable-unused", where=where,
                    hint="use it, or remove it from `variables`",
                )  # fmt: skip

    def _message_problems(self, prompt: Prompt, index: int, step: PromptStep) -> Iterator[LlmcfError]:
        for place, message in enumerate(step.messages):
            path = ("steps", index, "messages", place, "content")
            for problem in template_problems(message.content, step.variables):
                undeclared = problem.name in prompt.readable(step) and problem.name not in step.variables
                yield LlmcfError(
                    problem.what,
                    code="prompt-template", where=self._where(*path, text=message.content, line=problem.line),
                    allowed=problem.allowed, hint=f"add {problem.name} to `variables`" if undeclared else "",
                )  # fmt: skip

    def _problem(self, item: ErrorDetails) -> LlmcfError:
        path: KeyPath = tuple(item["loc"])
        found = worded(item, self._where(*path), self._keys(path), self._meaning(path))
        if item["type"] == "missing" and self._single and path[-1] == "messages":
            found.hint = f"{found.hint}, or give several `steps`"
        return found

    def _meaning(self, path: KeyPath) -> str:
        return meaning(self._model(path), str(path[-1]))

    def _form_problems(self) -> Iterator[LlmcfError]:
        """What is wrong with the templates of a file that is wrong in other things too."""
        steps = plain(self._root).get("steps")
        for index, step in enumerate(steps if isinstance(steps, list) else ()):
            messages = step.get("messages") if isinstance(step, dict) else None
            for place, message in enumerate(messages if isinstance(messages, list) else ()):
                content = message.get("content") if isinstance(message, dict) else None
                if isinstance(content, str):
                    path = ("steps", index, "messages", place, "content")
                    for problem in template_problems(content, None):
                        yield LlmcfError(
                            problem.what,
                            code="prompt-template",
                            where=self._where(*path, text=content, line=problem.line),
                        )

    def _model(self, path: KeyPath) -> type[Config]:
        """The class that the last key of a path belongs to."""
        models: dict[str, type[Config]] = {"messages": PromptMessage, "sections": PromptSection, "steps": PromptStep}
        outer = [str(key) for key in path[:-1] if isinstance(key, str)]
        return models.get(outer[-1], Prompt) if outer else Prompt

    def _keys(self, path: KeyPath) -> tuple[str, ...]:
        """The keys allowed beside the last one of a path."""
        fields = tuple(self._model(path).model_fields)
        if len(path) == 1 and self._single:
            return tuple(key for key in (*fields, *_STEP_KEYS) if key != "steps")
        return fields


def _as_steps(root: Node) -> Node:
    """A file of one step in the form of a file with `steps`."""
    step = {key: root.value[key] for key in _STEP_KEYS if key in root.value}
    step["name"] = Node(ONLY_STEP, root.origin)
    rest = {key: node for key, node in root.value.items() if key not in _STEP_KEYS}
    return Node({**rest, "steps": Node([Node(step, root.origin)], root.origin)}, root.origin)


def _unreadable(prompt: Prompt, step: PromptStep, name: str) -> str:
    """Why a step must not use a variable."""
    steps = {other.name: other for other in prompt.steps}
    if name == "decision" and prompt.label == "forbidden":
        return 'the prompt is declared `label: forbidden`, so no step may know "decision"'
    if name == "recent" and step.per == "interaction":
        return '"recent" is what follows a block of history, but no step is per user_block'
    if name in VARIABLES:
        return f'a step per {step.per} must not know "{name}": its text is shared by many interactions'
    if name not in steps:
        known = prompt.readable(step)
        return f'unknown variable "{name}"{suggestion(name, known)}'
    circle = _circle(steps, step.name, name)
    if circle:
        return f"steps depend on each other in a circle: {' ← '.join(circle)}"
    if not _shares_scope(step, steps[name]):
        return f'a step per {step.per} cannot read "{name}", which is written per {steps[name].per}'
    return f'"{name}" is written by a later step; move that step before this one'


def _circle(steps: Mapping[str, PromptStep], start: str, first: str) -> list[str]:
    """The names from `start` over `first` back to `start`, each reading the next; empty where there is no such way."""
    ways, seen = [[start, first]], {start}
    while ways:
        way = ways.pop()
        if way[-1] == start:
            return way
        if way[-1] not in seen:
            seen.add(way[-1])
            ways += [[*way, name] for name in steps[way[-1]].variables if name in steps]
    return []
