"""Lists that one model finds and another puts in order, from one bundle."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import retrieval_world
from refusals import refused
from serving import serving
from typer.testing import CliRunner

from llmcf_cli.cli.app import app
from llmcf_cli.core.errors import DataError, ModelError, StoreError
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import DeepFMConfig, NoneConfig, RankingConfig
from llmcf_cli.rec.input.dataset import load_task_data
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.tasks.ranking import Ranking
from llmcf_cli.serve.golden import replay
from llmcf_cli.serve.scorer import Scorer
from llmcf_cli.tabular.times import TimeFormat

CANDIDATES = 12


def ranking_bundle(folder, resources, **settings):
    model = RecModel(resources, DeepFMConfig(), NoneConfig(), seed=4)
    for parameter in model.parameters():
        parameter.data *= 3
    save_bundle(folder, model, task=RankingConfig(), recipe={}, **{"clock": "global"} | settings)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Bundles that find and that rank, of one ingest."""
    folder = tmp_path_factory.mktemp("parts")
    found = retrieval_world.make_data(folder)
    ranked = load_task_data(folder / "data.duckdb", Ranking(RankingConfig()), history_length=retrieval_world.LENGTH)
    return retrieval_world.save(folder / "finds", found.resources), ranking_bundle(folder / "ranks", ranked.resources)


def join(parts, out, *options):
    arguments = ["bundle", "cascade", *map(str, parts), "--out", str(out), *options]
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def made(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade") / "bundle"
    result = join(parts, folder, "--candidates", str(CANDIDATES))
    assert result.exit_code == 0, result.output
    return folder


def expected(parts, user, k):
    """What the first finds, in the order of the second."""
    finds, ranks = map(Scorer.load, parts)
    names = finds.recommend([{"user_id": user}], max(CANDIDATES, k))["item_id"].to_pylist()
    logit = ranks.score([{"user_id": user, "item_id": item} for item in names])["logit"].to_numpy()
    order = np.argsort(-logit, kind="stable")[:k]
    return [names[place] for place in order], logit[order]


@pytest.mark.parametrize("k", [1, 5, CANDIDATES, CANDIDATES + 9])
def test_lists_are_what_the_first_finds_in_the_order_of_the_second(parts, made, k):
    users = ["u0", "u7", "u195"]
    found = Scorer.load(made).recommend([{"user_id": user} for user in users], k)
    for number, user in enumerate(users):
        names, logit = expected(parts, user, k)
        part = found.slice(number * k, k)
        assert part["item_id"].to_pylist() == names
        assert part["rank"].to_pylist() == list(range(1, k + 1))
        np.testing.assert_allclose(part["score"].to_numpy(), logit, rtol=1e-4, atol=1e-5)


def test_fewer_candidates_than_it_would_take_are_enough(made):
    scorer = Scorer.load(made)
    seen = scorer.recommend([{"user_id": "u0"}], 5)["item_id"].to_pylist()
    assert set(scorer.recommend([{"user_id": "u0"}], 3, allow=seen[:4])["item_id"].to_pylist()) < set(seen[:4])
    with refused("list-too-short", DataError):
        scorer.recommend([{"user_id": "u0"}], 5, allow=seen[:4])
    with refused("history-missing", DataError):
        scorer.recommend([{"user_id": "nobody"}], 5)


def test_it_is_served_and_scores_by_the_model_that_ranks(parts, made):
    ranks = Scorer.load(parts[1])
    with serving(made) as client:
        info = client.get("/info").json()
        assert (info["finder"], info["candidates"], info["lists"], info["task"]) == ("sasrec", 12, True, "ranking")
        assert info["bundle"] not in {Scorer.load(part).digest for part in parts}
        asked = {"requests": [{"user_id": "u0", "k": 4}, {"user_id": "u7", "k": 2}]}
        results = client.post("/v1/recommend", json=asked).json()["results"]
        found = [[item["item_id"] for item in result["items"]] for result in results]
        assert found == [expected(parts, "u0", 4)[0], expected(parts, "u7", 2)[0]]
        scores = client.post("/v1/score", json={"requests": [{"user_id": "u0", "candidates": ["i01"]}]}).json()
        logit = ranks.score([{"user_id": "u0", "item_id": "i01"}])["logit"][0].as_py()
        assert scores["results"][0]["scores"][0]["score"]["logit"] == pytest.approx(logit, abs=1e-5)
        assert "that sasrec finds" in client.get("/", params={"user": "u0", "k": "2"}).text
    output = CliRunner().invoke(app, ["recommend", str(made), "--user", "u0", "-k", "2"]).output
    assert all(item in output for item in expected(parts, "u0", 2)[0])


def test_golden_requests_of_both_are_asked(made):
    scorer = Scorer.load(made)
    assert replay(scorer, scorer.golden) > 0
    kept = scorer.finder.other.model.kept_ID
    kept.value = kept.value * 2
    with refused("golden-differs", ModelError):
        replay(scorer, scorer.golden)


def test_new_items_are_new_to_both_or_to_none(made):
    scorer = Scorer.load(made)
    width = scorer.finder.other.model.resources.get("text").shape[1]
    vector = np.eye(1, width, dtype=np.float32)
    with pytest.raises(DataError):
        scorer.add_items(pa.table({"item_id": ["new"]}), vector[:, 1:])
    for one in (scorer, scorer.finder.other):
        assert "new" not in one.model.resources.catalog.items.ids.to_pylist()
    scorer.add_items(pa.table({"item_id": ["new"]}), vector)
    assert scorer.recommend([{"user_id": "u0"}], 1, allow=["new"])["item_id"].to_pylist() == ["new"]


def test_bundles_that_do_not_fit_together_are_refused(parts, tmp_path):
    finds, ranks = parts
    for wrong in ((ranks, finds), (ranks, ranks), (finds, finds)):
        with refused("cascade-unfit", ModelError):
            raise join(wrong, tmp_path / "out").exception
    resources = Scorer.load(ranks).model.resources
    items = resources.catalog.items
    fewer = {name: column[:-1] for name, column in items.columns.items()}
    catalog = resources.catalog.__class__(resources.catalog.users, items.__class__("item", items.ids[:-1], fewer))
    shorter = resources.__class__(resources.spec, resources.vocab, catalog)
    with refused("cascade-unfit", ModelError, names="i\\d\\d"):
        raise join((finds, ranking_bundle(tmp_path / "fewer", shorter)), tmp_path / "out").exception
    for number, other in enumerate(({"clock": "per_user"}, {"times": TimeFormat("%d.%m.%Y")})):
        with refused("cascade-unfit", ModelError):
            wrong = ranking_bundle(tmp_path / f"other{number}", resources, **other)
            raise join((finds, wrong), tmp_path / "out").exception
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with refused("bundle-not-empty", StoreError):
        raise join(parts, tmp_path / "full").exception


def test_a_changed_cascade_is_refused(parts, made, tmp_path):
    def changed(name, change):
        folder = shutil.copytree(made, tmp_path / name)
        change(folder)
        return folder

    def manifest(**values):
        def change(folder):
            file = folder / "bundle.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

        return change

    def another(folder):
        shutil.rmtree(folder / "rank")
        resources = Scorer.load(parts[1]).model.resources
        save_bundle(folder / "rank", RecModel(resources, DeepFMConfig(), NoneConfig(), seed=5), task=RankingConfig(),
                    recipe={}, clock="global")  # fmt: skip

    def nested(folder):
        shutil.rmtree(folder / "rank")
        shutil.copytree(made, folder / "rank")

    def link(folder):
        shutil.rmtree(folder / "rank")
        (folder / "rank").symlink_to(parts[1])

    for name, change, code in (
        ("another", another, "bundle-changed"), ("link", link, "bundle-link"),
        ("gone", lambda folder: shutil.rmtree(folder / "retrieve"), "bundle-missing"),
        ("many", manifest(candidates=10**9), "bundle-malformed"),
        ("later", manifest(format="cascade 2"), "bundle-malformed"),
        ("digest", manifest(rank="x"), "bundle-malformed"), ("more", manifest(more=1), "bundle-malformed"),
        ("nested", nested, "bundle-format"),
    ):  # fmt: skip
        with refused(code, StoreError):
            Scorer.load(changed(name, change))


def test_an_export_of_what_ranks_comes_along_and_puts_in_order(parts, made, tmp_path):
    finds, ranks = parts[0], shutil.copytree(parts[1], tmp_path / "ranks")
    whole = CliRunner().invoke(app, ["export-onnx", str(made)])
    assert isinstance(whole.exception, ModelError)
    assert whole.exception.code == "onnx-task"
    result = CliRunner().invoke(app, ["export-onnx", str(ranks)])
    assert result.exit_code == 0, result.output
    assert join((finds, ranks), tmp_path / "both", "--candidates", str(CANDIDATES)).exit_code == 0
    fast, plain = (Scorer.load(tmp_path / "both", engine=engine) for engine in ("onnx", "torch"))
    assert (fast.core.engine, fast.finder.other.core.engine) == ("onnx", "torch")
    users = [{"user_id": f"u{n}"} for n in range(4)]
    found, wanted = (one.recommend(users, 5) for one in (fast, plain))
    assert found["item_id"].to_pylist() == wanted["item_id"].to_pylist()
    np.testing.assert_allclose(found["score"].to_numpy(), wanted["score"].to_numpy(), atol=1e-5)
