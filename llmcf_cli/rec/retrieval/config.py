"""Settings of candidate retrieval: task, backbones, augmenters, objectives, baselines. Importing it costs nothing."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmcf_cli.core.types import Broken, ComponentConfig, Distinct, Form, TaskConfig, rule
from llmcf_cli.rec.baselines.config import FactorConfig
from llmcf_cli.rec.config import BackboneConfig, Count, Dropout, Weight, Width, Widths

ITEM = "item"
"""Target of tasks that predict which item a user takes next."""
CUTOFFS = (5, 10, 20, 50)
"""Lengths of lists that are measured."""
USER: frozenset[Form] = frozenset({"user"})
Negatives = Annotated[int, Field(ge=1, le=1 << 16)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]


class RetrievalConfig(TaskConfig):
    """Find, among all items of the catalogue, the item that a user takes next."""

    target: ClassVar[str] = ITEM
    form: ClassVar[Form] = "user"
    needs: ClassVar[frozenset[str]] = frozenset({"events"})
    monitors: ClassVar[tuple[str, ...]] = tuple(
        f"{name}@{cutoff}" for cutoff in (10, 5, 20, 50) for name in ("ndcg", "hr", "mrr")
    )

    type: Literal["retrieval"] = "retrieval"
    filter_seen: bool = True
    """Whether a user's list leaves out items that the user took before the query's time. A target among them then
    counts as a miss."""


class SequenceConfig(BackboneConfig):
    """What backbones that read a user's events have in common."""

    forms: ClassVar[frozenset[Form]] = USER

    embedding_dim: Width = 64
    """Size of item vectors and user vectors; a score is their dot product."""
    dropout: Dropout = 0.2
    """Share of hidden units dropped in training."""
    item_features: Annotated[tuple[str, ...], Field(max_length=64), Distinct()] = ()
    """Columns of item features whose embeddings are added to the embedding of the item's id, in histories and in the
    catalogue."""


class SASRecConfig(SequenceConfig):
    """SASRec: causal self-attention over the events (Kang and McAuley, 2018)."""

    type: Literal["sasrec"] = "sasrec"
    layers: Count = 2
    """Number of blocks, each of attention and a feed-forward network."""
    heads: Count = 1
    """Number of attention heads."""

    @rule("embedding_dim", "heads")
    def _divides(self) -> Iterator[Broken]:
        if self.embedding_dim % self.heads:
            yield Broken(f"embedding_dim {self.embedding_dim} must be a multiple of heads = {self.heads}")


class GRU4RecConfig(SequenceConfig):
    """GRU4Rec: a gated recurrent network over the events (Hidasi et al., 2016)."""

    type: Literal["gru4rec"] = "gru4rec"
    hidden: Width = 128
    """Size of the recurrent state."""
    layers: Count = 1
    """Number of recurrent layers."""


class YouTubeDNNConfig(SequenceConfig):
    """YouTubeDNN: an MLP over the mean of the events (Covington et al., 2016)."""

    type: Literal["youtubednn"] = "youtubednn"
    hidden: Widths = (256, 128)
    """Widths of the MLP's hidden layers."""


class SRGNNConfig(SequenceConfig):
    """SR-GNN: a gated graph network over the items of the history (Wu et al., 2019)."""

    type: Literal["srgnn"] = "srgnn"
    steps: Count = 1
    """Number of message-passing steps between neighbouring nodes of the graph."""


class TextTowerConfig(ComponentConfig):
    """An item's vector is its id's embedding plus an MLP of its text; a new item has only the latter."""

    forms: ClassVar[frozenset[Form]] = USER
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    type: Literal["text_tower"] = "text_tower"
    hidden: Widths = (128,)
    """Widths of the MLP's hidden layers."""
    dropout: Dropout = 0.0
    """Share of the MLP's hidden units dropped in training."""


class TextInitConfig(ComponentConfig):
    """Item embeddings start as the principal components of the text vectors instead of noise."""

    forms: ClassVar[frozenset[Form]] = USER
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    type: Literal["text_init"] = "text_init"


class RetrievalLossConfig(ComponentConfig):
    """What losses for the next item have in common."""

    forms: ClassVar[frozenset[Form]] = USER
    targets: ClassVar[frozenset[str]] = frozenset({ITEM})

    weight: Weight = 1.0
    """Weight in the sum of losses."""


class SoftmaxConfig(RetrievalLossConfig):
    """Cross-entropy over all items of the train split."""

    type: Literal["softmax"] = "softmax"


class SampledSoftmaxConfig(RetrievalLossConfig):
    """Cross-entropy over the target and drawn items, which all targets of a batch share."""

    type: Literal["sampled_softmax"] = "sampled_softmax"
    negatives: Negatives = 256
    """Number of items drawn per batch, with replacement."""
    in_batch: bool = False
    """Draw from the batch's own targets, which favours popular items, instead of uniformly from all items."""
    logq: bool = False
    """Weight each drawn item by the inverse of its expected number of draws, so that the sum over the drawn items is,
    in expectation, the sum over all items (Bengio and Senécal, 2008)."""


class SampledBCEConfig(RetrievalLossConfig):
    """Binary cross-entropy of the target against drawn items; with one drawn item, the loss of SASRec's authors."""

    type: Literal["sampled_bce"] = "sampled_bce"
    negatives: Negatives = 1
    """Number of items drawn uniformly for each target."""


class GBCEConfig(RetrievalLossConfig):
    """gBCE: sampled binary cross-entropy without the overconfidence that sampling causes (Petrov and Macdonald,
    2023)."""

    type: Literal["gbce"] = "gbce"
    negatives: Negatives = 64
    """Number of items drawn uniformly for each target."""
    calibration: Annotated[float, Field(ge=0, le=1)] = 0.75
    """The paper's t. 0: plain binary cross-entropy; 1: full calibration."""


class RetrievalBaselineConfig(ComponentConfig):
    """What baselines that find the next item have in common."""

    forms: ClassVar[frozenset[Form]] = USER
    targets: ClassVar[frozenset[str]] = frozenset({ITEM})


class TopPopularConfig(RetrievalBaselineConfig):
    """The items taken most often in train, the same for all."""

    type: Literal["top_popular"] = "top_popular"


class TopRecentConfig(RetrievalBaselineConfig):
    """The items taken most often in the last part of train; needs a clock that users share."""

    type: Literal["top_recent"] = "top_recent"
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Only the latest train events count: this share of them."""


class ItemNeighboursConfig(RetrievalBaselineConfig):
    """Items similar to those of the history, by cosines over users (Sarwar et al., 2001)."""

    type: Literal["item_neighbours"] = "item_neighbours"
    neighbours: Positive = 200
    """Number of nearest items kept per item, itself included."""


class IALSConfig(FactorConfig, RetrievalBaselineConfig):
    """iALS: matrix factorisation of implicit feedback; a user's vector is solved for from the history (Hu et al.,
    2008)."""

    type: Literal["ials"] = "ials"


class EASEConfig(RetrievalBaselineConfig):
    """EASE: a linear model from items to items, in closed form (Steck, 2019)."""

    type: Literal["ease"] = "ease"
    l2: Annotated[float, Field(gt=0)] = 250.0
    """L2 penalty λ."""


class TextNeighboursConfig(RetrievalBaselineConfig):
    """The items whose texts are nearest to those of the history."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    type: Literal["text_neighbours"] = "text_neighbours"
