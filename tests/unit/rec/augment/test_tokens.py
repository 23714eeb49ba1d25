"""Tokens of examples: by hand, one row at a time, and from the same initial weights as ever."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmcf_cli.rec.augment.ict import ICTAugmenter
from llmcf_cli.rec.augment.tokens import ExampleTokens
from llmcf_cli.rec.config import DeepFMConfig, ICTConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.parts.layers import MLP, CausalDecoder


@pytest.fixture
def seen(world):
    """An augmenter's shape, and what it gets for rows with no example, with some, and with all."""
    model = RecModel(world.data.resources, DeepFMConfig(), ICTConfig(), seed=3)
    inputs = []
    model.augmenter.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    batch = world.data.batch("train", inputs=["examples"]).take(torch.tensor([0, 20, 60, 150, 250, 300]))
    model(batch)
    counts = inputs[0].inputs["examples"].mask_BK.sum(1)
    assert (counts.min(), counts.max()) == (0, 4)
    return model._augment_shape(), inputs[0]


def row_tokens(tokens, rows):
    return [
        tokens.row(
            torch.cat(
                [rows.fields.fields_BFD[n].flatten(), rows.inputs["text"].item_BT[n], rows.inputs["text"].history_BT[n]]
            )
        )
        for n in range(len(rows.inputs["text"].item_BT))
    ]


@pytest.mark.parametrize("kinds", [("row", "cot", "label"), ("row", "label"), ("label",)])
def test_tokens_are_those_made_one_by_one(seen, kinds):
    shape, x = seen
    tokens = ExampleTokens(ICTConfig(tokens=kinds), shape)
    found_BSD, mask_BS, query_BD = tokens(x)
    torch.testing.assert_close(query_BD, torch.stack(row_tokens(tokens, x.query)), rtol=1e-5, atol=1e-6)
    rows = row_tokens(tokens, x.inputs["examples"].rows)
    for b, places in enumerate(x.inputs["examples"].slot_BK.tolist()):
        expected = []
        for slot in places:
            made = {
                "row": lambda slot: rows[slot],
                "cot": lambda slot: tokens.cot(x.inputs["examples"].cot_UT[slot]),
                "label": lambda slot: tokens.label.weight[x.inputs["examples"].label_U[slot]],
            }
            expected += [made[kind](slot) for kind in kinds]
        torch.testing.assert_close(found_BSD[b], torch.stack(expected), rtol=1e-5, atol=1e-6)
        exists = [bool(m) for m in x.inputs["examples"].mask_BK[b] for _ in range(len(tokens.kinds))]
        assert mask_BS[b].tolist() == exists


def test_the_transformers_parts_draw_their_weights_in_a_fixed_order(seen):
    """Published results depend on it: rows, chains of thought, labels, decoder."""
    shape, _ = seen
    width = shape.fields.num_fields * shape.fields.embedding_dim + 2 * shape.size("text")
    torch.manual_seed(5)
    drawn = [
        MLP(width, (64,), 32),
        MLP(shape.size("cot"), (64,), 32),
        nn.Embedding(2, 32),
        CausalDecoder(2, 2, 32, 0.0, 13),
    ]
    torch.manual_seed(5)
    built = list(ICTAugmenter(ICTConfig(), shape).parameters())
    expected = [parameter for part in drawn for parameter in part.parameters()]
    assert len(built) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(built, expected, strict=True))
