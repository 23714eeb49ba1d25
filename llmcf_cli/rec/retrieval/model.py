"""User vectors from sequences, item vectors, and the list of the whole catalogue.

Legend: B batch, L sequence, D item vector, I items, M pairs of a user vector and its target, S seen items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.core.types import ComponentConfig, TaskConfig
from llmcf_cli.features.batch import Batch
from llmcf_cli.features.spec import FeatureSpec
from llmcf_cli.plugin import registry
from llmcf_cli.rec.augment.bank import bank_blocks
from llmcf_cli.rec.augment.base import AUGMENTER, Augmentation, AugmentInput, AugmentShape, CoTPrediction
from llmcf_cli.rec.config import BackboneConfig
from llmcf_cli.rec.input.base import Lookup, QueryLookup, RowLookup, Rows, needed
from llmcf_cli.rec.input.events import EVENTS
from llmcf_cli.rec.input.examples import EXAMPLES, ExampleLookup
from llmcf_cli.rec.input.needs import closure
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.input.text import TEXT
from llmcf_cli.rec.objectives import AuxiliaryObjective
from llmcf_cli.rec.parts.embedding import FieldEmbeddings, FieldShape
from llmcf_cli.rec.parts.kept import Kept
from llmcf_cli.rec.recommender import Parts, Recommender, lookups, seeded, sharing
from llmcf_cli.rec.retrieval.base import SEQUENCE_BACKBONE, ItemAugmenter
from llmcf_cli.rec.retrieval.config import RetrievalConfig, SampledSoftmaxConfig, SequenceConfig
from llmcf_cli.rec.retrieval.items import SPREAD, ItemEmbedding, item_ids
from llmcf_cli.rec.retrieval.losses import RETRIEVAL_LOSS, Asked, RetrievalLoss
from llmcf_cli.rec.retrieval.ranked import WIDTH, best, leave_out, places, predictions
from llmcf_cli.rec.retrieval.sequences import Sequences, alike, sequences

if TYPE_CHECKING:
    from llmcf_cli.rec.input.dataset import TaskData

FIELDS = 2
"""Of rows as augmenters read them: the item, and the mean of the history."""
EARLIEST = torch.iinfo(torch.int64).min + 1


class RetrievalModel(Recommender):
    """score(user, item) = ⟨user vector after the latest event, item vector⟩.

    What an augmenter gives for a query joins the user vector by a gate, and what it tells of items joins theirs. Gates
    start at 0, so that every such arm begins as `none`.

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
        built: list[Any] = [registry().build(RETRIEVAL_LOSS, config) for config in objectives]
        self.auxiliary = [one for one in built if isinstance(one, AuxiliaryObjective)]
        self.objectives: list[RetrievalLoss] = [one for one in built if not isinstance(one, AuxiliaryObjective)]
        self.served, self.reads, self.filter_seen = tuple(read), frozenset(read), filter_seen
        spec, dim = self.resources.spec, backbone.embedding_dim
        with seeded(seed, "inputs"):
            self.inputs = nn.ModuleDict(lookups(self.resources, read))
        with seeded(seed, "embedding"):
            features = backbone.item_features if isinstance(backbone, SequenceConfig) else ()
            self.embedding = ItemEmbedding(spec, self.resources.catalog, dim, features)
            self.nobody_D = nn.Parameter(torch.randn(dim) * SPREAD)
        with seeded(seed, "augment"):
            parts = cast("Iterable[Lookup]", self.inputs.values())
            sizes = {name: size for part in parts for name, size in part.sizes.items()}
            wanted = frozenset().union(*(one.reads for one in self.auxiliary))
            shape = AugmentShape(FieldShape(FIELDS, dim, spec.history_length), sizes, wanted)
            self.augmenter = registry().build(AUGMENTER, augment, shape)
            if isinstance(self.augmenter, ItemAugmenter) and not self.embedding.table_VD.is_meta:
                self.augmenter.start(self.embedding.table_VD.data, self.embedding.row_V, self._text_IT)
            self.user_gate, self.item_gate = (
                Gate(width, dim) if width else None for width in (self.augmenter.context_dim, self.augmenter.item_dim)
            )
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
        events, length = self.resources.get(EVENTS), self.resources.spec.history_length
        found = sequences(events, data.splits["train"], length, device)
        if self.user_gate is None:
            return found
        return replace(found, samples=data.batch("train", device, inputs=self.reads))

    def prepare(self, train: Sequences) -> tuple[str, ...]:
        """Let the augmenter take what it needs from all examples, before training."""
        return self.augmenter.learn_bank(lambda: bank_blocks(self.inputs))

    def forward(self, batch: Sequences) -> Asked:
        """The user vector before each target of some sequences."""
        assert self._known is not None, "`train_rows` comes first"
        row_M, column_M = batch.target_BP.nonzero(as_tuple=True)
        target_M, place_M = batch.target_BP[row_M, column_M], batch.place_BP[row_M, column_M]
        user_MD = self._users(batch.event_BL)[row_M, place_M]
        aux: Mapping[str, CoTPrediction] = {}
        if batch.samples is not None:
            user_MD, aux = self._joined(user_MD, batch.samples.take(batch.sample_BP[row_M, column_M]))
        return Asked(user_MD, target_M, self.items, *self._known, aux)

    def loss(self, output: Asked, targets: Any) -> Tensor:
        """Weighted sum of the objectives that apply, a scalar."""
        parts = [o.weight * o(output) for o in self.objectives]
        parts += [o.weight * o.of(output.aux) for o in self.auxiliary if o.reads <= output.aux.keys()]
        return sum(parts, start=output.user_MD.new_zeros(()))

    def items(self, row_n: Tensor) -> Tensor:
        """Vectors of item rows, [n, D], any leading shape."""
        id_nD: Tensor = self.embedding(row_n)
        if isinstance(self.augmenter, ItemAugmenter):
            return self.augmenter.items(id_nD, self._text_IT[row_n])
        if self.item_gate is None:
            return id_nD
        told_nC = self.augmenter.of_items(self._inputs(self._of_nobody(row_n.flatten())))
        found_nD: Tensor = self.item_gate(id_nD.flatten(0, -2), told_nC).view_as(id_nD)
        return found_nD

    def users(self, batch: Batch) -> Tensor:
        """User vectors after all events of left-padded histories, [B, D]; of an empty one a learned vector.

        Args:
            batch: Queries; their items are not read.
        """
        history_BL = batch.history_row_BL
        order_B, hidden = self._hidden(history_BL)
        found_BD = torch.cat([part_bwD[:, -1] for part_bwD in hidden])[order_B.argsort()]
        found_BD = found_BD.where((history_BL[:, -1:] > 0), self.nobody_D)
        return found_BD if self.user_gate is None else self._joined(found_BD, batch)[0]

    def score(self, batch: Batch) -> Tensor:
        """Dot products, [B]."""
        return (self.users(batch) * self.items(batch.item_row_B)).sum(1)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """The target's rank and the list of the whole catalogue; see `rec.retrieval.ranked`."""
        items = len(self.resources.catalog.items.ids)
        user_BD, item_DI = self.users(batch), self.catalogue().T
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
        score_BI = self.users(batch) @ self.catalogue().T
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
        """The vectors of the catalogue, and what the augmenter makes of each example by itself."""
        super().keep()
        self.kept_ID.value = self.catalogue()
        if EXAMPLES in self.inputs:
            bank = cast("ExampleLookup", self.inputs[EXAMPLES])
            self.augmenter.keep_examples(bank.blocks(self._rows))

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
        """User vectors before the first column and after each, [B, 1 + L, D]; anything after a column of padding."""
        length, order_B, hidden = history_BL.shape[1], *self._hidden(history_BL)
        hidden_BLD = torch.cat([functional.pad(part_bwD, (0, 0, length - part_bwD.shape[1], 0)) for part_bwD in hidden])
        nobody_B1D = self.nobody_D.expand(len(history_BL), 1, -1)
        return torch.cat([nobody_B1D, hidden_BLD[order_B.argsort()]], 1)

    def _hidden(self, history_BL: Tensor) -> tuple[Tensor, list[Tensor]]:
        """An order of the rows by their lengths, and what the backbone gives for groups of them, [b, width, D] each."""
        order_B, groups = alike(history_BL)
        history_BL = history_BL[order_B]
        there_BL = history_BL > 0
        # One lookup for all groups: the gradient of each lookup is as large as the table.
        event_BLD = self.nobody_D.new_zeros(*history_BL.shape, len(self.nobody_D))
        event_BLD[there_BL] = self.items(history_BL[there_BL])
        counts = [count for count, _ in groups]
        parts = zip(groups, event_BLD.split(counts), history_BL.split(counts), strict=True)
        hidden = [self.backbone(event_bLD[:, -width:], item_bL[:, -width:]) for (_, width), event_bLD, item_bL in parts]
        return order_B, hidden

    def _joined(self, user_BD: Tensor, batch: Batch) -> tuple[Tensor, Mapping[str, CoTPrediction]]:
        """User vectors with what the augmenter gives for their queries, and its auxiliary outputs."""
        assert self.user_gate is not None
        asked = replace(batch, item_row_B=torch.zeros_like(batch.item_row_B))  # the target is what is asked for
        found: Augmentation = self.augmenter(AugmentInput(self._rows(asked), self._inputs(asked)))
        return self.user_gate(user_BD, found.context_BC), found.aux

    def _rows(self, batch: Batch) -> Rows:
        """Rows as augmenters read them: by the embeddings of their items."""
        history_BLD, item_BD = self.embedding(batch.history_row_BL), self.embedding(batch.item_row_B)
        mask_BL = batch.history_row_BL > 0
        mean_BD = history_BLD.sum(1) / mask_BL.sum(1, keepdim=True).clamp_min(1)
        fields = FieldEmbeddings(torch.stack([item_BD, mean_BD], 1), item_BD, history_BLD, mask_BL)
        of_rows = {name: part(batch) for name, part in self.inputs.items() if isinstance(part, RowLookup)}
        return Rows(fields, of_rows)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """What belongs to queries alone, by name."""
        parts = {name: part for name, part in self.inputs.items() if isinstance(part, QueryLookup)}
        return {name: part(batch, self._rows) for name, part in parts.items()}

    def _of_nobody(self, item_row_n: Tensor) -> Batch:
        """Items without a user, before any time: what is known of them then is always known."""
        none_n = torch.zeros_like(item_row_n)
        return Batch(none_n, item_row_n, none_n[:, None], torch.full_like(none_n, EARLIEST, dtype=torch.int64))


class Gate(nn.Module):
    """x + g · W·c; g starts at 0.

    Args:
        width: Numbers of c.
        dim: Numbers of x.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x_BD: Tensor, context_BC: Tensor) -> Tensor:
        """[B, D]."""
        found_BD: Tensor = x_BD + self.gate * self.linear(context_BC)
        return found_BD
