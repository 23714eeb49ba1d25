"""Attention for rows that hold several samples, none of which sees another.

The row is cut at its samples' borders and each piece attends to itself. Nothing is masked: a mask over the whole row
would cost the square of the row's length, which is five to eight times this at eight samples a row.

Shapes: B samples, T tokens of all of them, L tokens of the longest, H heads, G key and value heads, D dimension of a
head.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.tuning.collate import Packed

ATTENTION = "llmcf_packed"
"""Name under which transformers knows `packed_attention`."""

_UNSUPPORTED = ("softcap", "position_bias", "s_aux")
_TOLERANCE = 2e-3  # of the logits' spread; samples that see each other differ by far more
_HINT = "set llm.tune.packing: none"


def use_packed_attention(network: Any) -> None:
    """Make a model attend within samples only, and check on the model itself that it does.

    Args:
        network: A causal language model of transformers, with or without adapters.

    Raises:
        ModelError: It cannot: its attention cannot be exchanged, or something else in it mixes neighbouring samples.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, packed_attention)
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    before = base.config._attn_implementation
    try:
        apart = _logits(network, [[_sample(0)], [_sample(1)]])
    except TypeError as error:  # its forward pass does not take the borders of samples
        raise ModelError(
            "the model does not accept sample boundaries", code="packing-unsupported", where="llm.tune", hint=_HINT
        ) from error
    base.set_attn_implementation(ATTENTION)
    if base.config._attn_implementation != ATTENTION:
        raise ModelError(
            "the model's attention cannot be confined to packed samples",
            code="packing-unsupported",
            where="llm.tune",
            hint=_HINT,
        )
    together = _logits(network, [[_sample(0), _sample(1)]])
    if (together - apart).abs().max() > _TOLERANCE * apart.std():
        base.set_attn_implementation(before)
        raise ModelError(
            "the model mixes samples packed together", code="packing-unsupported", where="llm.tune", hint=_HINT
        )


def packed_attention(
    module: nn.Module, query_1HTD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, attention_mask: None,
    dropout: float = 0.0, scaling: float | None = None, sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None, max_length_q: int = 0, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Causal attention of every sample of a packed row to itself, as transformers calls it.

    Args:
        module: The attention layer.
        query_1HTD: Queries of all samples, one after the other.
        key_1GTD: Keys.
        value_1GTD: Values.
        attention_mask: None; a row without padding needs none.
        dropout: Share of attention weights dropped.
        scaling: Of the scores; None: 1/√D.
        sliding_window: Most tokens back that a token sees; None: all.
        cu_seq_lens_q: Where samples start and end, [B + 1].
        max_length_q: L.
        **others: What some architectures add; those that change the scores are refused.

    Returns:
        The attended values [1, T, H, D], and None.
    """
    if sliding_window is not None and max_length_q > sliding_window:
        raise ModelError(f"a sample is longer than the model's attention window of {sliding_window} tokens",
                         code="sample-too-long", where="llm.tune",
                         hint=_HINT)  # fmt: skip
    found = [name for name in _UNSUPPORTED if others.get(name) is not None]
    if found:
        raise ModelError(
            f"packing does not support this model's attention ({found[0]})",
            code="packing-unsupported",
            where="llm.tune",
            hint=_HINT,
        )
    lengths = [query_1HTD.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist()
    attend = _attend_padded if query_1HTD.is_cuda else _attend_each
    out_1HTD = attend(query_1HTD, key_1GTD, value_1GTD, lengths, dropout=dropout, scale=scaling)
    return out_1HTD.transpose(1, 2).contiguous(), None


def _attend_each(query_1HTD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, lengths: list[int], *, dropout: float,
                 scale: float | None) -> Tensor:  # fmt: skip
    """Sample by sample, the fastest on a CPU."""
    pieces = zip(*(x.split(lengths, dim=2) for x in (query_1HTD, key_1GTD, value_1GTD)), strict=True)
    attend = partial(
        nn.functional.scaled_dot_product_attention, dropout_p=dropout, scale=scale, is_causal=True, enable_gqa=True
    )
    return torch.cat([attend(*piece) for piece in pieces], dim=2)


def _attend_padded(query_1HTD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, lengths: list[int], *, dropout: float,
                   scale: float | None) -> Tensor:  # fmt: skip
    """All samples in one call, padded on the right for it: a causal query never looks there, so nothing is masked."""
    width, total = max(lengths), query_1HTD.shape[2]
    starts_B = np.cumsum([0, *lengths[:-1]])
    index_BL = (starts_B[:, None] + np.arange(width)).clip(max=total - 1)
    real_T = np.flatnonzero(np.arange(width) < np.array(lengths)[:, None])
    rows = torch.from_numpy(index_BL.ravel()).to(query_1HTD.device, non_blocking=True)
    back = torch.from_numpy(real_T).to(query_1HTD.device, non_blocking=True)

    def pad(x_1HTD: Tensor) -> Tensor:
        x_BHLD: Tensor = x_1HTD[0].index_select(1, rows).unflatten(1, (len(lengths), width)).transpose(0, 1)
        return x_BHLD

    out_BHLD = nn.functional.scaled_dot_product_attention(
        pad(query_1HTD), pad(key_1GTD), pad(value_1GTD), dropout_p=dropout, scale=scale, is_causal=True,
        enable_gqa=True,
    )  # fmt: skip
    return out_BHLD.transpose(0, 1).flatten(1, 2).index_select(1, back)[None]


@torch.no_grad()
def _logits(network: Any, batches: list[list[dict[str, Any]]]) -> Tensor:
    """Next-token logits of the last token of every sample, float32."""
    collate, rows = Packed(keeps_logits=False), []
    training = network.training
    network.eval()
    for samples in batches:
        batch = collate([samples])
        batch.pop("labels")
        ends = batch["cu_seq_lens_q"][1:].long() - 1
        batch = {name: x.to(network.device) if isinstance(x, Tensor) else x for name, x in batch.items()}
        rows.append(network(**batch).logits[0][ends.to(network.device)].float())
    network.train(training)
    return torch.cat(rows)


def _sample(number: int) -> dict[str, Any]:
    """A few tokens that any vocabulary has."""
    return {"tokens": np.arange(3 + 7 * number, 12 + 9 * number), "prompt": 1}
