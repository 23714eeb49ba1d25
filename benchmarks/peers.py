"""DeepFM by FuxiCTR or torch-rechub, trained with their own loaders and loops; runs in the peers' environment.

    python benchmarks/peers.py fuxictr|torch-rechub TABLE.npz FIELDS.json BATCH_SIZE cpu|wall

TABLE has an integer column per field ([N] or [N, M], padded with 0) and `label`; FIELDS names their sizes. Each line on
standard input asks for an epoch and is answered with its seconds. One thread, no worker processes, no regularisation.
FuxiCTR publishes the layers of DeepFM but not the model, which is put together from them here.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

DIM, HIDDEN, RATE = 32, [200, 80], 1e-3


def main() -> None:
    """Build the peer and answer."""
    name, table, fields, batch_size, clock = sys.argv[1:]
    torch.set_num_threads(1)
    seconds = time.perf_counter if clock == "wall" else time.process_time
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        build = {"fuxictr": fuxictr, "torch-rechub": torch_rechub}[name]
        epoch = build(Path(table), json.loads(Path(fields).read_text()), int(batch_size))
        for _ in sys.stdin:
            started = seconds()
            epoch()
            print(seconds() - started, file=answers, flush=True)


def torch_rechub(table: Path, fields: list[dict], batch_size: int) -> Callable[[], object]:
    """Its `DataGenerator`, `DeepFM` and `CTRTrainer`."""
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import DeepFM
    from torch_rechub.trainers import CTRTrainer
    from torch_rechub.utils.data import DataGenerator

    features = []
    for field in fields:
        if field["width"] == 1:
            features.append(SparseFeature(field["name"], field["size"], DIM))
        else:
            shared = {"shared_with": field["shares"], "padding_idx": 0}
            features.append(SequenceFeature(field["name"], field["size"], DIM, pooling="mean", **shared))
    columns = dict(np.load(table))
    label = columns.pop("label")
    few = {name: column[:batch_size] for name, column in columns.items()}, label[:batch_size]
    loader, _, _ = DataGenerator(columns, label).generate_dataloader(*few, *few, batch_size=batch_size)
    model = DeepFM(features, features, {"dims": HIDDEN, "activation": "relu"})
    trainer = CTRTrainer(model, optimizer_params={"lr": RATE})
    return lambda: trainer.train_one_epoch(loader)


def fuxictr(table: Path, fields: list[dict], batch_size: int) -> Callable[[], object]:
    """Its `RankDataLoader`, layers and training loop."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader
    from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    class DeepFM(BaseModel):
        def __init__(self, feature_map, folder):
            super().__init__(feature_map, "DeepFM", verbose=0, model_root=folder, metrics=["AUC"])
            self.embedding = FeatureEmbedding(feature_map, DIM)
            self.fm = FactorizationMachine(feature_map)
            self.mlp = MLP_Block(feature_map.sum_emb_out_dim(), HIDDEN, output_dim=1)
            self.compile("adam", "binary_crossentropy", RATE)
            self.reset_parameters()

        def forward(self, inputs):
            values = self.get_inputs(inputs)
            embedded = self.embedding(values)
            logit = self.fm(values, embedded) + self.mlp(embedded.flatten(start_dim=1))
            return {"y_pred": self.output_activation(logit)}

    folder = tempfile.mkdtemp()
    feature_map = FeatureMap("table", folder)
    for field in fields:
        spec = {"source": "", "type": "categorical", "vocab_size": field["size"], "padding_idx": 0}
        if field["width"] > 1:
            spec |= {"type": "sequence", "max_len": field["width"], "feature_encoder": "layers.MaskedAveragePooling()"}
        if field["shares"]:
            spec["share_embedding"] = field["shares"]
        feature_map.features[field["name"]] = spec
    feature_map.labels, feature_map.num_fields, feature_map.default_emb_dim = ["label"], len(fields), DIM
    feature_map.set_column_index()
    loader, _ = RankDataLoader(feature_map, "train", str(table), batch_size=batch_size, num_workers=0)
    model = DeepFM(feature_map, folder)
    model.train()

    def epoch() -> None:
        model._max_gradient_norm, model._eval_steps, model._stop_training = 10.0, len(loader) + 1, False
        model._epoch_index = model._batch_index = model._total_steps = 0
        model.train_epoch(loader)

    return epoch


if __name__ == "__main__":
    main()
