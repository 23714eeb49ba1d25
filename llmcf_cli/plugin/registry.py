"""(kind, name) → lazily imported configuration and implementation.

A component is two dotted targets: its configuration class, importable without heavy libraries so that a recipe
validates in milliseconds, and its implementation, imported when a stage first needs it. Built-ins, installed plugins
(entry points of the group `llmcf.plugins`) and drop-in folders (`LLMCF_PLUGINS`) register through the same call.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from llmcf_cli.core.errors import LlmcfError, PackageError, UnknownNameError
from llmcf_cli.core.types import ComponentConfig

_T = TypeVar("_T")


class Kind(str, Generic[_T]):
    """A kind of component and what those of it give when called: `SPLIT: Kind[Split] = Kind("split")`.

    Declared once, beside the interface, so that `Registry.build` says what it builds.
    """


KINDS: dict[str, str] = {
    "source": "reads a data set's raw files into interactions, items and users",
    "label": "turns interactions into labelled samples",
    "negatives": "draws items a user did not interact with",
    "split": "assigns samples to train, validation and test",
    "mix_source": "yields instruction–answer pairs for tuning the LLM",
    "tuner": "updates an LLM's weights on a mix",
    "engine": "generates text from chat prompts",
    "judge": "scores generated chains of thought",
    "space": "turns queries and examples into vectors for matching",
    "searcher": "finds the top-K examples under the guards",
    "task": "says what is predicted, and how predictions are measured and compared",
    "backbone": "turns field embeddings and context into a score",
    "augmenter": "turns retrieved examples into a context feature",
    "objective": "a training loss",
    "baseline": "predicts without any of that: a simple model from another library, for comparison",
}


@dataclass(frozen=True)
class Component:
    """One registered component.

    Attributes:
        kind: One of `KINDS`.
        name: The `type:` a recipe writes.
        config_target: `module:Class` of a `ComponentConfig`.
        target: `module:object` of the implementation.
        summary: One line for listings.
        origin: `built-in`, `distribution version` or a drop-in file with its digest; part of keys unless built-in.
    """

    kind: str
    name: str
    config_target: str
    target: str
    summary: str
    origin: str

    def config(self) -> type[ComponentConfig]:
        """The configuration class, imported now."""
        cls = _resolve(self.config_target, self)
        if not (isinstance(cls, type) and issubclass(cls, ComponentConfig)):
            raise LlmcfError(
                f"{self.config_target} is no ComponentConfig", code="plugin-target", where=f"{self.kind} {self.name}"
            )
        return cls

    def load(self) -> Any:
        """The implementation, imported now."""
        return _resolve(self.target, self)


class Registry:
    """All known components."""

    def __init__(self) -> None:
        self._components: dict[tuple[str, str], Component] = {}
        self._origin = "built-in"
        self._module = ""

    def add(self, kind: str, name: str, *, config: str, target: str, summary: str) -> None:
        """Register a component.

        Args:
            kind: One of `KINDS`.
            name: Lower-case name, unique within the kind.
            config: `module:Class` of its `ComponentConfig`; importing it must stay cheap. `:Class` is one of the
                module that registers it.
            target: `module:object` of its implementation, or `:object` likewise.
            summary: One line for listings.

        Raises:
            UnknownNameError: `kind` is none of `KINDS`.
            LlmcfError: The name is taken; nothing replaces another component silently.
        """
        if kind not in KINDS:
            raise UnknownNameError("component kind", kind, KINDS, where=self._origin)
        taken = self._components.get((kind, name))
        if taken is not None:
            raise LlmcfError(
                f'{kind} "{name}" is registered twice',
                code="plugin-name-taken",
                where=f"{taken.origin} and {self._origin}",
                hint="rename one of them or uninstall one plugin",
            )
        config, target = (f"{self._module}{to}" if to.startswith(":") else to for to in (config, target))
        self._components[kind, name] = Component(kind, name, config, target, summary, self._origin)

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

    def all(self) -> list[Component]:
        """Every component, by kind and name."""
        return [self._components[key] for key in sorted(self._components)]

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
