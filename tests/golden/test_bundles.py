"""Bundles made long ago load, and score what they scored then.

`bundles/` holds one of each format and arm, with requests and the scores of the day it was made. They are never made
again: a new format gets bundles of its own beside them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sealing import sealed

from llmcf_cli.core.errors import ModelError, StoreError
from llmcf_cli.rec.bundle.bundle import load_bundle
from llmcf_cli.serve.scorer import Scorer

BUNDLES = Path(__file__).parent / "bundles"
KEPT = sorted(path.name for path in BUNDLES.iterdir() if path.is_dir())


def asked(name):
    found = json.loads((BUNDLES / f"{name.rpartition('-')[2]}.json").read_text())
    return found["requests"], np.array(found["logit"])


@pytest.fixture(params=KEPT)
def bundle(request, tmp_path):
    return shutil.copytree(BUNDLES / request.param, tmp_path / request.param)


def test_there_are_two_arms_of_each_format():
    assert KEPT == ["format3-ict", "format3-kar", "format4-ict", "format4-kar"]


def test_it_scores_what_it_did(bundle):
    requests, logit = asked(bundle.name)
    assert len(requests) == 20
    np.testing.assert_allclose(Scorer.load(bundle).score(requests)["logit"].to_numpy(), logit, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in KEPT if name.startswith("format4")])
def test_no_recipe_is_needed(name, tmp_path):
    bundle = shutil.copytree(BUNDLES / name, tmp_path / name)
    (bundle / "recipe.json").write_text('{"match": "of another schema", "dataset": 1}')
    requests, logit = asked(name)
    found = Scorer.load(sealed(bundle, lambda manifest: None)).score(requests)["logit"].to_numpy()
    np.testing.assert_allclose(found, logit, rtol=1e-6, atol=1e-6)


def test_one_of_format_3_that_names_no_task_is_a_ranking(tmp_path):
    bundle = shutil.copytree(BUNDLES / "format3-kar", tmp_path / "b")
    found = load_bundle(sealed(bundle, lambda manifest: manifest.pop("task")))
    assert set(found.task.answer(np.zeros(2, np.float32))) == {"logit", "probability"}


@pytest.mark.parametrize(
    ("form", "remedy"), [(5, "install llmcf 9.9"), (2, "train-rec"), ("x", "train-rec"), (4.0, "train-rec")]
)
def test_another_format_is_refused_with_a_remedy(bundle, form, remedy):
    sealed(bundle, lambda manifest: manifest.update(format=form, llmcf="9.9"))
    with pytest.raises(StoreError) as caught:
        load_bundle(bundle)
    assert remedy in (caught.value.hint or "")


def test_a_later_version_of_a_component_is_refused_with_a_remedy(tmp_path):
    bundle = shutil.copytree(BUNDLES / "format4-ict", tmp_path / "b")
    sealed(bundle, lambda manifest: manifest["augment"].update(version=2))
    with pytest.raises(ModelError) as caught:
        load_bundle(bundle)
    assert "later version" in (caught.value.hint or "")
