"""What models look things up in: fields and their values, the catalogue, and what arm inputs hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmcf_cli.features.batch import Catalog
from llmcf_cli.features.histories import Histories
from llmcf_cli.features.spec import FeatureSpec, Vocab


@dataclass(frozen=True)
class Resources:
    """What a model looks things up in: all it needs beside its weights.

    Attributes:
        spec: Fields.
        vocab: Their values.
        catalog: Encoded users and items.
        held: Name of an input → what it holds, of the type that its class says.
        histories: Latest events of the users, for requests without a history; None without. No model reads them.
    """

    spec: FeatureSpec
    vocab: Vocab
    catalog: Catalog
    held: Mapping[str, Any] = field(default_factory=dict)
    histories: Histories | None = None

    def get(self, name: str) -> Any:
        """What an input holds; None if it is not there."""
        return self.held.get(name)

    def holding(self, **held: Any) -> Resources:
        """The same with other contents of some inputs; None takes one away."""
        changed = {**self.held, **held}
        return replace(self, held={name: value for name, value in changed.items() if value is not None})
