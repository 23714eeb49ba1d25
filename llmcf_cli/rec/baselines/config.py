"""Settings of baselines. Importing this module costs nothing but pydantic."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.rec.config import LABEL

Positive = Annotated[int, Field(ge=1)]


class LabelBaselineConfig(ComponentConfig):
    """What baselines that predict a label have in common."""

    targets: ClassVar[frozenset[str]] = frozenset({LABEL})


class PopularityConfig(LabelBaselineConfig):
    """How often the item was taken in train, for every user alike."""

    type: Literal["popularity"] = "popularity"


class ItemRateConfig(LabelBaselineConfig):
    """How often the item was taken in train against how often it was not (log odds), for every user alike."""

    type: Literal["item_rate"] = "item_rate"


class ItemKNNConfig(LabelBaselineConfig):
    """Item-based nearest neighbours: cosines of items by their users (Sarwar et al., 2001)."""

    type: Literal["item_knn"] = "item_knn"
    neighbours: Positive = 200
    """Number of nearest items kept per item, itself included."""


class FactorConfig(ComponentConfig):
    """What factorisations of implicit feedback have in common."""

    factors: Positive = 64
    """Size of user and item vectors."""
    iterations: Positive = 15
    """Number of passes over users and items."""
    regularization: Annotated[float, Field(ge=0)] = 10.0
    """L2 penalty λ."""
    alpha: Annotated[float, Field(gt=0)] = 40.0
    """Confidence in a positive; an absent pair has 1 (the paper: 40)."""


class ALSConfig(FactorConfig, LabelBaselineConfig):
    """Matrix factorisation of implicit feedback by alternating least squares (Hu, Koren and Volinsky, 2008)."""

    type: Literal["als"] = "als"


class GBMConfig(LabelBaselineConfig):
    """Gradient-boosted trees over the matching signals."""

    needs: ClassVar[frozenset[str]] = frozenset({"signals"})

    type: Literal["gbm"] = "gbm"
    trees: Positive = 500
    """Maximum number of trees; validation decides how many are grown."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """Learning rate: factor on each tree's contribution."""
    leaves: Annotated[int, Field(ge=2)] = 31
    """Maximum number of leaves per tree."""
    l2: Annotated[float, Field(ge=0)] = 1.0
    """L2 penalty on leaf values."""
    patience: Positive = 20
    """Growth stops after this many trees without a lower validation loss."""
