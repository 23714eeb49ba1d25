"""User vectors from sequences, item vectors, and the list of the whole catalogue.

Legend: B batch, L sequence, D item vector, I items, M pairs of a user vector and its target, S seen items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.types import ComponentConfig, TaskConfig
from llmcf_cli.features.batch import Batch
from llmcf_cli.features.spec import FeatureSpec
from llmcf_cli.plugin import registry
from llmcf_cli.rec.augment.base import AUGMENTER, AugmentShape
from llmcf_cli.rec.config import BackboneConfig
from llmcf_cli.rec.input.base import Lookup, needed
from llmcf_cli.rec.input.events import EVENTS
from llmcf_cli.rec.input.needs import closure
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.input.text import TEXT
from llmcf_cli.rec.parts.embedding import FieldShape
from llmcf_cli.rec.parts.kept import Kept
from llmcf_cli.rec.recommender import Parts, Recommender, lookups, seeded, sharing
from llmcf_cli.rec.retrieval.base import SEQUENCE_BACKBONE, ItemAugmenter
from llmcf_cli.rec.retrieval.config import RetrievalConfig, SampledSoftmaxConfig
from llmcf_cli.rec.retrieval.items import SPREAD, ItemEmbedding, item_ids
from llmcf_cli.rec.retrieval.losses import RETRIEVAL_LOSS, Asked
from llmcf_cli.rec.retrieval.ranked import WIDTH, best, leave_out, places, predictions
from llmcf_cli.rec.retrieval.sequences import Sequences, sequences

if TYPE_CHECKING:
    from llmcf_cli.rec.input.dataset import TaskData


class RetrievalModel(Recommender):
    """score(user, item) = ⟨user vector after the latest event, item vector⟩.

    Attributes:
        inputs: The parts of the model that inputs are.
        filter_seen: Whether `predict` leaves out what users took before.

    Args:
        resources: Spec, catalogue, users' events, and what the augmenter reads.
        backbone: Settings of a registered backbone over sequences.
        augment: Settings of a registered augmenter.
        objectives: Settings of the losses.
        seed: Initial weights depend on it and on nothing else; arms with the same seed start from the same embeddings,
            unless their augmenter sets them.
        filter_seen: See `RetrievalConfig`.

    Raises:
        ModelError: The augmenter needs something that there is not.
    """

    predicted: ClassVar[tuple[int, ...]] = (WIDTH,)

    def __init__(
        self, resources: Resources, backbone: BackboneConfig, augment: ComponentConfig,
        objectives: Sequence[ComponentConfig] = (SampledSoftmaxConfig(),), *, seed: int = 0, filter_seen: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        read = closure(augment.needs | {EVENTS})
        self.resources = needed(resources, read, f"augmenter {augment.type}")
        self.configs = Parts(backbone, augment, tuple(objectives))
        self.objectives = [registry().build(RETRIEVAL_LOSS, config) for config in objectives]
        self.served, self.reads, self.filter_seen = tuple(read), frozenset(read), filter_seen
        spec, dim = self.resources.spec, backbone.embedding_dim
        with seeded(seed, "inputs"):
            self.inputs = nn.ModuleDict(lookups(self.resources, read))
        with seeded(seed, "embedding"):
            self.embedding = ItemEmbedding(spec, self.resources.catalog, dim)
            self.nobody_D = nn.Parameter(torch.randn(dim) * SPREAD)
        with seeded(seed, "augment"):
            parts = cast("Iterable[Lookup]", self.inputs.values())
            sizes = {name: size for part in parts for name, size in part.sizes.items()}
            shape = AugmentShape(FieldShape(1, dim, spec.history_length), sizes)
            self.augmenter = registry().build(AUGMENTER, augment, shape)
            if isinstance(self.augmenter, ItemAugmenter) and not self.embedding.table_VD.is_meta:
                self.augmenter.start(self.embedding.table_VD.data, self.embedding.row_V, self._text_IT)
            if self.augmenter.context_dim:
                raise ModelError(
                    "gives a context, which no model of retrieval reads: it must be an ItemAugmenter",
                    code="plugin-target", where=f"augmenter {augment.type}",
                )  # fmt: skip
        with seeded(seed, "backbone"):
            self.backbone = registry().build(SEQUENCE_BACKBONE, backbone, spec.history_length)
        self._known: tuple[Tensor, Tensor] | None = None
        self.kept_ID = Kept()

    @classmethod
    def of(
        cls, task: TaskConfig, resources: Resources, backbone: BackboneConfig, augment: ComponentConfig,
        objectives: Sequence[ComponentConfig], *, seed: int,
    ) -> Self:  # fmt: skip
        """With the task's filter."""
        filters = task.filter_seen if isinstance(task, RetrievalConfig) else True
        return cls(resources, backbone, augment, objectives, seed=seed, filter_seen=filters)

    def train_rows(self, data: TaskData, device: Any) -> Sequences:
        """The train targets of all users."""
        share_I = torch.as_tensor(data.taken_I / max(data.taken_I.sum(), 1), device=device)
        self._known = share_I.nonzero()[:, 0], share_I
        return sequences(self.resources.get(EVENTS), self.resources.spec.history_length, device)

    def forward(self, batch: Sequences) -> Asked:
        """The user vector before each target of some sequences."""
        assert self._known is not None, "`train_rows` comes first"
        row_M, column_M = batch.target_BP.nonzero(as_tuple=True)
        target_M, place_M = batch.target_BP[row_M, column_M], batch.place_BP[row_M, column_M]
        return Asked(self._users(batch.event_BL)[row_M, place_M], target_M, self.items, *self._known)

    def loss(self, output: Asked, targets: Any) -> Tensor:
        """Weighted sum of the objectives, a scalar."""
        return sum((o.weight * o(output) for o in self.objectives), start=output.user_MD.new_zeros(()))

    def items(self, row_n: Tensor) -> Tensor:
        """Vectors of item rows, [n, D], any leading shape."""
        id_nD: Tensor = self.embedding(row_n)
        if not isinstance(self.augmenter, ItemAugmenter):
            return id_nD
        return self.augmenter.items(id_nD, self._text_IT[row_n])

    def users(self, history_BL: Tensor) -> Tensor:
        """User vectors after all events of left-padded histories, [B, D]; of an empty one a learned vector."""
        found_BD = self._users(history_BL)[:, -1]
        return found_BD.where((history_BL[:, -1:] > 0), self.nobody_D)

    def score(self, batch: Batch) -> Tensor:
        """Dot products, [B]."""
        return (self.users(batch.history_row_BL) * self.items(batch.item_row_B)).sum(1)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """The target's rank and the list of the whole catalogue; see `rec.retrieval.ranked`."""
        items = len(self.resources.catalog.items.ids)
        user_BD, item_DI = self.users(batch.history_row_BL), self.catalogue().T
        user_row_B, time_B = batch.user_row_B.cpu().numpy(), batch.time_B.cpu().numpy()
        events = self.resources.get(EVENTS)

        def seen(block: slice) -> tuple[Any, Any]:
            found: tuple[Any, Any] = events.seen(user_row_B[block], time_B[block])
            return found

        score_BI = user_BD.new_empty(0)  # the memory of all blocks: new memory takes as long as the products

        def scores(block: slice) -> Tensor:
            return torch.mm(user_BD[block], item_DI, out=score_BI.resize_(block.stop - block.start, items + 1))

        return predictions(scores, batch.item_row_B, seen if self.filter_seen else None, items)

    def listed(self, batch: Batch, count: int, left_out: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
        """The best of the whole catalogue."""
        score_BI = self.users(batch.history_row_BL) @ self.catalogue().T
        leave_out(score_BI, left_out)
        place_I = torch.as_tensor(places(score_BI.shape[1]), device=self.device)
        return best(score_BI, place_I, count)

    def catalogue(self) -> Tensor:
        """Vectors of all item rows, [I + 1, D]."""
        kept_ID = self.kept_ID.value
        if kept_ID is not None:
            return kept_ID
        return self.items(torch.arange(len(self.embedding.id_I), device=self.device))

    @torch.no_grad()
    def keep(self) -> None:
        """The vectors of the catalogue."""
        super().keep()
        self.kept_ID.value = self.catalogue()

    def with_items(self, resources: Resources) -> Self:
        """Of the same weights."""
        twin = sharing(self)
        twin.embedding, twin.inputs, twin.resources = sharing(self.embedding), sharing(self.inputs), resources
        twin.embedding.set_catalog(resources.catalog)
        for name, part in lookups(resources, list(self.inputs)).items():
            twin.inputs[name] = part.to(self.device).train(self.training)
        twin.kept_ID = Kept()
        if self.kept_ID.value is not None:
            twin.keep()
        return twin

    @staticmethod
    def vocabulary(spec: FeatureSpec) -> int:
        """Of item ids."""
        return item_ids(spec)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.table_VD.device

    @property
    def _text_IT(self) -> Tensor:
        found: Any = self.inputs[TEXT]
        text_IT: Tensor = found.item_text_IT
        return text_IT

    def _users(self, history_BL: Tensor) -> Tensor:
        """User vectors before the first column and after each, [B, 1 + L, D]."""
        hidden_BLD = self.backbone(self.items(history_BL), history_BL > 0)
        nobody_B1D = self.nobody_D.expand(len(history_BL), 1, -1)
        return torch.cat([nobody_B1D, hidden_BLD], 1)
