"""The model: what it predicts is a search of all items by its own scores, and what its arms start from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import retrieval_world
import torch
from refusals import refused
from sklearn.decomposition import PCA

from llmcf_cli.core.errors import ModelError, UnknownNameError
from llmcf_cli.features.batch import Batch, encode_entities
from llmcf_cli.rec.measure.base import measured
from llmcf_cli.rec.retrieval.model import RetrievalModel
from llmcf_cli.rec.retrieval.ranked import items_of, rank_of
from llmcf_cli.rec.retrieval.sequences import alike
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.rec.train.predict import predict
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.recipe.sections import FitSection


def build(data, augment="none", backbone="youtubednn", seed=1, **settings):
    configs = (
        retrieval_world.default("backbone", backbone, embedding_dim=16),
        retrieval_world.default("augmenter", augment),
    )
    return RetrievalModel(data.resources, *configs, seed=seed, **settings)


def moved(model):
    """Away from the start, where unknown items are zeros."""
    torch.manual_seed(5)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("augment", ["none", "text_tower"])
@pytest.mark.parametrize("filter_seen", [True, False])
def test_a_prediction_is_a_search_by_the_scores_of_pairs(shop, augment, filter_seen):
    model, test = moved(build(shop, augment, filter_seen=filter_seen)), shop.splits["test"]
    prediction = predict(model, shop, "test", batch_size=100)
    owner_S, item_S = shop.resources.get("events").seen(test.user_row_N, test.time_N)
    items = len(shop.resources.catalog.items.ids)
    batch = shop.batch("test", inputs=model.reads)
    for number in range(0, len(test), 17):
        rows = batch.take(torch.full((items,), number))
        with torch.inference_mode():
            scores = model.score(replace(rows, item_row_B=torch.arange(1, items + 1))).numpy()
        left = set(range(1, items + 1)) - (set(item_S[owner_S == number].tolist()) if filter_seen else set())
        order = sorted(left, key=lambda item: -scores[item - 1])
        assert rank_of(prediction)[number] == order.index(test.item_row_N[number]) + 1
        assert items_of(prediction)[number].tolist()[: len(order)] == order[:50]


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "youtubednn", "srgnn"])
def test_rows_read_in_groups_are_what_they_are_at_full_width(shop, backbone):
    model, train = moved(build(shop, backbone=backbone)), build(shop).train_rows(shop, "cpu")
    event_BL = torch.cat([train.take(torch.arange(80)).event_BL, torch.zeros(2, 8, dtype=torch.int64)])
    assert len(alike(event_BL)[1]) > 1
    with torch.no_grad():
        found_BLD, whole_BLD = model._users(event_BL), model.backbone(model.items(event_BL), event_BL)
        latest_BD = model.users(Batch(event_BL[:, 0], event_BL[:, 0], event_BL, event_BL[:, 0]))
    there_BL = event_BL > 0
    torch.testing.assert_close(found_BLD[:, 1:][there_BL], whole_BLD[there_BL], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(latest_BD[:-2], whole_BLD[:-2, -1], atol=1e-5, rtol=1e-5)
    assert (latest_BD[-2:] == model.nobody_D).all()
    assert (found_BLD[:, 0] == model.nobody_D).all()


def test_the_seed_decides_the_weights(shop):
    first, again, other = (build(shop, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    tower = build(shop, "text_tower").state_dict()
    assert torch.equal(tower["embedding.table_VD"], first["embedding.table_VD"])


def test_embeddings_start_as_the_principal_components_of_the_texts(shop):
    model, text_IT = build(shop, "text_init"), shop.resources.get("text")
    known = (model.embedding.id_I >= 2).nonzero()[:, 0].numpy()
    expected = PCA(16).fit_transform(text_IT[known].astype(np.float64))
    found = model.items(torch.from_numpy(known)).detach().numpy()
    size = np.linalg.norm(expected, axis=0) > 1e-6
    ratio = (found * expected).sum(0)[size] / (expected**2).sum(0)[size]  # ± the common factor
    np.testing.assert_allclose(found[:, size], expected[:, size] * ratio, atol=1e-6)
    np.testing.assert_allclose(np.abs(ratio), np.abs(ratio)[0], rtol=1e-4)
    assert found.std() == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("augment", ["none", "text_init", "text_tower"])
def test_a_gradient_reaches_every_parameter(shop, augment):
    model = moved(build(shop, augment, "sasrec")).train()
    batch = model.train_rows(shop, "cpu").take(torch.arange(60))
    model.loss(model(batch), batch.targets).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert not model.embedding.table_VD.grad[:2].any(), "padding and unknown items stay as they are"


def test_new_items_have_their_texts(shop):
    model, resources = moved(build(shop, "text_tower")), shop.resources
    added = encode_entities(pa.table({"item_id": ["new"]}), "item", resources.spec, resources.vocab)
    catalog = replace(resources.catalog, items=resources.catalog.items.extended(added))
    text_IT = np.concatenate([resources.get("text"), resources.get("text")[7:8]])
    longer = model.with_items(replace(model.resources, catalog=catalog).holding(text=text_IT))
    before, after = model.catalogue(), longer.catalogue()
    torch.testing.assert_close(after[:-1], before)
    assert len(before) == len(model.embedding.id_I) == len(after) - 1
    nothing = model.embedding.table_VD[0]  # zeros, but for `moved`
    torch.testing.assert_close(after[-1], nothing + model.augmenter.mlp(torch.from_numpy(text_IT[-1])))


@pytest.fixture(scope="module")
def featured(tmp_path_factory):
    """Items with a brand, tags and a price, some of them missing."""
    from pathlib import Path

    from llmcf_cli.data.ingest import ingest

    folder = tmp_path_factory.mktemp("featured")
    retrieval_world.write_events(folder)
    lines = [f"i{i:02d},title {i},b{i % 4},{'t1|t2' if i % 3 else 't3'},{i if i % 5 else ''}" for i in range(60)]
    (folder / "items.csv").write_text("item,title,brand,tags,price\n" + "\n".join(lines) + "\n")
    features = {"item": {"brand": "categorical", "tags": "multi", "price": "numeric"}}
    section = retrieval_world.section(folder, features=features).model_dump()
    section["source"]["multi"] = ["tags"]
    ingest(DatasetSection.model_validate(section), locate=Path, seed=1, out=folder / "data.duckdb")
    return retrieval_world.load(folder / "data.duckdb")


FEATURES = ("brand", "price", "tags")


def with_features(data, names=FEATURES, augment="none"):
    configs = (retrieval_world.default("backbone", "gru4rec", embedding_dim=16, item_features=names),
               retrieval_world.default("augmenter", augment))  # fmt: skip
    return RetrievalModel(data.resources, *configs, seed=1)


def test_an_items_vector_is_its_id_and_its_features(featured):
    model, items = moved(with_features(featured)), featured.resources.catalog.items
    sizes = {field.name: field.size for field in featured.resources.spec.fields}
    starts = dict(zip(FEATURES, np.cumsum([0, *(sizes[name] - 1 for name in FEATURES)]), strict=False))
    table, found = model.embedding.feature_VD, model.catalogue()
    for row in range(1, len(items.ids) + 1):
        price = items.columns["price"][row]
        expected = model.embedding.table_VD[model.embedding.id_I[row]]
        expected = expected + table[starts["brand"] + items.columns["brand"][row]]
        expected = expected + (table[starts["price"] + 1] if np.isnan(price) else price * table[starts["price"] + 2])
        tags = [table[starts["tags"] + tag] for tag in items.columns["tags"][row] if tag]
        torch.testing.assert_close(found[row], expected + sum(tags) / len(tags))
    model.users(featured.batch("test").take(torch.arange(9))).sum().backward()
    assert model.embedding.feature_VD.grad.abs().sum() > 0


def test_new_items_have_their_features(featured):
    model, resources = moved(with_features(featured)), featured.resources
    rows = pa.table({"item_id": ["new"], "brand": ["b1"], "tags": [["t3"]], "price": [None]})
    added = encode_entities(rows, "item", resources.spec, resources.vocab)
    catalog = replace(resources.catalog, items=resources.catalog.items.extended(added))
    longer = model.with_items(replace(model.resources, catalog=catalog))
    torch.testing.assert_close(longer.catalogue()[:-1], model.catalogue())
    assert len(model.catalogue()) == len(longer.catalogue()) - 1
    known = resources.catalog.items
    alike = [
        row for row in range(1, 61)
        if known.columns["brand"][row] == added.columns["brand"][1] and np.isnan(known.columns["price"][row])
        and (known.columns["tags"][row] == added.columns["tags"][1]).all()
    ]  # fmt: skip
    ids = model.embedding.table_VD
    own = model.catalogue()[alike[0]] - ids[model.embedding.id_I[alike[0]]]
    torch.testing.assert_close(longer.catalogue()[-1] - ids[0], own)


def test_an_unknown_feature_is_refused(featured):
    with refused("unknown-name", UnknownNameError, names="colour"):
        with_features(featured, ("colour",))


def test_texts_must_be_there(shop):
    with refused("input-missing", ModelError):
        build(replace(shop, resources=shop.resources.holding(text=None)), "text_tower")


@pytest.mark.parametrize("name", ["shop", "left_out"])
def test_sasrec_learns_the_order(request, name, tmp_path):
    data = request.getfixturevalue(name)
    model = build(data, backbone="sasrec")
    section = FitSection(batch_size=32, learning_rate=0.01, weight_decay=0, epochs=8, patience=8)
    report = fit(model, data, section, seed=1, work=tmp_path)
    popular = retrieval_world.default("baseline", "top_popular")
    from llmcf_cli.rec.retrieval.baselines import TopPopular

    simple = TopPopular(popular)
    simple.fit(data, seed=1)
    base = measured(data.task.measures, simple.score(data, "validation"), data.truth("validation"))
    assert report.best["ndcg@10"] > 2 * base["ndcg@10"]
    assert predict(model, data, "validation").shape == (len(data.splits["validation"]), 101)


def test_a_kept_catalogue_goes_with_the_weights_it_was_made_by(shop):
    built, other = (moved(build(shop, "text_tower", seed=seed)) for seed in (1, 2))
    computed = built.catalogue()
    built.keep()
    assert torch.equal(built.catalogue(), computed)
    assert built.catalogue() is built.catalogue()
    built.load_state_dict(other.state_dict())
    assert torch.equal(built.catalogue(), other.catalogue())
    built.keep()
    assert built.train().kept_ID.value is None
    assert not any("kept" in name for name in built.state_dict())
