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
    """Find the item that a user takes next among all items of the catalogue."""

    target: ClassVar[str] = ITEM
    form: ClassVar[Form] = "user"
    needs: ClassVar[frozenset[str]] = frozenset({"events"})
    monitors: ClassVar[tuple[str, ...]] = tuple(
        f"{name}@{cutoff}" for cutoff in (10, 5, 20, 50) for name in ("ndcg", "hr", "mrr")
    )

    type: Literal["retrieval"] = "retrieval"
    filter_seen: bool = True
    """Whether items that the user took before the query's time are left out of its list. A target among them is then
    a miss."""


class SequenceConfig(BackboneConfig):
    """What backbones that read a user's events have in common."""

    forms: ClassVar[frozenset[Form]] = USER

    embedding_dim: Width = 64
    """Numbers per item vector and user vector; a score is their dot product."""
    dropout: Dropout = 0.2
    """Share of hidden units dropped in training."""
    item_features: Annotated[tuple[str, ...], Field(max_length=64), Distinct()] = ()
    """Item features whose embeddings are added to that of the item's id, in histories and in the catalogue: names of
    columns among the data set's features."""


class SASRecConfig(SequenceConfig):
    """SASRec: causal self-attention over the events (Kang and McAuley, 2018)."""

    type: Literal["sasrec"] = "sasrec"
    layers: Count = 2
    """Blocks of attention and feed-forward network."""
    heads: Count = 1
    """Attention heads."""

    @rule("embedding_dim", "heads")
    def _divides(self) -> Iterator[Broken]:
        if self.embedding_dim % self.heads:
            yield Broken(f"embedding_dim {self.embedding_dim} must be a multiple of heads = {self.heads}")


class GRU4RecConfig(SequenceConfig):
    """GRU4Rec: a gated recurrent network over the events (Hidasi et al., 2016)."""

    type: Literal["gru4rec"] = "gru4rec"
    hidden: Width = 128
    """Numbers in the recurrent state."""
    layers: Count = 1
    """Recurrent layers."""


class YouTubeDNNConfig(SequenceConfig):
    """YouTubeDNN: an MLP over the mean of the events (Covington et al., 2016)."""

    type: Literal["youtubednn"] = "youtubednn"
    hidden: Widths = (256, 128)
    """Widths of the MLP's hidden layers."""


class SRGNNConfig(SequenceConfig):
    """SR-GNN: a gated graph network over the items of the history (Wu et al., 2019)."""

    type: Literal["srgnn"] = "srgnn"
    steps: Count = 1
    """Times that what a node's neighbours say reaches it."""


class TextTowerConfig(ComponentConfig):
    """An item's vector is its id's embedding plus an MLP of its text; a new item has the latter alone."""

    forms: ClassVar[frozenset[Form]] = USER
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    type: Literal["text_tower"] = "text_tower"
    hidden: Widths = (128,)
    """Widths of the MLP's hidden layers."""
    dropout: Dropout = 0.0
    """Share of its hidden units dropped in training."""


class TextInitConfig(ComponentConfig):
    """Item embeddings start as the principal components of the texts' vectors instead of noise."""

    forms: ClassVar[frozenset[Form]] = USER
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    type: Literal["text_init"] = "text_init"


class RetrievalLossConfig(ComponentConfig):
    """What losses of the next item have in common."""

    forms: ClassVar[frozenset[Form]] = USER
    targets: ClassVar[frozenset[str]] = frozenset({ITEM})

    weight: Weight = 1.0
    """Factor in the sum of losses."""


class SoftmaxConfig(RetrievalLossConfig):
    """Cross-entropy over all items of the train split."""

    type: Literal["softmax"] = "softmax"


class SampledSoftmaxConfig(RetrievalLossConfig):
    """Cross-entropy over the target and drawn items, which a batch shares."""

    type: Literal["sampled_softmax"] = "sampled_softmax"
    negatives: Negatives = 256
    """Items drawn per batch, with replacement."""
    in_batch: bool = False
    """Draw among the batch's own targets, popular items more often, instead of evenly among all items."""
    logq: bool = False
    """Weight each drawn item by the inverse of how often it is expected among the draws, so that the sum over the drawn
    items is that over all items in expectation (Bengio and Senécal, 2008)."""


class SampledBCEConfig(RetrievalLossConfig):
    """Binary cross-entropy of the target against drawn items; with one of them the loss of SASRec's authors."""

    type: Literal["sampled_bce"] = "sampled_bce"
    negatives: Negatives = 1
    """Items drawn evenly for each target."""


class GBCEConfig(RetrievalLossConfig):
    """gBCE: the same with the overconfidence of sampling calibrated away (Petrov and Macdonald, 2023)."""

    type: Literal["gbce"] = "gbce"
    negatives: Negatives = 64
    """Items drawn evenly for each target."""
    calibration: Annotated[float, Field(ge=0, le=1)] = 0.75
    """The paper's t: 0 is plain binary cross-entropy, 1 calibrates wholly."""


class RetrievalBaselineConfig(ComponentConfig):
    """What baselines that find the next item have in common."""

    forms: ClassVar[frozenset[Form]] = USER
    targets: ClassVar[frozenset[str]] = frozenset({ITEM})


class TopPopularConfig(RetrievalBaselineConfig):
    """The items taken most often in train, the same for all."""

    type: Literal["top_popular"] = "top_popular"


class TopRecentConfig(RetrievalBaselineConfig):
    """The items taken most often in the last part of train; needs times that users share."""

    type: Literal["top_recent"] = "top_recent"
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the train events, the latest, that count."""


class ItemNeighboursConfig(RetrievalBaselineConfig):
    """Items like those of the history, by cosines over users (Sarwar et al., 2001)."""

    type: Literal["item_neighbours"] = "item_neighbours"
    neighbours: Positive = 200
    """Nearest items kept per item, itself included."""


class IALSConfig(FactorConfig, RetrievalBaselineConfig):
    """iALS: matrix factorisation of implicit feedback, users solved for by their histories (Hu et al., 2008)."""

    type: Literal["ials"] = "ials"


class EASEConfig(RetrievalBaselineConfig):
    """EASE: a linear model of items from items in closed form (Steck, 2019)."""

    type: Literal["ease"] = "ease"
    l2: Annotated[float, Field(gt=0)] = 250.0
    """L2 penalty λ."""


class TextNeighboursConfig(RetrievalBaselineConfig):
    """The items whose texts are nearest to those of the history."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    type: Literal["text_neighbours"] = "text_neighbours"
