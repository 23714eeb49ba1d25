"""Ranking backbones against independent libraries: the same weights give the same logits and gradients.

The goldens hold what the peers computed (`make_goldens.py`); where a peer is installed, it is also asked live, with
other weights. `peers.py` says for each case where the library deviates from the paper and how that is taken out.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from llmcf_cli.plugin import registry
from llmcf_cli.rec.parts.embedding import FieldEmbeddings, FieldShape

HERE = Path(__file__).parent
MODULES = {"deepctr-torch": "deepctr_torch", "torch-rechub": "torch_rechub", "fuxictr": "fuxictr.pytorch.layers"}


def load_peers():
    spec = importlib.util.spec_from_file_location("parity_peers", HERE / "peers.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


PEERS = load_peers()


def build(golden):
    """Our backbone with the peer's weights, every one of them and no other."""
    component = registry().get("backbone", golden["backbone"]["type"])
    config = component.config().model_validate(golden["backbone"])
    model = component.load()(config, FieldShape(PEERS.F, PEERS.D, PEERS.L), 0).double()
    weights = golden["weights"].items()
    model.load_state_dict({name: double(value) for key, value in weights for name in key.split(" + ")})
    return model.train(golden["train"])


def embed(golden):
    """The inputs as leaves, and the embedded batch made of them."""
    inputs = golden["inputs"]
    leaves = {name: double(inputs[name]).requires_grad_() for name in PEERS.INPUTS if name in inputs}
    length_B = torch.tensor(inputs.get("history_length_B", [0] * PEERS.B))
    fields_BFD = leaves["fields_BFD"]
    history_BLD = leaves.get("history_BLD", fields_BFD.new_zeros(PEERS.B, PEERS.L, PEERS.D))
    mask_BL = torch.arange(PEERS.L) < length_B[:, None]
    target_BD = fields_BFD[:, inputs.get("target_field", 0)]
    return leaves, FieldEmbeddings(fields_BFD, target_BD, history_BLD, mask_BL, leaves.get("first_order_B"))


def check(golden):
    model, (leaves, fields) = build(golden), embed(golden)
    logits_B = model(fields, None)
    close(logits_B, golden["logits_B"], "logits")
    (logits_B * double(golden["direction_B"])).sum().backward()
    tensors = dict(model.named_parameters()) | leaves
    seen, flat = [], []
    for key, expected in golden["gradients"].items():
        names = key.split(" + ")
        seen += names
        flat += [key] if double(expected).abs().max() < 1e-3 else []
        close(sum(tensors[name].grad for name in names), expected, key)
    assert sorted(seen) == sorted(tensors)
    # Elsewhere a gradient of zero would be a case that compares nothing; a softmax does not see a shift.
    assert flat == (["unit.4.bias"] if golden["backbone"].get("attention") == "softmax" else [])


def double(values):
    return torch.tensor(values, dtype=torch.double)


def close(found, expected, what):
    torch.testing.assert_close(found, double(expected), rtol=1e-7, atol=1e-9, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("name", PEERS.CASES)
def test_the_peers_numbers_come_out(name):
    check(json.loads((HERE / "goldens" / f"{name}.json").read_text()))


@pytest.mark.parametrize("name", PEERS.CASES)
def test_the_live_peer_agrees(name):
    distribution, _ = PEERS.CASES[name]
    reason = f"{distribution} is not installed: see tests/parity/make_goldens.py"
    pytest.importorskip(MODULES[distribution], reason=reason, exc_type=ImportError)
    check(PEERS.golden(name, seed=7))


def test_every_built_in_backbone_has_a_peer_and_every_golden_a_case():
    goldens = {path.stem: json.loads(path.read_text()) for path in (HERE / "goldens").glob("*.json")}
    assert goldens.keys() == PEERS.CASES.keys()
    built_in = {"autoint", "dcn", "dcnv2", "deepfm", "din", "xdeepfm"}
    assert {golden["backbone"]["type"] for golden in goldens.values()} == built_in
    pinned = (HERE.parents[1] / "benchmarks" / "peers.txt").read_text().split()
    for golden in goldens.values():
        name, version = golden["peer"].split(",")[0].split()
        assert f"{name}=={version}" in pinned
