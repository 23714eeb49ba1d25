"""The fused table against one lookup per field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from llmcf_cli.rec.parts.embedding import FieldEmbedding

KINDS = ("categorical", "numeric", "multi")
"""In the order of a backbone's fields."""


@pytest.fixture
def embedding(world):
    torch.manual_seed(0)
    module = FieldEmbedding(world.data.resources.spec, world.data.resources.catalog, 4, {"first_order"})
    with torch.no_grad():
        module.table_VD[1:] = torch.randn_like(module.table_VD[1:])
        module.weight_V1[1:] = torch.randn_like(module.weight_V1[1:])
    return module


def lookup(module, field, ids):
    """Mean of a field's embeddings and of its weights, by its own ids."""
    offset, at = 1, list(module.spec.fields).index(field)
    offset += sum(f.size - 1 for f in module.spec.fields[:at])
    known = [int(i) + offset - 1 for i in ids if i > 0]
    if not known:
        return torch.zeros(4), torch.zeros(())
    return module.table_VD[known].mean(0), module.weight_V1[known].mean()


def test_fields_history_and_first_order(world, embedding):
    resources, split = world.data.resources, world.data.splits["test"]
    batch = world.data.batch("test")
    found = embedding(batch.user_row_B, batch.item_row_B, batch.history_row_BL)
    fields = [f for kind in KINDS for e in ("user", "item") for f in resources.spec.of(e, kind)]
    item_id = next(f for f in fields if f.name == "item_id")
    for n in (0, 5, 17, 20):
        vectors, weights = [], []
        for field in fields:
            table = resources.catalog.users if field.entity == "user" else resources.catalog.items
            row = (split.user_row_N if field.entity == "user" else split.item_row_N)[n]
            value, times = table.columns[field.name][row].reshape(-1), 1.0
            if field.kind == "numeric":  # id 1: a missing number, id 2: what the number is multiplied with
                value, times = ([1], 1.0) if np.isnan(value[0]) else ([2], float(value[0]))
            vector, weight = lookup(embedding, field, value)
            vectors.append(vector * times)
            weights.append(weight * times)
        history = [resources.catalog.items.columns["item_id"][r] for r in split.history_row_NL[n] if r]
        vector, weight = lookup(embedding, item_id, history)
        torch.testing.assert_close(found.fields_BFD[n], torch.stack([*vectors, vector]))
        torch.testing.assert_close(found.first_order_B[n], sum(weights) + weight + embedding.bias)
        assert found.history_mask_BL[n].sum() == len(history)
    assert torch.equal(found.target_BD, found.fields_BFD[:, [f.name for f in fields].index("item_id")])


def test_unknown_entities_and_padding_are_neutral(world):
    resources = world.data.resources
    module = FieldEmbedding(resources.spec, resources.catalog, 4, {"first_order"})
    zero = torch.zeros(1, dtype=torch.int64)
    found = module(zero, zero, torch.zeros(1, 5, dtype=torch.int64))
    neutral = [f.edges is None for kind in KINDS for e in ("user", "item") for f in resources.spec.of(e, kind)]
    assert not found.fields_BFD[:, [*neutral, True]].any()  # a missing number in buckets is a value like any other
    assert not found.history_mask_BL.any()


def test_numbers_and_missing_numbers_learn(world, embedding):
    batch = world.data.batch("train")
    embedding(batch.user_row_B, batch.item_row_B, batch.history_row_BL).fields_BFD.sum().backward()
    offset = 1
    for field in embedding.spec.fields:
        if field.kind == "numeric":
            grad = embedding.table_VD.grad[offset : offset + 2]  # missing, number
            assert grad[0].any()
            assert grad[1].any()
        offset += field.size - 1


def test_padding_never_learns(world, embedding):
    batch = world.data.batch("train")
    found = embedding(batch.user_row_B, batch.item_row_B, batch.history_row_BL)
    (found.fields_BFD.sum() + found.history_BLD.sum()).backward()
    assert not embedding.table_VD.grad[0].any()
    assert embedding.table_VD.grad[1:].any()


def test_there_may_be_no_field_with_several_values(world):
    resources = world.data.resources
    spec = replace(resources.spec, fields=tuple(f for f in resources.spec.fields if f.kind == "categorical"))
    module = FieldEmbedding(spec, resources.catalog, 4, {"first_order"})
    batch = world.data.batch("test")
    found = module(batch.user_row_B, batch.item_row_B, batch.history_row_BL)
    assert found.fields_BFD.shape == (len(batch), len(spec.fields) + 1, 4)


def test_padding_gets_no_gradient(world, embedding):
    batch = world.data.batch("train")
    assert (batch.history_row_BL == 0).any()
    embedding(batch.user_row_B, batch.item_row_B, batch.history_row_BL).fields_BFD.sum().backward()
    assert not embedding.table_VD.grad[0].any()
    assert embedding.table_VD.grad[1:].any()
