"""Linear layers with their weights laid out once for the CPU's matrix kernels.

Shapes: M rows (all leading dimensions together), I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_ROWS = 64  # the layout is chosen for about so many rows; it serves any number


class PackedLinear(nn.Module):
    """Computes what `nn.Linear` does, for inference on the CPU: y_MO = x_MI · W_OIᵀ + b_O.

    oneDNN keeps W in the blocks that its kernels read, where `nn.Linear` hands it over row by row and has it rearranged
    at every call: with few rows, as in decoding, that is most of the time.

    Args:
        linear: The layer whose weights are taken.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x_MI: Tensor) -> Tensor:
        out_MO: Tensor = torch.ops.mkldnn._linear_pointwise(x_MI, self._packed, self._bias, "none", [], "")
        return out_MO


def pack_linears(model: nn.Module) -> None:
    """Replace every linear layer of a model that stays on the CPU, where PyTorch was built with oneDNN."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return
    found = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()
             if type(child) is nn.Linear]  # fmt: skip
    for parent, name, child in found:
        setattr(parent, name, PackedLinear(child))
