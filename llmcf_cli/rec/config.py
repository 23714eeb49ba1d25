"""Settings of backbones, augmenters and objectives. Importing this module costs nothing but pydantic."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from llmcf_cli.core.types import Broken, ComponentConfig, Distinct, Form, TaskConfig, rule

MAX_EXAMPLES = 1024
"""Most examples of a sample."""
Width = Annotated[int, Field(ge=1, le=1 << 16)]
"""Of a layer."""
Count = Annotated[int, Field(ge=1, le=256)]
"""Of layers, heads or experts. Bounds like these keep a stranger's recipe or bundle from asking for any memory."""
Widths = Annotated[tuple[Width, ...], Field(max_length=64)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
ANY_FORM: frozenset[Form] = frozenset({"pair", "user"})
LABEL = "label"
"""Target of tasks that predict whether a user likes an item: 0 or 1."""


def in_order(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Tokens of an example: each at most once, and what decides before the decision."""
    order = [kind for kind in ("row", "cot", "label") if kind in tokens]
    if list(tokens) != order:
        raise ValueError(f"tokens are {list(tokens)}; choose from {order}: each at most once, in this order")
    return tokens


class RankingConfig(TaskConfig):
    """Predict the label of a (user, item) pair."""

    target: ClassVar[str] = LABEL
    monitors: ClassVar[tuple[str, ...]] = ("auc", "logloss", "gauc")

    type: Literal["ranking"] = "ranking"


class BackboneConfig(ComponentConfig):
    """What every backbone has: the size of feature embeddings."""

    embedding_dim: Width = 32
    """Size of a feature embedding, the same for all fields."""


class DeepBackboneConfig(BackboneConfig):
    """What every backbone with an MLP has in addition."""

    hidden: Widths = Field(default=(200, 80), min_length=1)
    """Widths of the MLP's hidden layers."""
    dropout: Dropout = 0.0
    """Share of hidden units dropped in training."""


class DeepFMConfig(DeepBackboneConfig):
    """DeepFM: first-order terms, pairwise interactions and an MLP over shared embeddings (Guo et al., 2017)."""

    type: Literal["deepfm"] = "deepfm"


class XDeepFMConfig(DeepBackboneConfig):
    """xDeepFM: first-order terms, a compressed interaction network (CIN) and an MLP (Lian et al., 2018)."""

    type: Literal["xdeepfm"] = "xdeepfm"
    cin_maps: Widths = Field(default=(100, 100), min_length=1)
    """Feature maps of each CIN layer; layer k forms interactions of k + 1 fields."""


class AutoIntConfig(DeepBackboneConfig):
    """AutoInt: fields attend to fields (Song et al., 2019); with the MLP beside it the paper calls it AutoInt+."""

    type: Literal["autoint"] = "autoint"
    hidden: Widths = (200, 80)
    """Widths of the MLP's hidden layers. Empty: no MLP."""
    layers: Count = 3
    """Number of interacting layers."""
    heads: Count = 2
    """Number of attention heads."""
    head_dim: Width = 16
    """Size of a head."""
    dropout: Dropout = 0.0
    """Share of attention weights and hidden units dropped in training."""


class DCNConfig(DeepBackboneConfig):
    """DCN: a cross network beside an MLP (Wang et al., 2017)."""

    type: Literal["dcn"] = "dcn"
    cross_layers: Count = 3
    """Number of cross layers; each raises the degree of the interactions by one."""


class DCNv2Config(DeepBackboneConfig):
    """DCN V2: cross layers of gated low-rank experts, and an MLP (Wang et al., 2021)."""

    type: Literal["dcnv2"] = "dcnv2"
    structure: Literal["parallel", "stacked"] = "parallel"
    """`parallel`: the MLP stands beside the cross network; `stacked`: it comes after it."""
    cross_layers: Count = 3
    """Number of cross layers; each raises the degree of the interactions by one."""
    experts: Count = 4
    """Number of low-rank experts per cross layer, mixed by a softmax gate."""
    rank: Width = 32
    """Rank of an expert."""


class DINConfig(DeepBackboneConfig):
    """Deep Interest Network: the target item attends over the history (Zhou et al., 2018)."""

    type: Literal["din"] = "din"
    attention_hidden: Widths = Field(default=(80, 40), min_length=1)
    """Widths of the activation unit's hidden layers."""
    activation: Literal["dice", "prelu"] = "dice"
    """Activation of the hidden layers; `dice` is the paper's, which adapts to the data."""
    attention: Literal["sum", "softmax"] = "sum"
    """`sum`: weights are not normalised, so the strength of an interest counts (the paper); `softmax`: weights sum to
    1."""


Tokens = Annotated[tuple[Literal["row", "cot", "label"], ...], Field(min_length=1), AfterValidator(in_order)]
Features = Annotated[tuple[Literal["text", "signals"], ...], Distinct()]


class TokenConfig(ComponentConfig):
    """What augmenters that read examples as tokens have in common."""

    forms: ClassVar[frozenset[Form]] = ANY_FORM

    dim: Width = 32
    """Size of a token, and of the context feature."""
    hidden: Width = 64
    """Width of the hidden layer of each MLP: those that make tokens, and the one that makes the context, if there is
    one."""
    tokens: Tokens = ("row", "cot", "label")
    """What the model sees of an example, in this order. Without `cot`: only (x, y) pairs; `[label]`: only decisions."""
    features: Features = ("text",)
    """What tokens carry in addition to field embeddings: `text` vectors (the paper), and matching `signals`."""
    dropout: Dropout = 0.0
    """Share of hidden units dropped in training."""

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Inputs that are read; see `ComponentConfig.needs`."""
        return frozenset({"text", "examples"} | ({"signals"} & set(self.features)))


class NoneConfig(ComponentConfig):
    """No context: the backbone alone."""

    forms: ClassVar[frozenset[Form]] = ANY_FORM

    type: Literal["none"] = "none"


class TextConfig(ComponentConfig):
    """Control: what the texts of item and history contribute without any example."""

    type: Literal["text"] = "text"
    features: Features = ("text",)
    """What is read: `text` vectors, and also matching `signals` in the control of arms that read them."""
    dim: Width = 32
    """Size of the context feature."""
    hidden: Widths = (64,)
    """Widths of the MLP's hidden layers."""
    dropout: Dropout = 0.0
    """Share of hidden units dropped in training."""

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Inputs that are read; see `ComponentConfig.needs`."""
        return frozenset({"text"} | ({"signals"} & set(self.features)))


class SignalsConfig(ComponentConfig):
    """Control: how well the target matches the history in text and collaborative space, without any example."""

    needs: ClassVar[frozenset[str]] = frozenset({"signals"})

    type: Literal["signals"] = "signals"
    dim: Width = 32
    """Size of the context feature."""
    hidden: Widths = (64,)
    """Widths of the MLP's hidden layers."""
    dropout: Dropout = 0.0
    """Share of hidden units dropped in training."""


class ICTConfig(TokenConfig):
    """LLM-CF: a causal transformer decoder over retrieved examples and their chains of thought."""

    type: Literal["ict"] = "ict"
    layers: Count = 2
    """Number of decoder layers."""
    heads: Count = 2
    """Number of attention heads."""

    @rule("dim", "heads")
    def _divides(self) -> Iterator[Broken]:
        if self.dim % (2 * self.heads):
            yield Broken(f"dim {self.dim} must be a multiple of 2 × heads = {2 * self.heads} (rotary positions)")


class MeanConfig(TokenConfig):
    """Ablation of LLM-CF: the examples' tokens are averaged instead of read by a decoder."""

    type: Literal["mean"] = "mean"


class ReadoutConfig(ComponentConfig):
    """What the chains of thought of similar examples say beyond their rows, read by one linear layer, and the texts."""

    needs: ClassVar[frozenset[str]] = frozenset({"text", "examples"})

    type: Literal["readout"] = "readout"
    dim: Width = 32
    """Size of the context feature."""
    hidden: Widths = (64,)
    """Widths of the hidden layers of the MLP over the texts, as in `text`."""
    dropout: Dropout = 0.0
    """Share of these hidden units dropped in training."""
    nearness: Annotated[float, Field(gt=0)] = 60.0
    """How steeply an example's weight falls as the cosine between its item and the target decreases. A starting value;
    the model learns it."""
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.9
    """Cosine between an example's item and the target at which the example weighs as much as the option "no similar
    example". A starting value; the model learns it."""


class KARConfig(ComponentConfig):
    """KAR: knowledge about user and item through a hybrid-expert adaptor (Xi et al., 2023)."""

    type: Literal["kar"] = "kar"
    features: Annotated[tuple[Literal["text"], ...], Distinct()] = ()
    """What the context contains in addition to knowledge. `text` adds the context of the control `text`: comparing the
    two arms shows what knowledge adds to texts, and samples without knowledge still have the texts. For ranking only;
    not in the paper."""
    dim: Width = 32
    """Size per kind of knowledge. In ranking, the context feature contains both kinds; in retrieval, knowledge about a
    user goes into the user's vector, and knowledge about an item into the item's."""
    hidden: Width = 128
    """Width of each expert's hidden layer."""
    shared_experts: Count = 2
    """Number of experts that read both kinds."""
    specific_experts: Count = 3
    """Number of further experts for each kind."""

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Inputs that are read; see `ComponentConfig.needs`."""
        return frozenset({"knowledge", *self.features})

    @property
    def forms(self) -> frozenset[Form]:  # type: ignore[override]
        """Tasks that it is for; see `ComponentConfig.forms`."""
        return ComponentConfig.forms if self.features else ANY_FORM


class BCEConfig(ComponentConfig):
    """Binary cross-entropy between label and logit."""

    targets: ClassVar[frozenset[str]] = frozenset({LABEL})

    type: Literal["bce"] = "bce"
    weight: Weight = 1.0
    """Weight in the sum of losses."""


class DistillConfig(ComponentConfig):
    """Knowledge distillation: the model's probability is pulled towards the language model's (Hinton et al., 2015)."""

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    targets: ClassVar[frozenset[str]] = frozenset({LABEL})

    type: Literal["distill"] = "distill"
    weight: Weight = 1.0
    """Weight in the sum of losses."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature τ, by which both logits are divided; a higher one softens an overconfident teacher."""


class CoTReconstructionConfig(ComponentConfig):
    """1 − cos between what the decoder predicts at an example and that example's chain of thought."""

    needs: ClassVar[frozenset[str]] = frozenset({"examples"})
    forms: ClassVar[frozenset[Form]] = ANY_FORM

    type: Literal["cot_reconstruction"] = "cot_reconstruction"
    weight: Weight = 1.0
    """Weight in the sum of losses (the paper's α)."""
