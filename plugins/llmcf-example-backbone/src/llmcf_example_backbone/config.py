"""Settings of the backbone. This module must stay cheap to import: no torch, no numpy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmcf_cli.rec.config import BackboneConfig, Dropout, Widths


class WideDeepConfig(BackboneConfig):
    """Wide & Deep: a linear model beside an MLP over embeddings (Cheng et al., 2016)."""

    type: Literal["wide_deep"] = "wide_deep"
    hidden: Widths = Field(default=(200, 80), min_length=1)
    """Widths of the MLP's hidden layers."""
    dropout: Dropout = 0.0
    """Share of hidden units dropped in training."""
