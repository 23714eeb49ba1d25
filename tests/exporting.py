"""Trained bundles, and their exports."""

from __future__ import annotations

import rec_world

from llmcf_cli.plugin import registry
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import RankingConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.onnx.export import export_onnx
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.recipe.sections import FitSection
from llmcf_cli.serve.core import EXPORTED
from llmcf_cli.serve.scorer import Scorer

FIT = FitSection(batch_size=64, learning_rate=0.01, epochs=2, patience=2)


def trained(world, folder, backbone="deepfm", augmenter="ict"):
    """A trained model, and the scorer of its bundle, `b` in the folder.

    Args:
        backbone: Its name, or its settings; likewise `augmenter`.
    """
    named = (("backbone", backbone), ("augmenter", augmenter))
    configs = [registry().get(kind, one).config()() if isinstance(one, str) else one for kind, one in named]
    model = RecModel(world.data.resources, *configs, seed=5)
    fit(model, world.data, FIT, seed=1, work=folder / "work")
    model.eval()
    save_bundle(folder / "b", model, task=RankingConfig(), recipe={}, clock="global", inputs=rec_world.SERVED)
    return model, Scorer.load(folder / "b")


def export(bundle):
    """The bundle, with its export in it."""
    scorer = Scorer.load(bundle)
    export_onnx(scorer.model, scorer.values_of, bundle / EXPORTED, scorer.digest)
    return bundle
