"""What an arm input is: one class says how it is loaded, batched, looked up, stored, checked and asked for.

Legend: N samples, B batch, E examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from numpy.typing import NDArray
from torch import nn

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.types import Clock, InputConfig
from llmcf_cli.features.batch import Batch, Samples
from llmcf_cli.plugin import Kind, registry
from llmcf_cli.rec.input.needs import closure, declaration
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.parts.embedding import FieldEmbeddings

if TYPE_CHECKING:
    from llmcf_cli.rec.input.stored import Stored, Storing

REQUEST = "request"
"""What stands for the split of a sample that is a request."""
Answers = Callable[[Resources, Samples], NDArray[Any] | None]
"""Values of an input for requests, [N, …]."""


@dataclass(frozen=True)
class Made:
    """What an input is loaded from.

    Attributes:
        database: DuckDB file of `ingest`.
        folders: Stage → folder, of the stages that the input and those it is made of name.
        splits: `train`, `validation` and `test`.
        resources: Catalogue, and what the inputs that this one is made of hold.
    """

    database: Path
    folders: Mapping[str, Path]
    splits: Mapping[str, Samples]
    resources: Resources


@dataclass(frozen=True)
class Loaded:
    """An input, in memory.

    Attributes:
        held: What models look up; None if there is nothing of the kind.
        rows: Split → values of its samples, [N, …], where a stage made them. A split that it lacks has none.
    """

    held: Any = None
    rows: Mapping[str, NDArray[Any]] | None = None


@dataclass(frozen=True)
class Rows:
    """Embedded samples without their labels: queries, or examples seen as queries.

    Attributes:
        fields: Their field embeddings.
        inputs: Name of an input whose values belong to a row itself → what its `RowLookup` gives.
    """

    fields: FieldEmbeddings
    inputs: Mapping[str, Any] = field(default_factory=dict)


class Lookup(nn.Module):
    """The part of a model that an input is: tables as buffers, on the model's device.

    Only buffers that training finds are persistent; the others are as large as the catalogue, and stored once.
    """

    sizes: Mapping[str, int]
    """What an augmenter must know of it to be built, by name; see `AugmentShape`."""
    shares: ClassVar[bool] = False
    """Whether it reads `Batch.shared.inputs`, so that the values which rows have in common are given once."""

    def fit(self, train: Batch) -> None:
        """Take what is needed from the train split, before training."""


class RowLookup(Lookup):
    """Of an input whose values belong to a row itself, be it a query or an example seen as one."""

    def forward(self, batch: Batch) -> Any:
        """What augmenters find in `Rows.inputs`."""
        raise NotImplementedError


class QueryLookup(Lookup):
    """Of an input that belongs to queries alone."""

    def forward(self, batch: Batch, embed: Callable[[Batch], Rows]) -> Any:
        """What augmenters find in `AugmentInput.inputs`.

        Args:
            batch: The queries.
            embed: Embeds rows as queries are embedded.
        """
        raise NotImplementedError


class Input:
    """One input of arms. Built as `Class(config)`; has no state, so what it holds is passed in.

    The declaration of what makes it is its configuration (`InputConfig`).
    """

    holds: ClassVar[bool] = True
    """Whether models look something up in it; without, it is values of samples alone."""
    of_examples: ClassVar[bool] = False
    """Whether `values` are also wanted of examples, seen as train rows: where its lookup is a `RowLookup`."""
    files: ClassVar[tuple[str, ...]] = ()
    """Files of a bundle that it has for itself, each always written."""

    def __init__(self, config: InputConfig) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """As components' `needs` call it."""
        return self.config.type

    @property
    def repeatable(self) -> bool:
        """Whether requests get the same values each time that a bundle is loaded."""
        return True

    # Offline

    def load(self, made: Made) -> Loaded:
        """What stages made of it.

        Raises:
            DataError: It does not fit the samples or the catalogue.
        """
        return Loaded()

    def values(self, resources: Resources, samples: Samples, split: str) -> NDArray[Any] | None:
        """Values of samples that no stage made, [N, …], each of its own sample alone; None if there are none.

        Args:
            resources: With this input and those it is made of.
            samples: Some samples.
            split: `train`, `validation`, `test` or `REQUEST`.
        """
        return None

    # In a model

    def lookup(self, resources: Resources) -> Lookup | None:
        """The part of a model that it is; None if it is none."""
        return None

    # In a bundle

    def stored(self, held: Any) -> Any:
        """What a bundle keeps of it, which is what `save` gets; None: nothing."""
        return held

    def settings(self, held: Any) -> InputConfig:
        """Its settings in a bundle."""
        return self.config

    def save(self, held: Any, out: Storing) -> None:
        """Write `files`; the same content gives the same bytes."""

    def read(self, stored: Stored, resources: Resources) -> Any:
        """Read what `save` wrote.

        Args:
            stored: The bundle's files; only those that `files` names can be read.
            resources: Catalogue, and what the inputs that this one is made of hold.

        Raises:
            ModelError: It does not fit the catalogue.
        """
        return None

    def check(self, held: Any, resources: Resources, where: Path) -> None:
        """Refuse numbers that training cannot leave: a stranger may have made them.

        Raises:
            ModelError: A number is out of range, or not finite.
        """

    def forgotten(self, held: Any) -> Any:
        """What it holds without anything that tells what a user did, for bundles that keep no histories."""
        return held

    # Online

    def extended(self, held: Any, resources: Resources, items: pa.Table, given: Any) -> Any:
        """What it holds once items are new in the catalogue.

        Args:
            held: What it holds.
            resources: With the longer catalogue.
            items: The new items' rows, as the user gave them: `item_id` and columns.
            given: What the user gave for this input beside them; None: nothing.

        Raises:
            DataError: What was given does not fit.
        """
        return held

    def refreshed(self, held: Any, made: Made, items: pa.Table) -> Any:
        """What it holds once later rows are in the data, in a bundle whose model stays as it is trained.

        Args:
            held: What the bundle holds.
            made: The ingest with these rows, folders of the stages that the declaration `follows` and, at the level
                `examples`, of those by which it `grows`; no samples; and the longer catalogue: users and items of
                before have their rows of before.
            items: The new items' rows of the table `item`.
        """
        return self.extended(held, made.resources, items, None)

    def answers(self, resources: Resources, clock: Clock) -> Answers:
        """Values for requests; made once, when a scorer loads a bundle, and called by many threads.

        Args:
            resources: As in the bundle. Later calls bring their own, with items that were added.
            clock: How times of requests and examples compare.

        Raises:
            ModelError: The bundle lacks something for it.
        """
        return lambda now, samples: self.values(now, samples, REQUEST)

    def trial(self, resources: Resources, samples: Samples) -> NDArray[Any] | None:
        """Some values for one request that tests whether a bundle answers; need not be the right ones."""
        return self.values(resources, samples, REQUEST)


INPUT: Kind[Input] = Kind("input")


def inputs_of(configs: Iterable[InputConfig]) -> dict[str, Input]:
    """Name → input, of some settings."""
    return {config.type: registry().build(INPUT, config) for config in configs}


def default_inputs(names: Iterable[str]) -> dict[str, Input]:
    """Name → input with default settings, of the closure of some names."""
    return inputs_of(declaration(name).model_validate({"type": name}) for name in closure(names))


def needed(resources: Resources, names: Iterable[str], reader: str) -> Resources:
    """The part of `resources` that some inputs hold.

    Args:
        resources: What there is.
        names: A closure.
        reader: Who reads them, for the error.

    Raises:
        ModelError: One is missing.
    """
    kept = {}
    for name, one in default_inputs(names).items():
        held = resources.get(name)
        if one.holds and not one.config.for_losses:
            if held is None or (hasattr(held, "__len__") and not len(held)):
                component, made_by = registry().get("input", name), one.config.made_by
                hint = f"llmcf {made_by[-1]} RECIPE" if made_by else "llmcf run RECIPE"
                raise ModelError(f"needs {component.summary}", code="input-missing", where=reader, hint=hint)
            kept[name] = held
    return Resources(resources.spec, resources.vocab, resources.catalog, kept, resources.histories)


def forgetful(resources: Resources) -> Resources:
    """Resources that tell nobody what users did."""
    inputs = default_inputs(resources.held)
    held = {name: inputs[name].forgotten(value) for name, value in resources.held.items()}
    return replace(resources, held=held, histories=None)


def tensor_table(module: nn.Module, name: str, array: NDArray[Any]) -> None:
    """Register an array as a buffer outside `state_dict`; nothing is copied on a CPU."""
    import torch

    module.register_buffer(name, torch.as_tensor(array), persistent=False)
