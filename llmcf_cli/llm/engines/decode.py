"""Decoding a batch with a key-value cache of slots, for models of full attention with rotary positions.

Legend: N rows that still write, T tokens of their answers so far, S tokens of a forward pass, H key-value heads,
W positions, D dimension of a head, V vocabulary.

What `generate` pays for and this does not: a row starts from the longest beginning it shares with the row before it in
lexical order (chat header, instructions, the same user's history; all of it for several samples of a prompt); rows keep
their own positions, so there is no padding to read; a row that has ended leaves at once, the last one moves into
its slot; keys and values stay where they are instead of being copied at each step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer


class Pick(Protocol):
    """Turns logits so that their argmax is the next token."""

    def __call__(self, answer_NT: Tensor, logits_NV: Tensor, /) -> Tensor:
        """Logits [N, V] given the answers so far [N, T]."""

    def keep(self, rows_N: Tensor) -> None:
        """The batch goes on with these of its rows, in this order."""


def suits(model: Any) -> bool:
    """Whether `decode` computes what `model.generate` does: full attention in all layers, rotary positions."""
    config = model.config.get_text_config(decoder=True)
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
    return plain and bool(getattr(config, "rope_parameters", None)) and model._supports_attention_backend


@torch.inference_mode()
def decode(
    model: Any, prompts: Sequence[Sequence[int]], *, most: int, ends: Collection[int], picks: Sequence[Pick] = ()
) -> list[list[int]]:
    """The tokens that follow each prompt, up to and with an end token.

    Args:
        model: Causal language model for which `suits` holds.
        prompts: Token ids; none empty.
        most: Most new tokens.
        ends: Tokens that end an answer.
        picks: Applied to the logits in turn; none: greedy.
    """
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    cache = SlotCache(model.config, len(prompts), max(map(len, prompts)) + most)
    _read(model, [prompts[i] for i in order], cache)
    rows_N = torch.tensor(order, device=model.device)  # slot → prompt
    for pick in picks:
        pick.keep(rows_N)
    position_N = torch.tensor([len(prompts[i]) - 1 for i in order], device=model.device)
    last_N1 = torch.tensor([[prompts[i][-1]] for i in order], device=model.device)
    ends_E = torch.tensor(sorted(ends), dtype=torch.int64, device=model.device)
    answer_NT = last_N1[:, :0]
    answers: list[list[int]] = [[] for _ in prompts]
    for step in range(most):
        logits_NV = _forward(model, cache, last_N1, position_N[:, None], slice(0, len(rows_N)))[:, -1]
        for pick in picks:
            logits_NV = pick(answer_NT, logits_NV)
        last_N1 = logits_NV.argmax(1, keepdim=True)
        answer_NT = torch.cat([answer_NT, last_N1], 1)
        position_N = position_N + 1
        going_N = ~torch.isin(last_N1[:, 0], ends_E) if step + 1 < most else torch.zeros_like(rows_N, dtype=torch.bool)
        if bool(going_N.all()):
            continue
        for row, tokens in zip(rows_N[~going_N].tolist(), answer_NT[~going_N].tolist(), strict=True):
            answers[row] = tokens
        kept_N = cache.release(going_N)
        if not len(kept_N):
            break
        rows_N, position_N, last_N1, answer_NT = (t[kept_N] for t in (rows_N, position_N, last_N1, answer_NT))
        for pick in picks:
            pick.keep(kept_N)
    return answers


def _read(model: Any, prompts: Sequence[Sequence[int]], cache: SlotCache) -> None:
    """Fill a slot with each prompt but its last token, which the first step reads."""
    for slot, prompt in enumerate(prompts):
        before = prompts[slot - 1][:-1] if slot else ()
        shared = next((i for i, (a, b) in enumerate(zip(before, prompt, strict=False)) if a != b), len(before))
        start = min(shared, len(prompt) - 1)
        cache.copy(slot - 1, slot, start)
        if start < len(prompt) - 1:
            ids_1S = torch.tensor([list(prompt[start:-1])], device=model.device)
            position_1S = torch.arange(start, len(prompt) - 1, device=model.device)[None]
            _forward(model, cache, ids_1S, position_1S, slice(slot, slot + 1))


def _forward(model: Any, cache: SlotCache, ids_NS: Tensor, position_NS: Tensor, slots: slice) -> Tensor:
    """Logits [N, 1, V] of the last tokens; keys and values go into the slots at the tokens' positions."""
    width = int(position_NS.max()) + 1
    cache.write_at(slots, position_NS, width)
    seen_N1SW = (torch.arange(width, device=ids_NS.device) <= position_NS[:, :, None])[:, None]
    logits_N1V: Tensor = model(
        input_ids=ids_NS, attention_mask=seen_N1SW, position_ids=position_NS, past_key_values=cache, use_cache=True,
        logits_to_keep=1,
    ).logits  # fmt: skip
    return logits_N1V


class SlotCache(Cache):
    """Keys and values of rows that each have their own length, in one place per layer.

    Args:
        config: The model's.
        slots: Rows.
        width: Most positions of a row.
    """

    def __init__(self, config: Any, slots: int, width: int) -> None:
        count = len(DynamicCache(config=config).layers)
        super().__init__(layers=[_SlotLayer(slots, width) for _ in range(count)])

    def write_at(self, slots: slice, position_NS: Tensor, width: int) -> None:
        """What the next forward pass writes goes to these slots and positions; it sees the first `width` positions."""
        for layer in self.layers:
            layer.target = slots, position_NS, width

    def copy(self, source: int, slot: int, length: int) -> None:
        """Copy the first `length` positions of a slot to another."""
        for layer in self.layers if length else ():
            layer.keys[slot, :, :length] = layer.keys[source, :, :length]
            layer.values[slot, :, :length] = layer.values[source, :, :length]

    def release(self, going_N: Tensor) -> Tensor:
        """Free the slots of the rows that have ended; the last rows move into them.

        Returns:
            The row that each slot now holds, int64.
        """
        going = going_N.tolist()
        count = sum(going)
        holds = list(range(count))
        movers = [row for row in range(count, len(going)) if going[row]]
        for slot in range(count):
            if not going[slot]:
                holds[slot] = movers.pop()
                self.copy(holds[slot], slot, self.layers[0].target[2])
        return torch.tensor(holds, dtype=torch.int64, device=going_N.device)


class _SlotLayer(CacheLayerMixin):
    """One layer of a `SlotCache`: keys and values [slots, H, W, D]."""

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        self._slots, self._width = slots, width
        self.target: tuple[slice, Tensor, int]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        # Zeros: what is not written yet is masked, but 0 · NaN would not be 0.
        for name, states in (("keys", key_states), ("values", value_states)):
            setattr(self, name, states.new_zeros(self._slots, states.shape[1], self._width, states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        slots, position_NS, width = self.target
        row_N1 = torch.arange(len(position_NS), device=position_NS.device)[:, None]
        for held, states in ((self.keys, key_states), (self.values, value_states)):
            held[slots][row_N1, :, position_NS] = states.transpose(1, 2)
        return self.keys[slots, :, :width], self.values[slots, :, :width]

    def get_seq_length(self) -> int:
        return 0  # positions are passed to the model

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.target[2], 0

    def get_max_length(self) -> int:
        return self._width
