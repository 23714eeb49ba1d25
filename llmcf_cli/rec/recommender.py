"""What training, evaluation, bundles and serving know of a model, whatever its form.

Legend: B batch.
"""

from __future__ import annotations

import copy
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.core.types import ComponentConfig, Form, TaskConfig
from llmcf_cli.features.batch import Batch
from llmcf_cli.features.spec import FeatureSpec
from llmcf_cli.rec.config import BackboneConfig
from llmcf_cli.rec.input.base import Lookup, default_inputs
from llmcf_cli.rec.input.resources import Resources

if TYPE_CHECKING:
    from llmcf_cli.rec.input.dataset import TaskData

_Module = TypeVar("_Module", bound=nn.Module)
_FORMS: dict[Form, str] = {
    "pair": "llmcf_cli.rec.model:RecModel",
    "user": "llmcf_cli.rec.retrieval.model:RetrievalModel",
}


@dataclass(frozen=True)
class Parts:
    """Settings of what a model is made of.

    Attributes:
        backbone: Of its backbone.
        augment: Of its augmenter.
        objectives: Of its losses.
    """

    backbone: BackboneConfig
    augment: ComponentConfig
    objectives: tuple[ComponentConfig, ...]


class Recommender(nn.Module, ABC):
    """A model. Built as `Class(resources, backbone, augment, objectives, seed=…)`.

    `state_dict` holds what training found; catalogue and inputs are buffers. Its item ids have their vectors in
    `embedding.table_VD`.

    Attributes:
        resources: What it looks things up in.
        configs: Settings of its parts.
        reads: Names of the inputs that its parts read, and of those that these are made of.
        served: Those of them that a bundle keeps.
        predicted: Shape of the prediction for one row; a number has none.
    """

    resources: Resources
    configs: Parts
    reads: frozenset[str]
    served: tuple[str, ...]
    predicted: ClassVar[tuple[int, ...]] = ()

    @classmethod
    def of(
        cls, task: TaskConfig, resources: Resources, backbone: BackboneConfig, augment: ComponentConfig,
        objectives: Sequence[ComponentConfig], *, seed: int,
    ) -> Self:  # fmt: skip
        """An untrained model for a task."""
        made: Any = cls
        found: Self = made(resources, backbone, augment, objectives, seed=seed)
        return found

    @abstractmethod
    def train_rows(self, data: TaskData, device: Any) -> Any:
        """The rows of an epoch: has a length, `take(index)`, and `targets` for `loss`."""

    def prepare(self, train: Any) -> tuple[str, ...]:
        """Take what is needed from the rows of `train_rows`, before the first step; what there is to say about them."""
        return ()

    @abstractmethod
    def loss(self, output: Any, targets: Any) -> Tensor:
        """Weighted sum of the objectives that apply, a scalar, for what `forward` gave of some rows of `train_rows`."""

    @abstractmethod
    def score(self, batch: Batch) -> Tensor:
        """How well each row's item suits its user, float32 [B]; each row's depends on no other row."""

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """What the task measures of each row, [B, *predicted]."""

    @torch.no_grad()
    def keep(self) -> None:
        """Compute once, before serving, what is the same in every request with these weights.

        Puts the model into evaluation mode; training it, or loading other weights, ends it.
        """
        self.eval()

    def listed(self, batch: Batch, count: int, left_out: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
        """The best items for each row's user, by falling score: rows int64 [B, count] and scores; 0 past the last.

        Args:
            batch: Users; its items are not read.
            count: Items of a list.
            left_out: Whose each item to leave out is, int64 [S], and its row, int [S].

        Raises:
            ModelError: The model scores pairs and makes no lists.
        """
        raise ModelError(
            "the model scores given items; it cannot search the catalogue",
            code="lists-unsupported", where="recommend",
            hint="give the items: llmcf score, or POST /v1/score; for lists, train a recipe from `llmcf init --task "
            "retrieval` (docs/retrieval.md)",
        )  # fmt: skip

    @abstractmethod
    def with_items(self, resources: Resources) -> Self:
        """A model of the same weights, not copied, and a longer catalogue, encoded with the same vocabulary.

        This one stays as it is, so that who is computing with it is not disturbed.

        Args:
            resources: With the longer catalogue, and what inputs hold for it.
        """

    @staticmethod
    @abstractmethod
    def vocabulary(spec: FeatureSpec) -> int:
        """Rows of `embedding.table_VD`."""

    @staticmethod
    def kept_rows(before: FeatureSpec, after: FeatureSpec) -> NDArray[np.int64]:
        """Row of `embedding.table_VD` under a longer vocabulary for each row under a shorter one.

        Raises:
            ModelError: Models of the form do not learn on.
        """
        raise ModelError(
            "models of the task `retrieval` learn from whole sequences, so they cannot be tuned only on later rows",
            code="finetune-unsupported", where="refresh.level", hint="llmcf refresh RECIPE --level full",
        )  # fmt: skip

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def num_parameters(self) -> int:
        """Learned numbers."""
        return sum(p.numel() for p in self.parameters())


def recommender_of(form: Form) -> type[Recommender]:
    """The class of the models of a form, imported now."""
    module, _, name = _FORMS[form].partition(":")
    found: type[Recommender] = getattr(importlib.import_module(module), name)
    return found


def build(
    task: TaskConfig, resources: Resources, backbone: BackboneConfig, augment: ComponentConfig,
    objectives: Sequence[ComponentConfig], *, seed: int = 0,
) -> Recommender:  # fmt: skip
    """An untrained model for a task."""
    return recommender_of(task.form).of(task, resources, backbone, augment, objectives, seed=seed)


def lookups(resources: Resources, names: Iterable[str]) -> dict[str, Lookup]:
    """The parts of a model that some inputs are."""
    built = default_inputs(names)
    found = {name: built[name].lookup(resources) for name in names}
    return {name: part for name, part in found.items() if part is not None}


def sharing(module: _Module) -> _Module:
    """A module with the same parameters, buffers and modules, in which others can be put."""
    twin = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        setattr(twin, name, copy.copy(getattr(module, name)))
    return twin


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Run the body with torch's CPU generator seeded, and put the generator back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "rec", name))
        yield
