"""Three bundles of the small world, and servers of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import retrieval_world
from rec_world import SERVED
from serving import serving

from llmcf_cli.rec.bundle.bundle import load_bundle, save_bundle
from llmcf_cli.rec.config import BCEConfig, DeepFMConfig, ICTConfig, NoneConfig, RankingConfig
from llmcf_cli.rec.model import RecModel


@pytest.fixture(scope="session")
def bundles(world, tmp_path_factory) -> dict[str, Path]:
    """Folder of a bundle by the name of its arm."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, augment in (("ict", ICTConfig()), ("none", NoneConfig())):
        model = RecModel(world.data.resources, DeepFMConfig(), augment, (BCEConfig(),), seed=4)
        for parameter in model.parameters():
            parameter.data *= 3  # away from logits near 0
        save_bundle(
            folder / name, model, task=RankingConfig(), recipe={"name": "world <b>&"}, clock="global", inputs=SERVED
        )
    texts = [f"because <i>{number}</i>\nof it" for number in range(len(world.data.resources.get("examples")))]
    save_bundle(folder / "reasons", load_bundle(folder / "ict").model, task=RankingConfig(), recipe={}, clock="global",
                inputs=SERVED, reasoning=texts)  # fmt: skip
    return {name: folder / name for name in ("ict", "none", "reasons")}


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """What models of retrieval read."""
    return retrieval_world.make_data(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def lists_bundle(shop, tmp_path_factory) -> Path:
    """Folder of a bundle that makes lists."""
    return retrieval_world.save(tmp_path_factory.mktemp("lists") / "bundle", shop.resources)


@pytest.fixture
def own_bundle(bundles, tmp_path):
    """A copy of a bundle that a test may harm."""
    return Path(shutil.copytree(bundles["ict"], tmp_path / "own"))


@pytest.fixture(scope="module")
def client(bundles):
    with serving(bundles["ict"]) as found:
        yield found
