"""Backbones over sequences.

Legend: B batch, L sequence, D item vector, H heads, E head dimension, X recurrent state, P sessions: the prefixes
of all sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.rec.parts.layers import MLP, causal_mask
from llmcf_cli.rec.retrieval.base import SequenceBackbone
from llmcf_cli.rec.retrieval.config import (
    GRU4RecConfig,
    SASRecConfig,
    SRGNNConfig,
    YouTubeDNNConfig,
)


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

    def forward(self, event_BLD: Tensor, item_BL: Tensor) -> Tensor:
        """[B, L, D]."""
        length, dim = event_BLD.shape[1:]
        x_BLD = self.dropout(event_BLD * dim**0.5 + self.place_LD[-length:])
        seen_BLL = causal_mask(item_BL > 0)
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

    def forward(self, event_BLD: Tensor, item_BL: Tensor) -> Tensor:
        """[B, L, D]. The first event meets the state of zeros: rows are moved to the left for that, and back."""
        length = item_BL.shape[1]
        padding_B1 = length - (item_BL > 0).sum(1, keepdim=True)
        place_L = torch.arange(length, device=item_BL.device)
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

    def forward(self, event_BLD: Tensor, item_BL: Tensor) -> Tensor:
        """[B, L, D]."""
        mask_BL = item_BL > 0
        sum_BLD = (event_BLD * mask_BL[..., None]).cumsum(1)
        found_BLD: Tensor = self.mlp(sum_BLD / mask_BL.cumsum(1).clamp_min(1)[..., None])
        return found_BLD


class SRGNN(SequenceBackbone):
    """Wu et al.: Session-based Recommendation with Graph Neural Networks, AAAI 2019.

    A session is a graph: an item is one node, however often it occurs, and edges go from each event's item to the next
    one's. Every node takes in what its predecessors and its successors say, on average (an edge counts once, as in the
    authors' code), by a gated recurrent step (Eqs. 1 to 5). The user vector is a linear layer over the last event's
    node and the sum of all events', each weighed by how it goes with the last (Eqs. 6 and 7).

    The graph of every prefix is another one: time and memory grow with L² for each event.
    """

    def __init__(self, config: SRGNNConfig, length: int) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.steps = config.steps
        self.dropout = nn.Dropout(config.dropout)
        self.incoming, self.outgoing = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.bias_X = nn.Parameter(torch.zeros(2 * dim))
        self.cell = nn.GRUCell(2 * dim, dim)
        self.last, self.other = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.weigh = nn.Linear(dim, 1, bias=False)
        self.out = nn.Linear(2 * dim, dim)

    def forward(self, event_BLD: Tensor, item_BL: Tensor) -> Tensor:
        """[B, L, D]."""
        length = event_BLD.shape[1]
        found_BLD = torch.zeros_like(event_BLD)
        row_P, end_P = (item_BL > 0).nonzero(as_tuple=True)
        if not len(row_P):
            return found_BLD
        # The last columns hold a session's events; no session is longer than the last column says.
        longest = int((item_BL > 0).sum(1).max())
        column_PL = end_P[:, None] + torch.arange(1 - longest, 1, device=item_BL.device)
        item_PL = item_BL[row_P[:, None], column_PL.clamp_min(0)] * (column_PL >= 0)
        vector_PLD = self.dropout(event_BLD)[row_P[:, None], column_PL.clamp(0, length - 1)]
        found_BLD[row_P, end_P] = self._of_sessions(vector_PLD, item_PL)
        return found_BLD

    def _of_sessions(self, vector_PLD: Tensor, item_PL: Tensor) -> Tensor:
        """User vectors after the last events of sessions, [P, D]."""
        node_PL, incoming_PLL, outgoing_PLL = session_graphs(item_PL, vector_PLD.dtype)
        state_PLD = vector_PLD  # of places; one that is not the first of its item is no node, and nobody reads it
        for _ in range(self.steps):
            said = (incoming_PLL @ self.incoming(state_PLD), outgoing_PLL @ self.outgoing(state_PLD))
            taken_PLX = torch.cat(said, -1) + self.bias_X
            state_PLD = self.cell(taken_PLX.flatten(0, 1), state_PLD.flatten(0, 1)).view_as(state_PLD)
        event_PLD = _along(state_PLD, node_PL)
        last_P1D = event_PLD[:, -1:]
        weight_PL1 = self.weigh(torch.sigmoid(self.last(last_P1D) + self.other(event_PLD)))
        whole_PD = (weight_PL1 * event_PLD * (item_PL > 0)[..., None]).sum(1)
        found_PD: Tensor = self.out(torch.cat([whole_PD, last_P1D[:, 0]], 1))
        return found_PD


def session_graphs(item_PL: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Graphs of left-padded sessions; an item's node is the first place where it stands.

    Returns:
        int64 [P, L], the node of each event; and [P, L, L] twice: the share of each predecessor (column) in what a node
        (row) takes in, and that of each successor. Rows sum to 1, or to 0 where there is none.
    """
    node_PL = (item_PL[:, :, None] == item_PL[:, None, :]).to(torch.uint8).argmax(-1)
    edge_PLL = torch.zeros((*item_PL.shape, item_PL.shape[1]), device=item_PL.device, dtype=dtype)
    session_e, place_e = (item_PL[:, :-1] > 0).nonzero(as_tuple=True)
    edge_PLL[session_e, node_PL[session_e, place_e], node_PL[session_e, place_e + 1]] = 1
    incoming_PLL = edge_PLL.mT / edge_PLL.sum(1)[..., None].clamp_min(1)
    return node_PL, incoming_PLL, edge_PLL / edge_PLL.sum(2)[..., None].clamp_min(1)


def _along(x_BLD: Tensor, from_BL: Tensor) -> Tensor:
    """x of other positions of the same row."""
    return x_BLD.gather(1, from_BL[..., None].expand(-1, -1, x_BLD.shape[2]))
