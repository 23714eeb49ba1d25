"""Backbones against implementations of their own, weights copied, and what every one must do."""

from __future__ import annotations

import itertools

import pytest
import retrieval_world
import torch
from torch import nn

from llmcf_cli.plugin import registry
from llmcf_cli.rec.retrieval.base import SEQUENCE_BACKBONE
from llmcf_cli.rec.retrieval.config import RetrievalConfig
from llmcf_cli.recipe.component import names_for

LENGTH, DIM = 7, 12
NAMES = names_for("backbone", RetrievalConfig())


def build(name, **settings):
    torch.manual_seed(3)
    config = retrieval_world.default("backbone", name, embedding_dim=DIM, **settings)
    made = registry().build(SEQUENCE_BACKBONE, config, LENGTH).double()
    for parameter in made.parameters():  # away from zeros and ones
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def histories(*lengths):
    """Item vectors with padding that is no zeros, and item rows, no item twice."""
    mask = torch.tensor([[column >= LENGTH - length for column in range(LENGTH)] for length in lengths])
    items = (torch.arange(len(lengths))[:, None] * LENGTH + torch.randperm(LENGTH) + 1) * mask
    return torch.randn(len(lengths), LENGTH, DIM, dtype=torch.float64), items


def same(found, expected, own, other, events, items):
    """Values where there is an event, and the gradients of a weighted sum of them with regard to inputs and weights."""
    mask = items > 0
    torch.testing.assert_close(found[mask], expected[mask])
    weight = torch.randn(found[mask].shape, dtype=found.dtype)
    inputs = [events, *own]
    first = torch.autograd.grad((found[mask] * weight).sum(), inputs, retain_graph=True)
    second = torch.autograd.grad((expected[mask] * weight).sum(), [events, *other])
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 3)])
def test_sasrec_is_torchs_own_encoder(layers, heads):
    model = build("sasrec", layers=layers, heads=heads).eval()
    peers = nn.ModuleList(
        nn.TransformerEncoderLayer(DIM, heads, DIM, 0.0, "relu", batch_first=True, norm_first=True)
        for _ in range(layers)
    ).double().train()  # in training mode, as its fast path has no gradient; there is no dropout  # fmt: skip
    own, other = [], []
    for block, peer in zip(model.blocks, peers, strict=True):
        pairs = [
            (block.attention_norm.weight, peer.norm1.weight), (block.attention_norm.bias, peer.norm1.bias),
            (block.qkv.weight, peer.self_attn.in_proj_weight), (block.qkv.bias, peer.self_attn.in_proj_bias),
            (block.out.weight, peer.self_attn.out_proj.weight), (block.out.bias, peer.self_attn.out_proj.bias),
            (block.ffn_norm.weight, peer.norm2.weight), (block.ffn_norm.bias, peer.norm2.bias),
            (block.ffn[0].weight, peer.linear1.weight), (block.ffn[0].bias, peer.linear1.bias),
            (block.ffn[-1].weight, peer.linear2.weight), (block.ffn[-1].bias, peer.linear2.bias),
        ]  # fmt: skip
        for mine, theirs in pairs:
            theirs.data.copy_(mine.data)
        own += [mine for mine, _ in pairs]
        other += [theirs for _, theirs in pairs]
    # Without padding torch's layer takes the causal mask alone; with padding, a row of its own length.
    for length in (LENGTH, 4, 1):
        events, items = histories(length)
        events.requires_grad_()
        found = model(events, items)
        x = events[:, LENGTH - length :] * DIM**0.5 + model.place_LD[LENGTH - length :]
        causal = nn.Transformer.generate_square_subsequent_mask(length, dtype=torch.float64)
        for peer in peers:
            x = peer(x, src_mask=causal)
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + model.norm.eps).sqrt()
        expected = scaled * model.norm.weight + model.norm.bias
        whole = torch.cat([torch.zeros(1, LENGTH - length, DIM, dtype=torch.float64), expected], 1)
        same(found, whole, own, other, events, items)


def test_gru4rec_is_the_recurrence_of_the_paper():
    model = build("gru4rec", hidden=9).eval()
    gru = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.gru.named_parameters()}
    out_weight, out_bias = (p.detach().clone().requires_grad_() for p in (model.out.weight, model.out.bias))
    for length in (LENGTH, 3, 1):
        events, items = histories(length)
        events.requires_grad_()
        found = model(events, items)
        state, steps = torch.zeros(1, 9, dtype=torch.float64), []
        for event in events[:, LENGTH - length :].unbind(1):
            wr, wz, wn = (event @ gru["weight_ih_l0"].T + gru["bias_ih_l0"]).chunk(3, 1)
            ur, uz, un = (state @ gru["weight_hh_l0"].T + gru["bias_hh_l0"]).chunk(3, 1)
            reset, update = (wr + ur).sigmoid(), (wz + uz).sigmoid()
            candidate = (wn + reset * un).tanh()
            state = (1 - update) * candidate + update * state
            steps.append(state @ out_weight.T + out_bias)
        empty = torch.zeros(1, LENGTH - length, DIM, dtype=torch.float64)
        expected = torch.cat([empty, torch.stack(steps, 1)], 1)
        own = [*model.gru.parameters(), model.out.weight, model.out.bias]
        same(found, expected, own, [*gru.values(), out_weight, out_bias], events, items)


def test_youtubednn_is_a_network_over_the_mean():
    model = build("youtubednn", hidden=(8, 6)).eval()
    linear = [layer for layer in model.mlp if isinstance(layer, nn.Linear)]
    copies = [(layer.weight.detach().clone().requires_grad_(), layer.bias.detach().clone().requires_grad_())
              for layer in linear]  # fmt: skip
    for length in (LENGTH, 2):
        events, items = histories(length)
        events.requires_grad_()
        found, rows = model(events, items), []
        for column in range(LENGTH):
            x = events[:, LENGTH - length : column + 1].mean(1) if items[0, column] else events[:, 0] * 0
            for number, (weight, bias) in enumerate(copies):
                x = x @ weight.T + bias
                x = x.clamp_min(0) if number < len(copies) - 1 else x
            rows.append(x)
        own = [part for layer in linear for part in (layer.weight, layer.bias)]
        same(found, torch.stack(rows, 1), own, [part for pair in copies for part in pair], events, items)


def of_session(model, weights, events, items):
    """SR-GNN's user vector by the equations of the paper, node by node, in the letters of the authors' code."""
    nodes = list(dict.fromkeys(items))
    state = {node: events[items.index(node)] for node in nodes}
    edges = set(itertools.pairwise(items))
    for _ in range(model.steps):
        after = {}
        for node in nodes:
            before_it, after_it = [u for u, v in edges if v == node], [v for u, v in edges if u == node]
            taken = []
            for name, others in (("incoming", before_it), ("outgoing", after_it)):
                said = [state[one] @ weights[f"{name}.weight"].T + weights[f"{name}.bias"] for one in others]
                taken.append(sum(said) / len(said) if said else torch.zeros(DIM, dtype=torch.float64))
            x = torch.cat(taken) + weights["bias_X"]
            ir, iz, i_n = (x @ weights["cell.weight_ih"].T + weights["cell.bias_ih"]).chunk(3)
            hr, hz, hn = (state[node] @ weights["cell.weight_hh"].T + weights["cell.bias_hh"]).chunk(3)
            new = torch.tanh(i_n + torch.sigmoid(ir + hr) * hn)
            after[node] = new + torch.sigmoid(iz + hz) * (state[node] - new)
        state = after
    last = state[items[-1]]
    whole = torch.zeros(DIM, dtype=torch.float64)
    for item in items:
        q = last @ weights["last.weight"].T + state[item] @ weights["other.weight"].T + weights["other.bias"]
        whole = whole + (torch.sigmoid(q) @ weights["weigh.weight"].T) * state[item]
    return torch.cat([whole, last]) @ weights["out.weight"].T + weights["out.bias"]


@pytest.mark.parametrize("steps", [1, 2])
def test_srgnn_is_the_graph_network_of_the_paper(steps):
    model = build("srgnn", steps=steps).eval()
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    items = torch.tensor([[0, 0, 3, 5, 3, 5, 8], [4, 4, 2, 4, 9, 2, 4], [0, 0, 0, 0, 0, 0, 7], [0] * 7])
    table = torch.randn(10, DIM, dtype=torch.float64)  # an item has one vector
    events = table[items].requires_grad_()
    found, expected = model(events, items), torch.zeros(*items.shape, DIM, dtype=torch.float64)
    for row, column in (items > 0).nonzero().tolist():
        start = int((items[row] == 0).sum())
        part = slice(start, column + 1)
        expected[row, column] = of_session(model, weights, events[row, part], items[row, part].tolist())
    same(found, expected, list(model.parameters()), list(weights.values()), events, items)


@pytest.mark.parametrize("name", NAMES)
class TestEveryBackbone:
    def test_later_events_change_no_earlier_vector(self, name):
        model = build(name).eval()
        events, items = histories(LENGTH, 4)
        before, mask = model(events, items), items > 0
        for column in range(1, LENGTH):
            changed = events.clone()
            changed[:, column:] += torch.randn_like(changed[:, column:])
            after = model(changed, items)
            torch.testing.assert_close(after[:, :column][mask[:, :column]], before[:, :column][mask[:, :column]])
            assert not torch.allclose(after[0, column:], before[0, column:])

    def test_padding_changes_nothing_and_rows_are_alone(self, name):
        model = build(name).eval()
        events, items = histories(LENGTH, 4, 1, 0)
        found, mask = model(events, items), items > 0
        assert torch.isfinite(found).all()
        padded = events.where(mask[..., None], 100 * torch.randn_like(events))
        torch.testing.assert_close(model(padded, items)[mask], found[mask])
        torch.testing.assert_close(model(events.flip(0), items.flip(0)).flip(0), found)

    def test_every_event_counts(self, name):
        model = build(name).eval()
        events, items = histories(LENGTH)
        events.requires_grad_()
        model(events, items)[0, -1].sum().backward()
        assert (events.grad[0].abs().sum(1) > 0).all()
