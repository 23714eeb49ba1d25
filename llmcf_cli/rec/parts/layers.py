"""Layers that several models share.

Legend: B batch, S sequence, D model, H heads, E head dimension, R read positions, X input of an MLP; where rows share
sequences: G sequences, C copies of them, R rows at each.
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
        norm = self.norm if not self.training or len(flat_NX) > 1 else _frozen(self.norm)
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

    angle_SE2: Tensor

    def __init__(self, layers: int, heads: int, dim: int, dropout: float, length: int) -> None:
        super().__init__()
        if dim % (2 * heads):
            raise ModelError(
                f"dim {dim} is not a multiple of 2 × heads = {2 * heads}", code="setting-unfit", where="ict decoder"
            )
        self.layers = nn.ModuleList(DecoderLayer(heads, dim, dropout) for _ in range(layers))
        self.norm = RMSNorm(dim, eps=1e-6)
        self.register_buffer("angle_SE2", torch.view_as_real(rotary(length, dim // heads)), persistent=False)

    @property
    def _rope_SE(self) -> Tensor:
        """Angles of all positions: complex numbers, or pairs of real ones in a graph, which has no others."""
        return self.angle_SE2 if torch.compiler.is_exporting() else torch.view_as_complex(self.angle_SE2)

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
        rope_SE = self._rope_SE[:length]
        everything_S = torch.arange(length, device=tokens_BSD.device)
        for number, layer in enumerate(self.layers, 1):
            at = read_R if number == len(self.layers) else everything_S
            tokens_BSD = layer(tokens_BSD, bias_BSS, rope_SE, at)
        hidden_BRD: Tensor = self.norm(tokens_BSD)
        return hidden_BRD

    def continued(self, prefix_GSD: Tensor, mask_GS: Tensor, last_BD: Tensor, of_B: Tensor) -> Tensor:
        """Hidden states [B, D] of one more token after sequences that many rows share; each sequence is read once.

        It is what `forward` gives at the last position of [prefix_GSD[of_B], last_BD].

        Args:
            prefix_GSD: Token embeddings of the sequences.
            mask_GS: False where a token is padding.
            last_BD: The token of each row.
            of_B: int64, the sequence that it follows.
        """
        length = prefix_GSD.shape[1]
        if exporting := torch.compiler.is_exporting():  # whose shapes cannot depend on values: a place for each row
            copy_C, last_CRD = of_B, last_BD[:, None]
        else:
            copy_C, row_B, place_B = _shared(of_B, len(prefix_GSD))
            last_CRD = last_BD.new_zeros(len(copy_C), int(place_B.max()) + 1, last_BD.shape[1])
            last_CRD[row_B, place_B] = last_BD
        bias_GSS = torch.where(causal_mask(mask_GS), 0.0, -torch.inf)
        bias_C1S = torch.where(mask_GS, 0.0, -torch.inf)[copy_C][:, None]
        rope_SE, rope_1E = self._rope_SE[:length], self._rope_SE[length : length + 1]
        everything_S = torch.arange(length, device=prefix_GSD.device)
        for number, layer in enumerate(self.layers, 1):
            assert isinstance(layer, DecoderLayer)
            last_CRD = layer.follow(last_CRD, rope_1E, layer.memory(prefix_GSD, rope_SE), copy_C, bias_C1S)
            if number < len(self.layers):
                prefix_GSD = layer(prefix_GSD, bias_GSS, rope_SE, everything_S)
        hidden_BD: Tensor = self.norm(last_CRD[:, 0] if exporting else last_CRD[row_B, place_B])
        return hidden_BD


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
        query_BHRE = rotate(self._split(self.query(source_BRD)), rope_SE[at_R]).transpose(1, 2)
        key_BHSE, value_BHSE = self._keys_and_values(normed_BSD, rope_SE)
        mixed_BHRE = attend(query_BHRE, key_BHSE, value_BHSE, bias_BSS[:, at_R] if partial else bias_BSS)
        return self._mixed_in(x_BRD, mixed_BHRE)

    def memory(self, x_BSD: Tensor, rope_SE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of tokens, [B, H, S, E] each."""
        key_BHSE, value_BHSE = self._keys_and_values(self.attention_norm(x_BSD), rope_SE)
        return key_BHSE.contiguous(), value_BHSE.contiguous()  # products of many small matrices are slow otherwise

    def follow(
        self, x_CRD: Tensor, rope_1E: Tensor, memory: tuple[Tensor, Tensor], copy_C: Tensor, bias_C1S: Tensor
    ) -> Tensor:
        """[C, R, D] → [C, R, D]: tokens that all stand right after a sequence; each sees that and itself alone.

        Args:
            x_CRD: R tokens for each of C sequences.
            rope_1E: Of their position.
            memory: Keys and values of G sequences.
            copy_C: int64, which of these each of the C is.
            bias_C1S: -inf where a token of a sequence is padding.
        """
        normed_CRD = self.attention_norm(x_CRD)
        query_CHRE = rotate(self._split(self.query(normed_CRD)), rope_1E).transpose(1, 2)
        own_key_CHRE, own_value_CHRE = self._keys_and_values(normed_CRD, rope_1E)
        key_CHSE, value_CHSE = (part_GHSE[copy_C] for part_GHSE in memory)
        query_CHRE = query_CHRE.contiguous() * query_CHRE.shape[-1] ** -0.5
        seen_CHRS = (query_CHRE @ key_CHSE.mT).add_(bias_C1S[:, None])
        itself_CHR1 = (query_CHRE * own_key_CHRE).sum(-1, keepdim=True)
        weight_CHRS = torch.cat([seen_CHRS, itself_CHR1], -1).softmax(-1)
        mixed_CHRE = weight_CHRS[..., :-1] @ value_CHSE + weight_CHRS[..., -1:] * own_value_CHRE
        return self._mixed_in(x_CRD, mixed_CHRE)

    def _keys_and_values(self, normed_BSD: Tensor, rope_SE: Tensor) -> tuple[Tensor, Tensor]:
        key_BSHE, value_BSHE = self._split(self.key(normed_BSD)), self._split(self.value(normed_BSD))
        return rotate(key_BSHE, rope_SE).transpose(1, 2), value_BSHE.transpose(1, 2)

    def _mixed_in(self, x_BRD: Tensor, mixed_BHRE: Tensor) -> Tensor:
        x_BRD = x_BRD + self._drop(self.out(mixed_BHRE.transpose(1, 2).flatten(2)))
        inner_NI = swiglu(self.mlp_norm(x_BRD).flatten(0, 1), self.gate.weight, self.up.weight)
        return x_BRD + self._drop(self.down(inner_NI)).view_as(x_BRD)

    def _split(self, x_BSD: Tensor) -> Tensor:
        split_BSHE: Tensor = x_BSD.unflatten(-1, (self.heads, -1))
        return split_BSHE

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


def _shared(of_B: Tensor, sequences: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places for rows at copies of the sequences that they follow, R at each, so that few places stay empty.

    R is the mean number of rows of a sequence; one with more is there several times, so at most 2 G copies are made.

    Returns:
        int64 [C], the sequence of each copy; int64 [B], the copy of each row; int64 [B], its place there.
    """
    if sequences == 1:
        return of_B.new_zeros(1), of_B, torch.arange(len(of_B), device=of_B.device)
    order_B = torch.argsort(of_B, stable=True)
    count_G = torch.bincount(of_B, minlength=sequences)
    width = -(-len(of_B) // sequences)
    first_G = count_G.cumsum(0) - count_G
    nth_B = torch.empty_like(order_B)
    nth_B[order_B] = torch.arange(len(of_B), device=of_B.device) - first_G[of_B[order_B]]
    copies_G = (count_G + width - 1) // width
    copy_C = torch.repeat_interleave(torch.arange(sequences, device=of_B.device), copies_G)
    first_copy_G = copies_G.cumsum(0) - copies_G
    return copy_C, first_copy_G[of_B] + nth_B // width, nth_B % width


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
    """Turn the pairs (2e, 2e + 1) of each position by that position's angles: a complex product with exp(iθ).

    Args:
        x_BSHE: What to turn.
        rope_SE: exp(iθ), complex [S, E/2], or its real and imaginary parts, [S, E/2, 2].
    """
    if not rope_SE.is_complex():
        even, odd = x_BSHE.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = rope_SE[:, None].unbind(-1)
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    pairs = torch.view_as_complex(x_BSHE.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rope_SE[:, None]).flatten(-2)
