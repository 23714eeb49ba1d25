"""KAR. Xi et al.: Towards Open-World Recommendation with Knowledge Augmentation from Large Language Models, 2023.

Legend: B batch, T text, E experts, H hidden, D numbers per kind of knowledge, C context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.augment.base import Augmentation, Augmenter, AugmentInput, AugmentShape, given
from llmcf_cli.rec.augment.text import TextAugmenter
from llmcf_cli.rec.config import KARConfig, TextConfig


class KARAugmenter(Augmenter):
    """context = adaptor(preference reasoning about the user) ⊕ adaptor(factual knowledge about the item), and with
    `text` among its features ⊕ the context of `text`.

    The hybrid-expert adaptor: of a text vector r of one kind, Σ_e α_e · e(r) over the shared experts and the experts of
    that kind, α = softmax(W r + b) with a gate per kind; experts are MLPs of one hidden layer. Where nothing is known,
    or what is known is not for a sample of that time, a learned vector of that kind stands in for the adaptor's output.

    Raises:
        ModelError: There is no knowledge.
    """

    def __init__(self, config: KARConfig, shape: AugmentShape) -> None:
        super().__init__()
        if not shape.size("knowledge"):
            raise ModelError(
                "needs knowledge about users and items",
                code="input-missing",
                where="augmenter kar",
                hint="llmcf knowledge RECIPE",
            )
        self.context_dim, self.item_dim = 2 * config.dim, config.dim
        sizes = shape.size("knowledge"), config.hidden, config.dim
        self.shared = Experts(config.shared_experts, *sizes)
        self.user_experts, self.item_experts = (Experts(config.specific_experts, *sizes) for _ in range(2))
        total = config.shared_experts + config.specific_experts
        self.user_gate, self.item_gate = (nn.Linear(shape.size("knowledge"), total) for _ in range(2))
        self.missing_user_D, self.missing_item_D = (nn.Parameter(torch.zeros(config.dim)) for _ in range(2))
        self.text = TextAugmenter(TextConfig(dim=config.dim), shape) if "text" in config.features else None
        self.context_dim += 0 if self.text is None else self.text.context_dim

    def forward(self, x: AugmentInput) -> Augmentation:
        """[B, T] twice → [B, C]."""
        known = given(x.inputs.get("knowledge"), "knowledge")
        user_BD = self._adapt(known.user_BT, self.user_experts, self.user_gate)
        user_BD = torch.where(known.user_known_B[:, None], user_BD, self.missing_user_D)
        parts = [user_BD, self.of_items(x.inputs)]
        if self.text is not None:
            parts.append(given(self.text(x).context_BC, "text"))
        return Augmentation(torch.cat(parts, 1))

    def of_items(self, inputs: Mapping[str, Any]) -> Tensor:
        """See `Augmenter.of_items`: the adaptor's output for the item, [B, D]."""
        known = given(inputs.get("knowledge"), "knowledge")
        item_BD = self._adapt(known.item_BT, self.item_experts, self.item_gate)
        return torch.where(known.item_known_B[:, None], item_BD, self.missing_item_D)

    def _adapt(self, text_BT: Tensor, specific: Experts, gate: nn.Linear) -> Tensor:
        expert_BED = torch.cat([self.shared(text_BT), specific(text_BT)], 1)
        return torch.einsum("be,bed->bd", gate(text_BT).softmax(1), expert_BED)


class Experts(nn.Module):
    """E MLPs of one hidden layer side by side, as two products.

    Args:
        count: E.
        width: Numbers in.
        hidden: H.
        out: Numbers out.
    """

    def __init__(self, count: int, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.count = count
        self.hidden = nn.Linear(width, count * hidden)
        bound = hidden**-0.5  # as nn.Linear draws
        self.weight_EHD = nn.Parameter(torch.empty(count, hidden, out).uniform_(-bound, bound))
        self.bias_ED = nn.Parameter(torch.empty(count, out).uniform_(-bound, bound))

    def forward(self, x_BT: Tensor) -> Tensor:
        """[B, T] → [B, E, D]."""
        hidden_BEH = self.hidden(x_BT).relu().unflatten(1, (self.count, -1))
        return torch.einsum("beh,ehd->bed", hidden_BEH, self.weight_EHD) + self.bias_ED
