"""Settings of spaces and searchers; importing this must stay cheap."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llmcf_cli.core.types import ComponentConfig, FilePath, Runtime

Weight = Annotated[float, Field(ge=0)]


class SpaceConfig(ComponentConfig):
    """History ⊕ item. Score = history_weight·⟨h, h_i⟩ + item_weight·⟨t, t_i⟩ of unit vectors."""

    encoder: FilePath
    """Sentence encoder that turns texts into vectors, e.g. `asset:minilm-l6-v2`."""
    history_weight: Weight = 0.5
    """Weight of the likeness of histories; 0.5 for ranking and 1 for candidate retrieval in the paper."""
    item_weight: Weight = 0.5
    """Weight of the likeness of items; 0.5 for ranking and 0 for candidate retrieval in the paper."""

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.history_weight == 0 and self.item_weight == 0:
            raise ValueError("history_weight and item_weight are both 0, which makes every example equally near")
        return self


class TextSpaceConfig(SpaceConfig):
    """The paper's: items are alike if their texts are."""

    type: Literal["text"] = "text"


class RandomSearchConfig(ComponentConfig):
    """Control: random examples among the allowed ones. What matching adds is the difference to this."""

    type: Literal["random"] = "random"
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draw."""


class ExactSearchConfig(ComponentConfig):
    """Exact search; none of its settings can change a result."""

    type: Literal["exact"] = "exact"
    query_block: Annotated[int, Field(ge=1), Runtime()] = 1024
    """Queries scored at once; with `example_block` it bounds the memory used."""
    example_block: Annotated[int, Field(ge=1), Runtime()] = 4096
    """Examples scored at once."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Runtime()] = "auto"
    """Where scores are computed; `auto` takes a GPU when there is one."""
