"""What weights determine, kept for many predictions."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn


class Kept(nn.Module):
    """A tensor that lasts until training begins or other weights are loaded into the model that it is a part of.

    Attributes:
        value: The tensor; None: there is none now. It is no part of the weights.
    """

    value: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", None, persistent=False)
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """See `nn.Module.train`."""
        self.value = None if mode else self.value
        return super().train(mode)


def _forget(kept: Any, keys: Any) -> None:
    kept.value = None
