"""An exported model scores as the bundle's, whatever it is made of, or is refused."""

from __future__ import annotations

import itertools
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exporting import export, trained
from onnx import TensorProto, helper
from refusals import refused

from llmcf_cli.core.errors import ModelError, StoreError
from llmcf_cli.plugin import registry
from llmcf_cli.rec.config import (
    AutoIntConfig,
    DCNv2Config,
    DINConfig,
    ICTConfig,
    KARConfig,
    RankingConfig,
    TextConfig,
)
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.onnx.export import check_scores, export_onnx, some_samples
from llmcf_cli.rec.onnx.graph import distinct_rows, feeds, ports_of
from llmcf_cli.rec.onnx.package import check_alone, read_package
from llmcf_cli.rec.onnx.session import OnnxModel
from llmcf_cli.rec.train.predict import predict
from llmcf_cli.recipe.component import names_for
from llmcf_cli.serve.core import EXPORTED
from llmcf_cli.serve.scorer import Scorer

BACKBONES, AUGMENTERS = (names_for(kind, RankingConfig()) for kind in ("backbone", "augmenter"))
QUICK = ("deepfm", "ict"), ("din", "none")
PAIRS = [
    pytest.param(*pair, marks=() if pair in QUICK else (pytest.mark.slow,), id="-".join(pair))
    for pair in itertools.product(BACKBONES, AUGMENTERS)
    if "deepfm" in pair or "ict" in pair or pair in QUICK  # each part beside one of the other kind: they share no code
] + [pytest.param(backbone, augmenter, marks=pytest.mark.slow, id=name) for name, (backbone, augmenter) in {
    "text with signals": ("deepfm", TextConfig(features=("text", "signals"))),
    "ict with signals": ("deepfm", ICTConfig(features=("text", "signals"))),
    "kar with texts": ("deepfm", KARConfig(features=("text",))),
    "stacked": (DCNv2Config(structure="stacked"), "text"),
    "softmax": (DINConfig(attention="softmax", activation="prelu"), "text"),
    "without an MLP": (AutoIntConfig(hidden=()), "text"),
}.items()]  # fmt: skip


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """Model, scorer and folder of an exported bundle."""
    folder = tmp_path_factory.mktemp("export")
    model, scorer = trained(world, folder)
    return model, scorer, export(folder / "b")


@pytest.mark.parametrize(("backbone", "augmenter"), PAIRS)
def test_every_pair_scores_as_the_plain_path(world, tmp_path, backbone, augmenter):
    """Fed by hand, every row with a request and examples of its own, by onnxruntime alone."""
    model, scorer = trained(world, tmp_path, backbone, augmenter)
    export_onnx(scorer.model, scorer.values_of, tmp_path / "out", scorer.digest)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    offline_N = predict(model, world.data, "train")
    assert offline_N.std() > 1e-2
    rows, batch = world.data.splits["train"], world.data.batch("train", inputs=model.reads)
    for count in (1, 7, 100):
        at = np.random.default_rng(count).permutation(len(rows))[:count]
        given = {
            "user_row": rows.user_row_N[at], "history_row": rows.history_row_NL[at], "time": rows.time_N[at],
            "item_row": rows.item_row_N[at], "request": np.arange(count), "examples_of": np.arange(count),
        }  # fmt: skip
        given |= {name: values[torch.from_numpy(at)].numpy() for name, values in batch.inputs.items()}
        fed = {name: given[name] if given[name].dtype.kind == "f" else given[name].astype(np.int64) for name in names}
        np.testing.assert_allclose(session.run(None, fed)[0], offline_N[at], rtol=0, atol=1e-5)


def test_what_rows_share_is_given_once_and_scores_the_same(world, made):
    model, scorer, bundle = made
    _, raw = read_package(bundle / EXPORTED, scorer.digest)
    rows = world.data.splits["test"]
    values = {name: values.numpy() for name, values in world.data.batch("test", inputs=model.reads).inputs.items()}
    ports = ports_of(model, values)
    twice = np.repeat(np.arange(len(rows)), 2)
    fed = feeds(ports, rows.take(twice), {name: array[twice] for name, array in values.items()})
    assert len(fed["user_row"]) <= len(rows)
    assert len(fed["examples"]) == len(np.unique(values["examples"], axis=0))
    found_N = OnnxModel(raw, ports).score(rows.take(twice), {name: array[twice] for name, array in values.items()})
    np.testing.assert_allclose(found_N, predict(model, world.data, "test")[twice], atol=1e-5)


@pytest.mark.parametrize("rows", [[[3, -1], [3, -1]], [[1, 2], [2, 1], [1, 2]], [[7, 7]], np.empty((0, 2), int)])
def test_distinct_rows_are_those_of_numpy(rows):
    rows_NK = np.asarray(rows, np.int32)
    found_GK, of_N = distinct_rows(rows_NK)
    assert (found_GK[of_N] == rows_NK).all()
    assert len(found_GK) == len(np.unique(rows_NK, axis=0))


def test_the_folder_describes_the_model_and_holds_all_of_it(made):
    _, scorer, bundle = made
    folder = bundle / EXPORTED
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.json"}
    described = json.loads((folder / "model.json").read_text())
    assert described["bundle"] == scorer.digest
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model)
    assert all(one.data_location == TensorProto.DEFAULT for one in model.graph.initializer)
    for kind, found in (("inputs", model.graph.input), ("outputs", model.graph.output)):
        assert [one["name"] for one in described[kind]] == [one.name for one in found]
        for one, of in zip(described[kind], found, strict=True):
            kinds = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
            assert of.type.tensor_type.elem_type == kinds[one["dtype"]]
            assert [d.dim_value or d.dim_param for d in of.type.tensor_type.shape.dim] == one["shape"]
            assert one["meaning"]


def test_what_scores_otherwise_is_refused(world, made, tmp_path):
    model, scorer, bundle = made
    raw = read_package(bundle / EXPORTED, scorer.digest)[1]
    other, _ = trained(world, tmp_path)
    other.embedding.bias.data += 1e-3
    other.eval()
    ports = ports_of(model, scorer.values_of(world.data.splits["test"]))
    check_scores(scorer.model, scorer.values_of, OnnxModel(raw, ports))
    with refused("onnx-differs", ModelError):
        check_scores(other, scorer.values_of, OnnxModel(raw, ports))


def test_a_part_whose_shapes_depend_on_values_is_refused(world, tmp_path, monkeypatch):
    _, scorer = trained(world, tmp_path, augmenter="text")

    def unique(self, x):
        return torch.unique(x).float().mean() + x[:, :1] * 0

    monkeypatch.setattr(type(scorer.model.augmenter.mlp), "forward", unique)
    with refused("onnx-unsupported", ModelError):
        export_onnx(scorer.model, scorer.values_of, tmp_path / "out", scorer.digest)
    assert not (tmp_path / "out").exists()


def test_a_model_that_searches_the_catalogue_is_refused(tmp_path):
    import retrieval_world

    shop = retrieval_world.make_data(tmp_path)
    scorer = Scorer.load(retrieval_world.save(tmp_path / "b", shop.resources))
    with refused("onnx-task", ModelError):
        export_onnx(scorer.model, scorer.values_of, tmp_path / "out", scorer.digest)


def test_only_an_earlier_export_is_replaced(made, tmp_path):
    _, scorer, _ = made
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with refused("onnx-exists", StoreError):
        export_onnx(scorer.model, scorer.values_of, tmp_path / "out", scorer.digest, replace=True)
    assert (tmp_path / "out" / "mine").exists()


def test_tensors_in_other_files_are_refused(tmp_path):
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])

    def model(tensors, nodes):
        return helper.make_model(helper.make_graph(nodes, "g", [], [out], initializer=tensors)).SerializeToString()

    check_alone(model([tensor], [node]), "x")
    away = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    away.external_data.add(key="location", value="/etc/passwd")
    inner = helper.make_graph([helper.make_node("Constant", [], ["y"], value=away)], "inner", [], [out])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    for raw in (model([away], [node]), model([], [helper.make_node("Constant", [], ["y"], value=away)]),
                model([], [branch]), b"no model"):  # fmt: skip
        with refused("onnx-malformed", StoreError):
            check_alone(raw, "x")


def test_what_is_compared_has_unknown_users_and_items_and_empty_and_full_histories(world):
    configs = [registry().get(kind, name).config()() for kind, name in (("backbone", "deepfm"), ("augmenter", "none"))]
    drawn = some_samples(RecModel(world.data.resources, *configs), 100)
    assert (drawn.user_row_N == 0).any()
    assert (drawn.item_row_N == 0).any()
    assert (drawn.history_row_NL.sum(1) == 0).any()
    assert (drawn.history_row_NL > 0).all(1).any()
