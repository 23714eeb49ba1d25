"""encode → augment → backbone.

Legend: B batch, K examples of a row, U distinct examples of a batch, L history, I items, E examples, T text,
S signals.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.features.batch import Batch, Catalog, Targets
from llmcf_cli.plugin import registry
from llmcf_cli.rec.augment.base import AUGMENTER, AugmentInput, AugmentShape, CoTPrediction, Examples, Known, Rows
from llmcf_cli.rec.config import BackboneConfig, BCEConfig
from llmcf_cli.rec.input.knowledge import Knowledge, KnowledgeLookup
from llmcf_cli.rec.input.resources import ExampleBank, Resources
from llmcf_cli.rec.input.signals import Standardise, signal_names
from llmcf_cli.rec.objectives import OBJECTIVE, total_loss
from llmcf_cli.rec.parts.embedding import FieldEmbedding, FieldEmbeddings
from llmcf_cli.rec.ranking.base import BACKBONE

_Module = TypeVar("_Module", bound=nn.Module)
SIGNAL_SOURCES = frozenset({"text", "collaborative"})
"""Inputs that matching signals are made of."""


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


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Attributes:
        score_B: float32, what is predicted of each row; of labels their logits, as the loss owns the sigmoid.
        aux: Auxiliary outputs for objectives.
    """

    score_B: Tensor
    aux: Mapping[str, CoTPrediction]


class RecModel(nn.Module):
    """A backbone with an augmenter. `state_dict` holds what training found; catalogue, texts and examples are buffers.

    Args:
        resources: Spec, catalogue, text vectors and examples; parts that the augmenter does not need are left aside.
        backbone: Settings of a registered backbone.
        augment: Settings of a registered augmenter.
        objectives: Settings of the losses; they decide which auxiliary outputs exist.
        seed: Initial weights depend on it and on nothing else. Embeddings, augmenter and backbone have their own
            streams, so arms with the same seed start from the same embeddings.

    Raises:
        ModelError: The augmenter needs something that there is not.
    """

    item_text_IT: Tensor | None
    # Of the examples; without any, `bank_item_E` is None, and the others are not read.
    bank_item_E: Tensor | None
    bank_user_E: Tensor
    bank_history_EL: Tensor
    bank_label_E: Tensor
    bank_cot_ET: Tensor
    bank_signal_ES: Tensor | None

    def __init__(
        self, resources: Resources, backbone: BackboneConfig, augment: ComponentConfig,
        objectives: Sequence[ComponentConfig] = (BCEConfig(),), *, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.resources = needed(resources, augment)
        self.configs = Parts(backbone, augment, tuple(objectives))
        self.objectives = [registry().build(OBJECTIVE, config) for config in objectives]
        reads: frozenset[str] = registry().get(BACKBONE, backbone.type).load().reads
        spec, catalog = self.resources.spec, self.resources.catalog
        signals = len(signal_names(self.resources)) if "signals" in augment.needs else 0
        self.standardise = Standardise(signals) if signals else None
        with _seeded(seed, "embedding"):
            self.embedding = FieldEmbedding(spec, catalog, backbone.embedding_dim, reads)
        with _seeded(seed, "augment"):
            self.augmenter = registry().build(AUGMENTER, augment, self._augment_shape())
        with _seeded(seed, "backbone"):
            self.backbone = registry().build(BACKBONE, backbone, self.embedding.shape, self.augmenter.context_dim)
        self._set_text(self.resources.item_text_IT)
        self._set_bank(self.resources.bank)
        self._set_knowledge(self.resources.knowledge)

    def forward(self, batch: Batch) -> Output:
        """Predictions for a batch of rows."""
        fields = self.embedding(batch.user_row_B, batch.item_row_B, batch.history_row_BL)
        query = self._rows(fields, batch.item_row_B, batch.history_row_BL, batch.signals_BS)
        augmentation = self.augmenter(AugmentInput(query, self._examples(batch), self._known(batch)))
        return Output(self.backbone(fields, augmentation.context_BC), augmentation.aux)

    def loss(self, output: Output, targets: Targets) -> Tensor:
        """Weighted sum of the objectives that apply, a scalar."""
        return total_loss(self.objectives, output.score_B, targets, output.aux)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.table_VD.device

    @property
    def inputs(self) -> dict[str, bool]:
        """What a batch must bring, as arguments of `TaskData.batch`."""
        return {name: name in self.configs.augment.needs for name in ("examples", "signals")}

    @property
    def num_parameters(self) -> int:
        """Learned numbers."""
        return sum(p.numel() for p in self.parameters())

    def with_items(self, catalog: Catalog, item_text_IT: np.ndarray | None) -> RecModel:
        """A model of the same weights, not copied, and a longer catalogue, encoded with the same vocabulary.

        This one stays as it is, so that who is computing with it is not disturbed.
        """
        twin = _sharing(self)
        twin.embedding = _sharing(self.embedding)
        twin._set_items(catalog, item_text_IT)
        return twin

    def _set_items(self, catalog: Catalog, item_text_IT: np.ndarray | None) -> None:
        knowledge, collaborative = self.resources.knowledge, self.resources.collaborative
        if knowledge is not None:
            knowledge = replace(knowledge, items=knowledge.items.extended(len(catalog.items.ids)))
        if collaborative is not None:
            collaborative = collaborative.extended(len(catalog.items.ids))
        self.resources = replace(
            self.resources, catalog=catalog, item_text_IT=item_text_IT, knowledge=knowledge,
            collaborative=collaborative,
        )  # fmt: skip
        self.embedding.set_catalog(catalog)
        self._set_text(item_text_IT)
        self._set_knowledge(knowledge)

    def _examples(self, batch: Batch) -> Examples | None:
        """Each distinct example of the batch embedded once; slots without an example point anywhere, masked."""
        if self.bank_item_E is None:
            return None
        if (example_BK := batch.example_BK) is None:
            raise ModelError(
                "the batch brings no examples", code="batch-incomplete", where="rec model", hint="llmcf match"
            )
        index_U, slot_BK = torch.unique(example_BK.clamp_min(0), return_inverse=True)
        item_U, history_UL = self.bank_item_E[index_U], self.bank_history_EL[index_U]
        fields = self.embedding(self.bank_user_E[index_U], item_U, history_UL)
        signals_US = None if self.bank_signal_ES is None else self.bank_signal_ES[index_U]
        rows = self._rows(fields, item_U, history_UL, signals_US)
        cot_UT, label_U = self.bank_cot_ET[index_U], self.bank_label_E[index_U]
        return Examples(rows, cot_UT, label_U, slot_BK, example_BK >= 0)

    def _known(self, batch: Batch) -> Known | None:
        if self.user_knowledge is None or self.item_knowledge is None:
            return None
        users = self.user_knowledge(batch.user_row_B, batch.time_B)
        return Known(*users, *self.item_knowledge(batch.item_row_B, batch.time_B))

    def _rows(
        self, fields: FieldEmbeddings, item_row_B: Tensor, history_row_BL: Tensor, signals_BS: Tensor | None
    ) -> Rows:
        if self.standardise is not None:
            if signals_BS is None:
                raise ModelError(
                    "the batch brings no signals", code="batch-incomplete", where="rec model", hint="llmcf collab"
                )
            signals_BS = self.standardise(signals_BS)
        if self.item_text_IT is None:
            return Rows(fields, signals_BS=signals_BS)
        history_BT = functional.embedding_bag(history_row_BL, self.item_text_IT, mode="sum", padding_idx=0)
        # The direction of the sum is the direction of the mean.
        unit_BT = functional.normalize(history_BT, dim=1, eps=1e-6)
        return Rows(fields, self.item_text_IT[item_row_B], unit_BT, signals_BS)

    def _augment_shape(self) -> AugmentShape:
        text, bank, knowledge = self.resources.item_text_IT, self.resources.bank, self.resources.knowledge
        wanted = frozenset().union(*(o.reads for o in self.objectives))
        return AugmentShape(
            self.embedding.shape, 0 if text is None else text.shape[1], 0 if bank is None else bank.cot_ET.shape[1],
            self.resources.num_examples, wanted, 0 if knowledge is None else knowledge.dim,
            0 if self.standardise is None else len(self.standardise.mean_S),
        )  # fmt: skip

    def _set_text(self, item_text_IT: np.ndarray | None) -> None:
        self._keep("item_text_IT", item_text_IT)

    def _set_bank(self, bank: ExampleBank | None) -> None:
        samples = None if bank is None else bank.samples
        self._keep("bank_user_E", None if samples is None else samples.user_row_N.astype(np.int64))
        self._keep("bank_item_E", None if samples is None else samples.item_row_N.astype(np.int64))
        self._keep("bank_history_EL", None if samples is None else samples.history_row_NL.astype(np.int64))
        self._keep("bank_label_E", None if samples is None else samples.label_N.astype(np.int64))
        self._keep("bank_cot_ET", None if bank is None else bank.cot_ET)
        self._keep("bank_signal_ES", None if bank is None else bank.signal_EG)

    def _set_knowledge(self, knowledge: Knowledge | None) -> None:
        parts = (None, None) if knowledge is None else (knowledge.users, knowledge.items)
        lookups = [None if part is None else KnowledgeLookup(part).to(self.device) for part in parts]
        self.user_knowledge, self.item_knowledge = lookups

    def _keep(self, name: str, array: np.ndarray | None) -> None:
        tensor = None if array is None else torch.as_tensor(array, device=self.device)
        self.register_buffer(name, tensor, persistent=False)


def needed(resources: Resources, augment: ComponentConfig) -> Resources:
    """The part of `resources` that an augmenter reads.

    Raises:
        ModelError: Something it needs is missing.
    """
    needs = augment.needs | (SIGNAL_SOURCES if "signals" in augment.needs else frozenset())
    if "text" in needs and resources.item_text_IT is None:
        raise ModelError(
            "needs item text vectors", code="input-missing", where=f"augmenter {augment.type}", hint="llmcf embed"
        )
    if "collaborative" in needs and resources.collaborative is None:
        raise ModelError(
            "needs collaborative vectors", code="input-missing", where=f"augmenter {augment.type}", hint="llmcf collab"
        )
    if "examples" in needs and not (resources.bank and len(resources.bank)):
        raise ModelError(
            "needs retrieved examples", code="input-missing", where=f"augmenter {augment.type}", hint="llmcf match"
        )
    if "knowledge" in augment.needs and resources.knowledge is None:
        raise ModelError(
            "needs knowledge about users and items",
            code="input-missing",
            where=f"augmenter {augment.type}",
            hint="llmcf knowledge",
        )
    bank = resources.bank
    if bank is not None and "signals" not in needs:
        bank = replace(bank, signal_EG=None)
    return replace(
        resources,
        item_text_IT=resources.item_text_IT if "text" in needs else None,
        bank=bank if "examples" in needs else None,
        num_examples=resources.num_examples if "examples" in needs else 0,
        collaborative=resources.collaborative if "collaborative" in needs else None,
        knowledge=resources.knowledge if "knowledge" in needs else None,
    )


def _sharing(module: _Module) -> _Module:
    """A module with the same parameters, buffers and modules, in which others can be put."""
    twin = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        setattr(twin, name, copy.copy(getattr(module, name)))
    return twin


@contextmanager
def _seeded(seed: int, name: str) -> Iterator[None]:
    """Run the body with torch's CPU generator seeded, and put the generator back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "rec", name))
        yield
