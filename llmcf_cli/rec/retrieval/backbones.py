"""Backbones over sequences.

Legend: B batch, L sequence, D item vector, H heads, E head dimension, X recurrent state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.rec.parts.layers import MLP, causal_mask
from llmcf_cli.rec.retrieval.base import SequenceBackbone
from llmcf_cli.rec.retrieval.config import GRU4RecConfig, SASRecConfig, YouTubeDNNConfig


class SASRec(SequenceBackbone):
    """Kang and McAuley: Self-Attentive Sequential Recommendation, ICDM 2018.

    Blocks of x + Attention(LayerNorm(x)) and x + FFN(LayerNorm(x)) (section III.C), with item vectors times √D as in
    the authors' code, learned positions, and a LayerNorm at the end. Position L is that of the latest event.
    """

    def __init__(self, config: SASRecConfig, length: int) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.place_LD = nn.Parameter(torch.randn(length, dim) * 0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(dim, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, event_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """[B, L, D]."""
        length, dim = event_BLD.shape[1:]
        x_BLD = self.dropout(event_BLD * dim**0.5 + self.place_LD[-length:])
        seen_BLL = causal_mask(mask_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, seen_BLL)
        found_BLD: Tensor = self.norm(x_BLD)
        return found_BLD


class Block(nn.Module):
    """Attention and a feed-forward network of the model's own width, each normed before and added.

    Args:
        dim: D.
        heads: H.
        dropout: Share of attention weights, hidden units and outputs dropped in training.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.attention_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.ffn = MLP(dim, (dim,), dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, seen_BLL: Tensor) -> Tensor:
        """[B, L, D]; position i reads position j where `seen_BLL[:, i, j]`."""
        parts = self.qkv(self.attention_norm(x_BLD)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        rate = self.rate if self.training else 0.0
        mixed_BHLE = functional.scaled_dot_product_attention(query, key, value, seen_BLL[:, None], dropout_p=rate)
        x_BLD = x_BLD + self.dropout(self.out(mixed_BHLE.transpose(1, 2).flatten(2)))
        found_BLD: Tensor = x_BLD + self.dropout(self.ffn(self.ffn_norm(x_BLD)))
        return found_BLD


class GRU4Rec(SequenceBackbone):
    """Hidasi et al.: Session-based Recommendations with Recurrent Neural Networks, ICLR 2016.

    A gated recurrent network over the events' vectors, and a linear layer from its state to the user vector.
    """

    def __init__(self, config: GRU4RecConfig, length: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        between = config.dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(config.embedding_dim, config.hidden, config.layers, batch_first=True, dropout=between)
        self.out = nn.Linear(config.hidden, config.embedding_dim)

    def forward(self, event_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """[B, L, D]. The first event meets the state of zeros: rows are moved to the left for that, and back."""
        length = mask_BL.shape[1]
        padding_B1 = length - mask_BL.sum(1, keepdim=True)
        place_L = torch.arange(length, device=mask_BL.device)
        moved_BLD = _along(self.dropout(event_BLD), (place_L + padding_B1).clamp_max(length - 1))
        state_BLX, _ = self.gru(moved_BLD)
        return _along(self.out(state_BLX), (place_L - padding_B1).clamp_min(0))


class YouTubeDNN(SequenceBackbone):
    """Covington, Adams, Sargin: Deep Neural Networks for YouTube Recommendations, RecSys 2016.

    An MLP with ReLU over the mean of the events so far; of the paper's inputs, the watched videos.
    """

    def __init__(self, config: YouTubeDNNConfig, length: int) -> None:
        super().__init__()
        self.mlp = MLP(config.embedding_dim, config.hidden, config.embedding_dim, config.dropout)

    def forward(self, event_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """[B, L, D]."""
        sum_BLD = (event_BLD * mask_BL[..., None]).cumsum(1)
        found_BLD: Tensor = self.mlp(sum_BLD / mask_BL.cumsum(1).clamp_min(1)[..., None])
        return found_BLD


def _along(x_BLD: Tensor, from_BL: Tensor) -> Tensor:
    """x of other positions of the same row."""
    return x_BLD.gather(1, from_BL[..., None].expand(-1, -1, x_BLD.shape[2]))
