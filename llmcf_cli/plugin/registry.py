"""(kind, name) → lazily imported parts of llmcf: components of recipes, stages and commands.

What is registered is dotted targets, so a command imports no more than it needs. A component of recipes has two: its
configuration class, importable without heavy libraries so that a recipe validates in milliseconds, and its
implementation, imported when a stage first needs it. Built-ins, installed plugins (entry points of the group
`llmcf.plugins`) and drop-in folders (`LLMCF_PLUGINS`) register through the same call.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llmcf_cli.core.errors import LlmcfError, PackageError, UnknownNameError

if TYPE_CHECKING:  # importing it takes as long as listing all commands
    from llmcf_cli.core.types import ComponentConfig

_T = TypeVar("_T")


class Kind(str, Generic[_T]):
    """A kind of component and what those of it give when called: `SPLIT: Kind[Split] = Kind("split")`.

    Declared once, beside the interface, so that `Registry.build` says what it builds.
    """


KINDS: dict[str, str] = {
    "source": "reads a data set's raw files into interactions, items and users",
    "label": "turns interactions into labelled samples",
    "negatives": "draws items that a user did not interact with",
    "split": "assigns samples to train, validation and test",
    "mix_source": "yields instruction–answer pairs for tuning the LLM",
    "tuner": "updates an LLM's weights on a mix",
    "engine": "generates text from chat prompts, or writes it from the data",
    "judge": "scores generated chains of thought",
    "encoder": "turns texts into vectors without a model folder",
    "space": "turns queries and examples into vectors for matching",
    "searcher": "finds the top-K examples under the guards",
    "task": "says what is predicted, and how predictions are measured and compared",
    "backbone": "turns field embeddings and context into a score",
    "input": "is something that arms read beside the features of a sample",
    "augmenter": "turns texts, retrieved examples or knowledge into a context feature",
    "objective": "is a training loss",
    "baseline": "is a simple model to compare with",
}
"""What recipes choose by `type:`."""
STAGE, COMMAND = "stage", "command"
EXTENSIONS: dict[str, str] = {
    STAGE: "a step of the pipeline, with the command of its name",
    COMMAND: "a command of `llmcf`",
}
"""What extends llmcf itself; no recipe names it."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FOLDERS = ("cache",)
"""Folders of an artifact root that are of no stage; others are called like the command that writes them."""


@dataclass(frozen=True)
class Component:
    """One registered component, stage or command.

    Attributes:
        kind: One of `KINDS` or `EXTENSIONS`.
        name: The `type:` a recipe writes, or the word after `llmcf`.
        config_target: `module:Class` of a `ComponentConfig`; empty for a command, and a stage without settings.
        target: `module:object` of the implementation.
        summary: One line for listings; the help of a stage or command.
        origin: `built-in`, `distribution version` or a drop-in file with its digest; part of keys unless built-in.
        findings: Of a stage, `module:function` that shows its report; empty: each field on a line.
        command: Of a stage, `module:object` of its command; empty: the one that every stage has.
        ending: Of a stage, `module:function` that ends a run of its command; empty: what to run next.
    """

    kind: str
    name: str
    config_target: str
    target: str
    summary: str
    origin: str
    findings: str = ""
    command: str = ""
    ending: str = ""

    def config(self) -> type[ComponentConfig]:
        """The configuration class, imported now."""
        from llmcf_cli.core.types import ComponentConfig

        cls = _resolve(self.config_target, self)
        if not (isinstance(cls, type) and issubclass(cls, ComponentConfig)):
            raise LlmcfError(
                f"{self.config_target} is not a ComponentConfig", code="plugin-target", where=f"{self.kind} {self.name}"
            )
        return cls

    def load(self, target: str = "") -> Any:
        """The implementation, or another of the targets, imported now."""
        return _resolve(target or self.target, self)


@dataclass(frozen=True)
class RecipeFolder:
    """Recipes that come with a plugin.

    Attributes:
        name: What their names begin with: `NAME/…`.
        folder: Where they are.
        origin: The plugin.
    """

    name: str
    folder: Path
    origin: str


class Registry:
    """All known components, and the recipes that come with them."""

    def __init__(self) -> None:
        self._recipes: dict[str, RecipeFolder] = {}
        self._components: dict[tuple[str, str], Component] = {}
        self._origin = "built-in"
        self._module = ""

    def add(
        self, kind: str, name: str, *, target: str, summary: str, config: str = "", findings: str = "",
        command: str = "", ending: str = "",
    ) -> None:  # fmt: skip
        """Register a component, stage or command. Of targets, `:NAME` is one of the module that registers it.

        Args:
            kind: One of `KINDS` or `EXTENSIONS`.
            name: Lower-case name, unique within the kind; a stage and a command cannot have the same.
            target: `module:object` of its implementation. Of a stage: its class, see `stages/engine/base.py`. Of a
                command: a function with Typer's annotations, or a `typer.Typer` for a group.
            summary: One line for listings; the help of a stage or command, a sentence.
            config: `module:Class` of a component's `ComponentConfig`; importing it must stay cheap. Of a stage: its
                settings in recipes, under `stages.NAME`, if it has any of its own.
            findings: Of a stage: `module:function`, called with its report once it ran.
            command: Of a stage: what is run instead of the command that every stage has, as for a command.
            ending: Of a stage: `module:function`, called with an `Ended` at the end of a run of its command.

        Raises:
            UnknownNameError: `kind` is none of these.
            LlmcfError: The name is taken, or cannot be one; nothing replaces another component silently.
        """
        if kind not in KINDS and kind not in EXTENSIONS:
            raise UnknownNameError("component kind", kind, [*KINDS, *EXTENSIONS], where=self._origin)
        if kind in KINDS and not config:
            raise LlmcfError(f'{kind} "{name}" needs a `config`', code="plugin-target", where=self._origin)
        if kind == COMMAND and config:
            what = f'command "{name}" takes no `config`: only components have settings'
            raise LlmcfError(what, code="plugin-target", where=self._origin)
        if kind != STAGE and (findings or command or ending):
            raise LlmcfError(
                f'{kind} "{name}" takes no `findings`, `command` or `ending`: only stages have them',
                code="plugin-target",
                where=self._origin,
            )
        if kind in EXTENSIONS and (not _NAME.fullmatch(name) or name in _FOLDERS):
            allowed = f"words of a–z and 0–9 joined by -, other than {' and '.join(_FOLDERS)}"
            what = f'"{name}" cannot be the name of a {kind}'
            raise LlmcfError(what, code="plugin-name", where=self._origin, allowed=(allowed,))
        for other in EXTENSIONS if kind in EXTENSIONS else (kind,):
            self._refuse_taken(kind, name, self._components.get((other, name)))
        config, target, findings, command, ending = (
            f"{self._module}{to}" if to.startswith(":") else to for to in (config, target, findings, command, ending)
        )
        self._components[kind, name] = Component(
            kind, name, config, target, summary, self._origin, findings, command, ending
        )

    def add_recipes(self, name: str, folder: Path) -> None:
        """Register the recipes in a plugin's folder: `NAME/shop` is `FOLDER/shop.yaml`.

        Args:
            name: What their names begin with, lower-case words joined by -; no folder of llmcf's own recipes.
            folder: The folder; recipes below it count, prompts and data in the folders `prompts` and `data` do not.

        Raises:
            LlmcfError: The name is taken, or cannot be one; or there is no such folder.
        """
        if not _NAME.fullmatch(name):
            raise LlmcfError(f"{name!r:.80} is not a valid prefix for names of recipes", code="plugin-name",
                             where=self._origin, allowed=("words of a–z and 0–9 joined by -",))  # fmt: skip
        if (taken := self._recipes.get(name)) is not None:
            raise LlmcfError(f'recipes named "{name}" are registered twice', code="plugin-name-taken",
                             where=f"{taken.origin} and {self._origin}",
                             hint="rename one of them or uninstall one plugin")  # fmt: skip
        if not folder.is_dir():
            raise LlmcfError("no such folder of recipes", code="plugin-folder", where=f"{self._origin}: {folder}")
        self._recipes[name] = RecipeFolder(name, folder, self._origin)

    def recipes(self) -> list[RecipeFolder]:
        """Folders of recipes that come with plugins, in the order of registration."""
        return [*self._recipes.values()]

    def _refuse_taken(self, kind: str, name: str, taken: Component | None) -> None:
        if taken is None:
            return
        what = f'{kind} "{name}" is registered twice'
        if taken.kind != kind:
            what = f'{kind} "{name}": a {taken.kind} has the same name, and both would run as `llmcf {name}`'
        hint = "rename one of them or uninstall one plugin"
        raise LlmcfError(what, code="plugin-name-taken", where=f"{taken.origin} and {self._origin}", hint=hint)

    def get(self, kind: str, name: str, *, where: str = "") -> Component:
        """The component of that kind and name.

        Raises:
            UnknownNameError: Nothing is registered under it.
        """
        found = self._components.get((kind, name))
        if found is None:
            raise UnknownNameError(kind, name, self.names(kind), where=where)
        return found

    def names(self, kind: str) -> list[str]:
        """Registered names of one kind, sorted."""
        return sorted(name for k, name in self._components if k == kind)

    def of_kind(self, kind: str) -> list[Component]:
        """Every component of one kind, in the order of registration."""
        return [component for (k, _), component in self._components.items() if k == kind]

    def all(self) -> list[Component]:
        """Every component that a recipe can name, by kind and name."""
        return [self._components[key] for key in sorted(self._components) if key[0] in KINDS]

    def configured(self) -> list[Component]:
        """Every component that has settings in recipes, stages of plugins included, by kind and name."""
        return [found for _, found in sorted(self._components.items()) if found.config_target]

    def extensions(self) -> list[Component]:
        """Every stage and command, in the order in which they were registered."""
        return [component for component in self._components.values() if component.kind in EXTENSIONS]

    def stages(self) -> list[Component]:
        """Every stage likewise: built-in ones in running order."""
        return self.of_kind(STAGE)

    def build(self, kind: Kind[_T], config: ComponentConfig, *args: Any, **kwargs: Any) -> _T:
        """The implementation that `config.type` names, called with `config` and then the given arguments."""
        built: _T = self.get(kind, config.type).load()(config, *args, **kwargs)
        return built

    def register_from(self, origin: str, register: Any) -> None:
        """Let a plugin's `register(registry)` add its components under the given origin."""
        before = self._origin, self._module
        self._origin, self._module = origin, register.__module__
        try:
            register(self)
        finally:
            self._origin, self._module = before


def _resolve(target: str, component: Component) -> Any:
    module_name, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise PackageError(error.name or "", where=f"{component.kind} {component.name}") from error
    except AttributeError as error:
        raise LlmcfError(
            f"{target} does not exist", code="plugin-target", where=f"{component.kind} {component.name}"
        ) from error
