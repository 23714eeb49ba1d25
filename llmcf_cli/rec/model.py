"""encode → augment → backbone.

Legend: B batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.features.batch import Batch, Targets
from llmcf_cli.features.spec import FeatureSpec
from llmcf_cli.plugin import registry
from llmcf_cli.rec.augment.bank import bank_blocks
from llmcf_cli.rec.augment.base import AUGMENTER, AugmentInput, AugmentShape, CoTPrediction
from llmcf_cli.rec.config import BackboneConfig, BCEConfig
from llmcf_cli.rec.input.base import Lookup, QueryLookup, RowLookup, Rows, needed
from llmcf_cli.rec.input.examples import EXAMPLES, ExampleLookup
from llmcf_cli.rec.input.needs import closure
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.objectives import OBJECTIVE, total_loss
from llmcf_cli.rec.parts.embedding import FieldEmbedding, kept_rows
from llmcf_cli.rec.ranking.base import BACKBONE
from llmcf_cli.rec.recommender import Parts, Recommender, lookups, seeded, sharing

if TYPE_CHECKING:
    from llmcf_cli.rec.input.dataset import TaskData

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Attributes:
        score_B: float32, what is predicted of each row; of labels their logits, as the loss owns the sigmoid.
        aux: Auxiliary outputs for objectives.
    """

    score_B: Tensor
    aux: Mapping[str, CoTPrediction]


class RecModel(Recommender):
    """A backbone with an augmenter, for a user with an item.

    Attributes:
        inputs: The parts of the model that inputs are.

    Args:
        resources: Spec, catalogue and what inputs hold; parts that the augmenter does not need are left aside.
        backbone: Settings of a registered backbone.
        augment: Settings of a registered augmenter.
        objectives: Settings of the losses; they decide which auxiliary outputs exist.
        seed: Initial weights depend on it and on nothing else. Embeddings, augmenter and backbone have their own
            streams, so arms with the same seed start from the same embeddings.

    Raises:
        ModelError: The augmenter needs something that there is not.
    """

    def __init__(
        self, resources: Resources, backbone: BackboneConfig, augment: ComponentConfig,
        objectives: Sequence[ComponentConfig] = (BCEConfig(),), *, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        read = closure(augment.needs)
        self.resources = _with_rows_read(needed(resources, read, f"augmenter {augment.type}"), read)
        self.configs = Parts(backbone, augment, tuple(objectives))
        self.objectives = [registry().build(OBJECTIVE, config) for config in objectives]
        self.served = tuple(read)
        self.reads = frozenset(read).union(*(closure(config.needs) for config in objectives))
        fields: frozenset[str] = registry().get(BACKBONE, backbone.type).load().reads
        spec, catalog = self.resources.spec, self.resources.catalog
        with seeded(seed, "inputs"):
            self.inputs = nn.ModuleDict(lookups(self.resources, read))
        with seeded(seed, "embedding"):
            self.embedding = FieldEmbedding(spec, catalog, backbone.embedding_dim, fields)
        with seeded(seed, "augment"):
            self.augmenter = registry().build(AUGMENTER, augment, self._augment_shape())
        with seeded(seed, "backbone"):
            self.backbone = registry().build(BACKBONE, backbone, self.embedding.shape, self.augmenter.context_dim)

    def forward(self, batch: Batch) -> Output:
        """Predictions for a batch of rows."""
        query = self._rows(batch)
        beside = {name: part(batch, self._rows) for name, part in self._parts(QueryLookup)}
        augmentation = self.augmenter(AugmentInput(query, beside))
        return Output(self.backbone(query.fields, augmentation.context_BC), augmentation.aux)

    def train_rows(self, data: TaskData, device: Any) -> Batch:
        """The samples of the train split."""
        return data.batch("train", device, inputs=self.reads)

    def loss(self, output: Output, targets: Targets) -> Tensor:
        """Weighted sum of the objectives that apply, a scalar."""
        return total_loss(self.objectives, output.score_B, targets, output.aux)

    def score(self, batch: Batch) -> Tensor:
        """Of the forward pass."""
        found: Tensor = self(batch).score_B
        return found

    def predict(self, batch: Batch) -> Tensor:
        """What `score` gives."""
        return self.score(batch)

    def prepare(self, train: Batch) -> tuple[str, ...]:
        """Let inputs take what they need from the train split, and the augmenter from all examples, before training.

        Returns:
            What the augmenter could not tell of the examples there are.
        """
        for _, part in self._parts(Lookup):
            part.fit(train)
        return self.augmenter.learn_bank(lambda: bank_blocks(self.inputs))

    @torch.no_grad()
    def keep(self) -> None:
        """What the augmenter makes of each example by itself."""
        super().keep()
        if EXAMPLES in self.inputs:
            bank = cast("ExampleLookup", self.inputs[EXAMPLES])
            self.augmenter.keep_examples(bank.blocks(self._rows))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.table_VD.device

    @staticmethod
    def vocabulary(spec: FeatureSpec) -> int:
        """Of all fields, behind a common row of padding."""
        return 1 + sum(field.size - 1 for field in spec.fields)

    @staticmethod
    def kept_rows(before: FeatureSpec, after: FeatureSpec) -> NDArray[np.int64]:
        """Field by field."""
        return kept_rows(before, after)

    def with_items(self, resources: Resources) -> RecModel:
        """Of the same weights; parts of inputs that hold as much as before are shared too."""
        twin = sharing(self)
        twin.embedding, twin.inputs, twin.resources = sharing(self.embedding), sharing(self.inputs), resources
        twin.embedding.set_catalog(resources.catalog)
        longer = {name for name, held in resources.held.items() if held is not self.resources.get(name)}
        for name, part in lookups(resources, [name for name in self.inputs if name in longer]).items():
            part.load_state_dict(self.inputs[name].state_dict())
            twin.inputs[name] = part.to(self.device).train(self.training)
        return twin

    def _rows(self, batch: Batch) -> Rows:
        fields = self.embedding(batch.user_row_B, batch.item_row_B, batch.history_row_BL)
        return Rows(fields, {name: part(batch) for name, part in self._parts(RowLookup)})

    def _parts(self, kind: type[_Module]) -> Iterator[tuple[str, _Module]]:
        for name, part in self.inputs.items():
            if isinstance(part, kind):
                yield name, part

    def _augment_shape(self) -> AugmentShape:
        wanted = frozenset().union(*(o.reads for o in self.objectives))
        sizes = {name: size for _, part in self._parts(Lookup) for name, size in part.sizes.items()}
        return AugmentShape(self.embedding.shape, sizes, wanted)


def _with_rows_read(resources: Resources, read: Iterable[str]) -> Resources:
    """Resources whose examples bring the values of the inputs that are read, and no others."""
    bank = resources.get(EXAMPLES)
    if bank is None:
        return resources
    rows = {name: values for name, values in bank.rows.items() if name in read}
    return resources.holding(**{EXAMPLES: replace(bank, rows=rows)})
