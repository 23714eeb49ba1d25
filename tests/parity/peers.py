"""The same backbones in independent libraries, with a map from their weights to ours.

A case builds the peer's own model (or its layers, where the model is no part of the package), gives it random weights,
and names each of them as llmcf does. Row b of the batch has the id b in every field, so the peer's embedding tables are
the batch's embedded fields. Everything is in double precision. Only torch and the peers are imported here, so that this
also runs where llmcf is not installed.

Legend: B batch, F fields, D embedding, L history.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

B, F, D, L = 5, 3, 4, 3
HIDDEN = (5, 4)

Read = Callable[[Tensor], Tensor]
"""Value or gradient of a peer's tensor."""


@dataclass
class Case:
    """A peer's model and what its tensors are called here.

    Attributes:
        backbone: Settings of ours that make the same model.
        logits: Runs the peer: logits [B].
        tensors: Our names of inputs and parameters → values or gradients, whichever is read. A name `a + b` means that
            the peer has one tensor where we have two: both take its value, and their gradients add up to its gradient.
        buffers: Our names → batch statistics.
        extra: Inputs without a gradient.
        train: Whether batch statistics are the batch's.
    """

    backbone: Mapping[str, Any]
    logits: Callable[[], Tensor]
    tensors: Callable[[Read], dict[str, Tensor]]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    train: bool = False


INPUTS = ("fields_BFD", "first_order_B", "history_BLD")


def golden(name: str, seed: int) -> dict[str, Any]:
    """Inputs, weights, logits and gradients of a case as JSON data. Needs the peer."""
    distribution, make = CASES[name]
    torch.manual_seed(seed)
    case = make()
    direction_B = rounded(torch.randn(B))
    logits_B = case.logits()
    (logits_B * direction_B).sum().backward()
    values, gradients = case.tensors(lambda t: t.detach()), case.tensors(lambda t: t.grad)
    weights = {key: value for key, value in values.items() if key not in INPUTS} | dict(case.buffers)
    return {
        "peer": f"{distribution} {importlib.metadata.version(distribution)}, torch {torch.__version__.split('+')[0]}",
        "backbone": dict(case.backbone),
        "train": case.train,
        "inputs": {key: value.tolist() for key, value in values.items() if key in INPUTS} | dict(case.extra),
        "weights": {key: value.tolist() for key, value in weights.items()},
        "direction_B": direction_B.tolist(),
        "logits_B": significant(logits_B.tolist()),
        "gradients": {key: significant(value.tolist()) for key, value in gradients.items()},
    }


def deepfm() -> Case:
    """DeepCTR-Torch's model; its bias stands behind the sum, ours in the MLP's last layer."""
    from deepctr_torch.models import DeepFM

    peer = DeepFM(columns()[:1], columns(), dnn_hidden_units=HIDDEN, task="regression")
    return deepctr(peer, {"type": "deepfm", "hidden": HIDDEN}, lambda read: linear_deep(peer, read))


def xdeepfm() -> Case:
    """DeepCTR-Torch's model without what the paper does not have.

    By default its CIN has a ReLU and passes only half of a layer's maps on. Its biases, always there, are set to 0.
    """
    from deepctr_torch.models import xDeepFM

    peer = xDeepFM(
        columns()[:1], columns(), dnn_hidden_units=HIDDEN, cin_layer_size=(4, 3, 2), cin_split_half=False,
        cin_activation="linear", task="regression",
    )  # fmt: skip

    def tensors(read: Read) -> dict[str, Tensor]:
        maps = {f"cin.layers.{n}.weight": read(conv.weight)[..., 0] for n, conv in enumerate(peer.cin.conv1ds)}
        return linear_deep(peer, read) | maps | {"cin_weight.weight": read(peer.cin_linear.weight)}

    case = deepctr(peer, {"type": "xdeepfm", "hidden": HIDDEN, "cin_maps": (4, 3, 2)}, tensors)
    for conv in peer.cin.conv1ds:
        conv.bias.data.zero_()
    return case


def autoint(hidden: tuple[int, ...]) -> Case:
    """DeepCTR-Torch's model without its linear term, which the paper does not have."""
    from deepctr_torch.models import AutoInt

    peer = AutoInt([], columns(), att_layer_num=2, att_head_num=2, dnn_hidden_units=hidden, task="regression")

    def tensors(read: Read) -> dict[str, Tensor]:
        layers = {
            f"layers.{n}.project.weight": torch.cat(
                [read(part).T for part in (layer.W_Query, layer.W_key, layer.W_Value, layer.W_Res)]
            )
            for n, layer in enumerate(peer.int_layers)
        }
        if hidden:
            return layers | beside(peer, read)
        return layers | {"out.linear.weight": read(peer.dnn_linear.weight), "out.linear.bias": read(peer.out.bias)}

    settings = {"type": "autoint", "hidden": hidden, "layers": 2, "heads": 2, "head_dim": D // 2}
    return deepctr(peer, settings, tensors)


def dcn() -> Case:
    """DeepCTR-Torch's model without its linear term, which the paper does not have."""
    from deepctr_torch.models import DCN

    peer = DCN([], columns(), cross_num=3, dnn_hidden_units=HIDDEN, task="regression")

    def tensors(read: Read) -> dict[str, Tensor]:
        cross = {
            "cross.weight_LX": read(peer.crossnet.kernels)[..., 0], "cross.bias_LX": read(peer.crossnet.bias)[..., 0]
        }  # fmt: skip
        return cross | beside(peer, read)

    return deepctr(peer, {"type": "dcn", "hidden": HIDDEN, "cross_layers": 3}, tensors)


DCNV2 = {"type": "dcnv2", "hidden": HIDDEN, "cross_layers": 2, "experts": 3, "rank": 2}


def dcnv2_parallel() -> Case:
    """DeepCTR-Torch's model without its linear term; all its cross layers share one gate."""
    from deepctr_torch.models import DCNMix

    peer = DCNMix([], columns(), cross_num=2, dnn_hidden_units=HIDDEN, low_rank=2, num_experts=3, task="regression")
    net = peer.crossnet

    def tensors(read: Read) -> dict[str, Tensor]:
        lists = (read(stack) for stack in (net.V_list, net.C_list, net.U_list, net.bias))
        return experts(zip(*lists, strict=True), net.gating, read) | beside(peer, read)

    return deepctr(peer, DCNV2, tensors)


def dcnv2_stacked() -> Case:
    """Torch-RecHub's model; all its cross layers share one gate.

    Its MLP normalises batches. With mean 0 and variance 1 − ε, in evaluation, that layer is the identity.
    """
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.models.ranking import DCNv2

    features = [SparseFeature(f"f{n}", B, D) for n in range(F)]
    mlp = {"dims": list(HIDDEN)}
    peer = DCNv2(features, 2, mlp, model_structure="stacked", low_rank=2, num_experts=3).double().eval()
    randomise(peer)
    for layer in peer.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.weight.data.fill_(1)
            layer.bias.data.zero_()
            layer.running_var.fill_(1 - layer.eps)
    net, linears = peer.crossnet, [layer for layer in peer.stacked_dnn.mlp if isinstance(layer, nn.Linear)]

    def logits() -> Tensor:
        return torch.logit(peer({f"f{n}": torch.arange(B) for n in range(F)}))  # it returns probabilities

    def tensors(read: Read) -> dict[str, Tensor]:
        lists = ([read(one) for one in stack] for stack in (net.v_list, net.c_list, net.u_list, net.bias))
        out = mlp_tensors("out.mlp", linears, read) | {
            "out.mlp.4.weight": read(peer.linear.fc.weight), "out.mlp.4.bias": read(peer.linear.fc.bias)
        }  # fmt: skip
        fields_BFD = torch.stack([read(peer.embedding.embed_dict[f"f{n}"].weight) for n in range(F)], 1)
        return experts(zip(*lists, strict=True), net.gating, read) | out | {"fields_BFD": fields_BFD}

    return Case(DCNV2 | {"structure": "stacked"}, logits, tensors)


def din(activation: str, train: bool) -> Case:
    """DeepCTR-Torch's model.

    Its Dice has a scale and a shift, set to 1 and 0. In training its attention lets padding into Dice's statistics,
    ours does not: the training case has full histories. Evaluation has partial ones, an empty one among them.
    """
    from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
    from deepctr_torch.layers.activation import Dice
    from deepctr_torch.models import DIN

    history = VarLenSparseFeat(SparseFeat("hist_f1", B * L, D), L, length_name="length")
    peer = DIN(
        [*columns()[:-1], history], ["f1"], dnn_hidden_units=HIDDEN, att_hidden_size=HIDDEN, dnn_activation="prelu",
        att_activation=activation, task="regression",
    )  # fmt: skip
    if activation == "dice":  # as an option for the MLP it expects sequences
        peer.dnn.activation_layers = nn.ModuleList(Dice(size) for size in HIDDEN)
    length_B = torch.full((B,), L) if train else torch.tensor([3, 1, 0, 2, 3])
    ids_BX = torch.cat(
        [torch.arange(B)[:, None].expand(-1, F - 1), torch.arange(B * L).view(B, L), length_B[:, None]], 1
    )
    unit, dense = peer.attention.local_att.dnn, peer.attention.local_att.dense

    def tensors(read: Read) -> dict[str, Tensor]:
        out = mlp_tensors("unit", unit.linears, read, unit.activation_layers)
        out |= mlp_tensors("mlp", peer.dnn.linears, read, peer.dnn.activation_layers)
        return out | {
            "unit.0.weight": unit_input(out["unit.0.weight"]),
            "unit.4.weight": read(dense.weight), "unit.4.bias": read(dense.bias),
            "mlp.4.weight": read(peer.dnn_linear.weight), "mlp.4.bias": read(peer.out.bias),
            "history_BLD": read(peer.embedding_dict["hist_f1"].weight).view(B, L, D),
        }  # fmt: skip

    settings = {"type": "din", "hidden": HIDDEN, "attention_hidden": HIDDEN, "activation": activation}
    case = deepctr(peer, settings, tensors, ids_BX)
    case.train, case.extra = train, {"target_field": 1, "history_length_B": length_B.tolist()}
    norms = {"unit": unit.activation_layers, "mlp": peer.dnn.activation_layers} if activation == "dice" else {}
    case.buffers = statistics({prefix: [dice.bn for dice in layers] for prefix, layers in norms.items()})
    peer.train(train)
    return case


def din_softmax() -> Case:
    """FuxiCTR's attention and MLP; its Dice has ε = 1e-9. An empty history attends to padding there: none is empty."""
    from fuxictr.pytorch.layers import DIN_Attention, MLP_Block

    attention = DIN_Attention(D, list(HIDDEN), "dice", use_softmax=True)
    mlp = MLP_Block((F - 1) * D + D, list(HIDDEN), "dice", output_dim=1)
    # The pooled history, which DIN does not read, is the last field.
    inputs = nn.ParameterDict({"others": torch.zeros(B, F - 1, D), "history": torch.zeros(B, L, D)})
    peer = nn.ModuleList([attention, mlp, inputs]).double().eval()
    randomise(peer)
    length_B = torch.tensor([3, 1, 2, 2, 3])
    mask_BL = torch.arange(L) < length_B[:, None]

    def logits() -> Tensor:
        interest_BD = attention(inputs["others"][:, 1], inputs["history"], mask_BL)
        return mlp(torch.cat([inputs["others"].flatten(1), interest_BD], 1))[:, 0]

    def tensors(read: Read) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for prefix, layers in (("unit", attention.attention_layer.mlp), ("mlp", mlp.mlp)):
            out |= mlp_tensors(prefix, layers[::2], read, layers[1::2])
        fields_BFD = torch.cat([read(inputs["others"]), torch.zeros(B, 1, D).double()], 1)
        return out | {
            "unit.0.weight": unit_input(out["unit.0.weight"]), "fields_BFD": fields_BFD,
            "history_BLD": read(inputs["history"]),
        }  # fmt: skip

    settings = {"type": "din", "hidden": HIDDEN, "attention_hidden": HIDDEN, "attention": "softmax"}
    norms = {"unit": attention.attention_layer.mlp[1::2], "mlp": mlp.mlp[1::2]}
    buffers = statistics({prefix: [dice.bn for dice in layers] for prefix, layers in norms.items()})
    extra = {"target_field": 1, "history_length_B": length_B.tolist()}
    return Case(settings, logits, tensors, buffers, extra)


def columns() -> list[Any]:
    """F fields in DeepCTR-Torch's terms."""
    from deepctr_torch.inputs import SparseFeat

    return [SparseFeat(f"f{n}", B, D) for n in range(F)]


def deepctr(
    peer: nn.Module, settings: Mapping[str, Any], tensors: Callable[[Read], dict[str, Tensor]],
    ids_BX: Tensor | None = None,
) -> Case:  # fmt: skip
    """A case around a model of DeepCTR-Torch. Its task `regression` gives logits."""
    randomise(peer.double().eval())
    ids_BX = torch.arange(B)[:, None].expand(-1, F) if ids_BX is None else ids_BX
    names = [name for name in peer.embedding_dict if name.startswith("f")]

    def all_tensors(read: Read) -> dict[str, Tensor]:
        parts = [read(peer.embedding_dict[name].weight) for name in names]
        # Where the history has a table of its own, the pooled history, which DIN does not read, is the last field.
        parts += [torch.zeros(B, D).double()] * (F - len(names))
        return tensors(read) | {"fields_BFD": torch.stack(parts, 1)}

    return Case(settings, lambda: peer(ids_BX.double())[:, 0], all_tensors)


def linear_deep(peer: nn.Module, read: Read) -> dict[str, Tensor]:
    """Linear term and MLP of DeepCTR-Torch's FM models."""
    return mlp_tensors("mlp", peer.dnn.linears, read) | {
        "mlp.4.weight": read(peer.dnn_linear.weight), "mlp.4.bias": read(peer.out.bias),
        "first_order_B": read(peer.linear_model.embedding_dict["f0"].weight)[:, 0],
    }  # fmt: skip


def beside(peer: nn.Module, read: Read) -> dict[str, Tensor]:
    """One linear layer over explicit features ⊕ the MLP's last hidden layer: ours are two, added up."""
    weight = read(peer.dnn_linear.weight)
    return mlp_tensors("out.mlp", peer.dnn.linears, read) | {
        "out.linear.weight": weight[:, : -HIDDEN[-1]], "out.mlp.4.weight": weight[:, -HIDDEN[-1] :],
        "out.mlp.4.bias": read(peer.out.bias),
    }  # fmt: skip


def mlp_tensors(
    prefix: str, linears: Iterable[nn.Linear], read: Read, activations: Iterable[nn.Module] = ()
) -> dict[str, Tensor]:
    """Linear layers and the parameters of the activations between them."""
    out = {}
    for n, linear in enumerate(linears):
        out |= {f"{prefix}.{2 * n}.weight": read(linear.weight), f"{prefix}.{2 * n}.bias": read(linear.bias)}
    for n, activation in enumerate(activations):
        prelu = isinstance(activation, nn.PReLU)
        name, value = ("weight", activation.weight) if prelu else ("alpha_X", activation.alpha)
        out[f"{prefix}.{2 * n + 1}.{name}"] = read(value).flatten()
    return out


def experts(
    layers: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]], gating: Iterable[nn.Linear], read: Read
) -> dict[str, Tensor]:
    """V, C, U and b of each cross layer, and the gate that all of them share."""
    out = {}
    for n, (down_EXR, mix_EQR, up_EXR, bias_X1) in enumerate(layers):
        out |= {
            f"cross.{n}.down.weight": down_EXR.mT.flatten(0, 1), f"cross.{n}.mix_EQR": mix_EQR,
            f"cross.{n}.up.weight": up_EXR.transpose(0, 1).flatten(1), f"cross.{n}.up.bias": bias_X1[:, 0],
        }  # fmt: skip
    return out | {"cross.0.gate.weight + cross.1.gate.weight": torch.cat([read(gate.weight) for gate in gating])}


def unit_input(weight: Tensor) -> Tensor:
    """The peers' activation unit reads target, event, target − event, product; ours event, target, event − target, …"""
    target, event, difference, product = weight.chunk(4, 1)
    return torch.cat([event, target, -difference, product], 1)


def statistics(norms: Mapping[str, Iterable[nn.BatchNorm1d]]) -> dict[str, Tensor]:
    """Give batch normalisations random statistics, and name them; a scale and shift of their own become 1 and 0."""
    out = {}
    for prefix, layers in norms.items():
        for n, norm in enumerate(layers):
            norm.running_mean.copy_(rounded(torch.randn(norm.num_features)))
            norm.running_var.copy_(rounded(torch.rand(norm.num_features) + 0.5))
            if norm.affine:
                norm.weight.data.fill_(1)
                norm.bias.data.zero_()
            for name, buffer in norm.named_buffers():
                out[f"{prefix}.{2 * n + 1}.norm.{name}"] = buffer.clone()
    return out


def randomise(module: nn.Module) -> None:
    """Weights large enough for every part to matter, in few digits."""
    for parameter in module.parameters():
        parameter.data = rounded(torch.randn(parameter.shape) * 0.5)


def rounded(x: Tensor) -> Tensor:
    """Three decimals, double precision."""
    return (x.double() * 1000).round() / 1000


def significant(x: Any) -> Any:
    """Nine significant digits, at any depth."""
    return [significant(v) for v in x] if isinstance(x, list) else float(f"{x:.9g}")


CASES: dict[str, tuple[str, Callable[[], Case]]] = {
    "deepfm": ("deepctr-torch", deepfm),
    "xdeepfm": ("deepctr-torch", xdeepfm),
    "autoint": ("deepctr-torch", lambda: autoint(())),
    "autoint_plus": ("deepctr-torch", lambda: autoint(HIDDEN)),
    "dcn": ("deepctr-torch", dcn),
    "dcnv2_parallel": ("deepctr-torch", dcnv2_parallel),
    "dcnv2_stacked": ("torch-rechub", dcnv2_stacked),
    "din_dice": ("deepctr-torch", lambda: din("dice", train=False)),
    "din_dice_training": ("deepctr-torch", lambda: din("dice", train=True)),
    "din_prelu": ("deepctr-torch", lambda: din("prelu", train=False)),
    "din_softmax": ("fuxictr", din_softmax),
}
"""Name → distribution of the peer, and what builds the case."""
