"""DIN against its equations, written as loops."""

from __future__ import annotations

import pytest
import torch

from llmcf_cli.rec.config import DINConfig
from llmcf_cli.rec.parts.embedding import FieldEmbeddings
from llmcf_cli.rec.ranking.din import DIN


def interest(model, loops, fields, b):
    """Eq. 3 over the positions that hold an item."""
    mask, target = fields.history_mask_BL[b].tolist(), fields.target_BD[b].tolist()
    events = [e for e, present in zip(fields.history_BLD[b].tolist(), mask, strict=True) if present]
    weights = []
    for event in events:
        pairs = list(zip(event, target, strict=True))
        unit = event + target + [e - v for e, v in pairs] + [e * v for e, v in pairs]
        weights.append(loops.mlp(model.unit, unit)[0])
    if model.normalise:
        weights = loops.softmax(weights)
    return [sum(w * e[d] for w, e in zip(weights, events, strict=True)) for d in range(len(target))]


@pytest.mark.parametrize("attention", ["sum", "softmax"])
@pytest.mark.parametrize("activation", ["dice", "prelu"])
def test_the_target_attends_over_the_history(build, loops, fields, context, attention, activation):
    config = DINConfig(hidden=(7, 5), attention_hidden=(4, 3), attention=attention, activation=activation)
    model = build(DIN, config, context)

    def reference(b):
        # The attended history takes the place of the last field.
        others = loops.flat(fields.fields_BFD[b, :-1].tolist())
        extra = [] if context is None else context[b].tolist()
        return loops.mlp(model.mlp, others + interest(model, loops, fields, b) + extra)[0]

    loops.check(model, fields, context, reference)


def test_padding_does_not_enter_dices_statistics(build, loops, fields):
    """A longer padding changes nothing, in training as in evaluation."""
    model = build(DIN, DINConfig(hidden=(7,), attention_hidden=(4,))).train()
    short = loops.take(fields, [1, 3, 4])
    longer = FieldEmbeddings(
        short.fields_BFD, short.target_BD, torch.cat([short.history_BLD, short.history_BLD], 1),
        torch.cat([torch.zeros_like(short.history_mask_BL), short.history_mask_BL], 1),
    )  # fmt: skip
    torch.testing.assert_close(model(longer, None), model(short, None))


def test_it_survives_a_batch_without_history_and_a_single_row(build, loops, fields):
    model = build(DIN, DINConfig()).train()
    empty = FieldEmbeddings(
        fields.fields_BFD, fields.target_BD, fields.history_BLD * 0, torch.zeros_like(fields.history_mask_BL)
    )
    logits = model(empty, None)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    # Every parameter takes part, as training over several processes requires.
    assert all(p.grad is not None for p in model.parameters())
    assert torch.isfinite(model(loops.take(fields, slice(1)), None)).all()
