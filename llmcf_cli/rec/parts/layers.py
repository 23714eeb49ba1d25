"""Layers that several models share.

Legend: B batch, S sequence, D model, H heads, E head dimension, X input of an MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.parts.kernels import attend, swiglu, unit_rms


class MLP(nn.Sequential):
    """Linear layers with an activation and dropout after each, and a plain linear layer to `out` at the end.

    Args:
        width: Numbers in.
        hidden: Widths of hidden layers; may be empty.
        out: Numbers out.
        dropout: Share of hidden units dropped in training.
        activation: Makes the activation of a layer from its width.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], out: int, dropout: float = 0.0,
        activation: Callable[[int], nn.Module] = lambda width: nn.ReLU(),
    ) -> None:  # fmt: skip
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), activation(size)]
            layers += [nn.Dropout(dropout)] if dropout else []
            width = size
        super().__init__(*layers, nn.Linear(width, out))


class Dice(nn.Module):
    """Data-adaptive activation: p(s)·s + (1 − p(s))·α·s, p(s) = σ((s − E[s]) / √(Var[s] + ε)) (Zhou 2018, Eq. 9).

    Mean and variance are the batch's in training and running averages in evaluation.

    Args:
        width: Size of the last dimension.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=1e-8, affine=False)
        self.alpha_X = nn.Parameter(torch.zeros(width))

    def forward(self, input_X: Tensor) -> Tensor:
        """Any shape [..., X]."""
        flat_NX = input_X.reshape(-1, input_X.shape[-1])
        # One row has no variance to learn from; the running averages serve it.
        norm = self.norm if len(flat_NX) > 1 or not self.training else _frozen(self.norm)
        gate_X = torch.sigmoid(norm(flat_NX)).view_as(input_X)
        return input_X * (gate_X + (1 - gate_X) * self.alpha_X)


def _frozen(norm: nn.BatchNorm1d) -> Callable[[Tensor], Tensor]:
    return lambda x: functional.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)


class CausalDecoder(nn.Module):
    """Pre-norm transformer decoder: RMSNorm, rotary positions, SwiGLU; no biases (Touvron et al., 2023).

    Args:
        layers: Number of layers.
        heads: Attention heads.
        dim: D, a multiple of 2 · heads.
        dropout: Share dropped after attention and feed-forward in training.
        length: Longest sequence.
    """

    rope_SE: Tensor

    def __init__(self, layers: int, heads: int, dim: int, dropout: float, length: int) -> None:
        super().__init__()
        if dim % (2 * heads):
            raise ModelError(
                f"dim {dim} is no multiple of 2 × heads = {2 * heads}", code="setting-unfit", where="ict decoder"
            )
        self.layers = nn.ModuleList(DecoderLayer(heads, dim, dropout) for _ in range(layers))
        self.norm = RMSNorm(dim, eps=1e-6)
        self.register_buffer("rope_SE", rotary(length, dim // heads), persistent=False)

    def forward(self, tokens_BSD: Tensor, mask_BS: Tensor, read_R: Tensor) -> Tensor:
        """Hidden states at the positions `read_R`, [B, R, D]; a position sees itself and earlier ones.

        The last layer computes only what is read.

        Args:
            tokens_BSD: Token embeddings.
            mask_BS: False where a token is padding, which no other position sees.
            read_R: int64 positions to return.
        """
        length = tokens_BSD.shape[1]
        bias_BSS = torch.where(causal_mask(mask_BS), 0.0, -torch.inf)
        rope_SE = self.rope_SE[:length]
        everything_S = torch.arange(length, device=tokens_BSD.device)
        for number, layer in enumerate(self.layers, 1):
            at = read_R if number == len(self.layers) else everything_S
            tokens_BSD = layer(tokens_BSD, bias_BSS, rope_SE, at)
        hidden_BRD: Tensor = self.norm(tokens_BSD)
        return hidden_BRD


class DecoderLayer(nn.Module):
    """x + Attention(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)), at the positions asked for."""

    def __init__(self, heads: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.mlp_norm = RMSNorm(dim, eps=1e-6), RMSNorm(dim, eps=1e-6)
        self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.value, self.out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        inner = -(-8 * dim // 3 // 8) * 8  # 8/3 of D keeps the parameters of a plain MLP of width 4 D
        self.gate, self.up = nn.Linear(dim, inner, bias=False), nn.Linear(dim, inner, bias=False)
        self.down = nn.Linear(inner, dim, bias=False)

    def forward(self, x_BSD: Tensor, bias_BSS: Tensor, rope_SE: Tensor, at_R: Tensor) -> Tensor:
        """[B, S, D] → [B, R, D], the positions `at_R`."""
        normed_BSD = self.attention_norm(x_BSD)
        partial = len(at_R) < x_BSD.shape[1]
        x_BRD, source_BRD = (x_BSD[:, at_R], normed_BSD[:, at_R]) if partial else (x_BSD, normed_BSD)
        query_BRHE = rotate(self._split(self.query(source_BRD)), rope_SE[at_R])
        key_BSHE, value_BSHE = self._split(self.key(normed_BSD)), self._split(self.value(normed_BSD))
        mixed_BHRE = attend(
            query_BRHE.transpose(1, 2), rotate(key_BSHE, rope_SE).transpose(1, 2), value_BSHE.transpose(1, 2),
            bias_BSS[:, at_R] if partial else bias_BSS,
        )  # fmt: skip
        x_BRD = x_BRD + self._drop(self.out(mixed_BHRE.transpose(1, 2).flatten(2)))
        inner_NI = swiglu(self.mlp_norm(x_BRD).flatten(0, 1), self.gate.weight, self.up.weight)
        return x_BRD + self._drop(self.down(inner_NI)).view_as(x_BRD)

    def _split(self, x_BSD: Tensor) -> Tensor:
        split_BSHE: Tensor = x_BSD.unflatten(-1, (self.heads, -1))
        return split_BSHE

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


class RMSNorm(nn.Module):
    """x / √(mean(x²) + ε) · g over the last dimension (Zhang and Sennrich, 2019, Eq. 4).

    Args:
        dim: D.
        eps: ε.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x_ND: Tensor) -> Tensor:
        """Any shape [..., D]."""
        return unit_rms(x_ND, self.eps) * self.weight


def causal_mask(mask_BS: Tensor) -> Tensor:
    """bool [B, S, S]: query position i may see key position j.

    Padding is seen by nobody but itself: a row without any allowed key would be 0/0.
    """
    length = mask_BS.shape[1]
    ones_SS = torch.ones(length, length, dtype=torch.bool, device=mask_BS.device)
    return (ones_SS.tril() & mask_BS[:, None, :]) | torch.eye(length, dtype=torch.bool, device=mask_BS.device)


def rotary(length: int, dim: int) -> Tensor:
    """exp(i·s·θ_e), complex64 [S, E/2], θ_e = 10000^(−2e/E) (Su et al., 2021, Eq. 15)."""
    angle_SE = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, dim, 2) / dim)
    return torch.polar(torch.ones_like(angle_SE), angle_SE)


def rotate(x_BSHE: Tensor, rope_SE: Tensor) -> Tensor:
    """Turn the pairs (2e, 2e + 1) of each position by that position's angles: a complex product with exp(iθ)."""
    pairs = torch.view_as_complex(x_BSHE.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rope_SE[:, None]).flatten(-2)
