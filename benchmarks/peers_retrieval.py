"""SASRec by RecTools and by RecBole, trained with their own loaders and loops; runs in the peers' environment.

    python benchmarks/peers_retrieval.py EVENTS.npz sampled_softmax|gBCE|softmax SIZES.json cpu|wall

`softmax` is RecBole's, the others are RecTools'.

EVENTS has integer columns `user`, `item` and `time`. Each line on standard input asks for an epoch and is answered with
its seconds, those of the loop over batches alone. One thread, no worker processes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch


def main() -> None:
    """Build the peer and answer."""
    events, loss, sizes, clock = sys.argv[1:]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        seconds = time.perf_counter if clock == "wall" else time.process_time
        made = recbole(events, json.loads(sizes), seconds) if loss == "softmax" else None
        epoch = made or rectools(events, loss, json.loads(sizes), seconds)
        for _ in sys.stdin:
            print(epoch(), file=answers, flush=True)


def rectools(events: str, loss: str, sizes: dict, seconds):
    """Its `SASRecModel`; negatives are each position's own."""
    from pytorch_lightning import Callback, Trainer
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    taken = []  # of the trainer RecTools makes a copy, of its callbacks, too

    class Epochs(Callback):
        def on_train_epoch_start(self, *given):
            self.started = seconds()

        def on_train_epoch_end(self, *given):
            taken.append(seconds() - self.started)

    columns = np.load(events)
    frame = pd.DataFrame({
        Columns.User: columns["user"], Columns.Item: columns["item"], Columns.Weight: 1.0,
        Columns.Datetime: pd.to_datetime(columns["time"], unit="s"),
    })  # fmt: skip
    dataset = Dataset.construct(frame)

    def trainer():
        return Trainer(
            max_epochs=1, accelerator="cpu", callbacks=[Epochs()], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    def epoch() -> float:
        SASRecModel(
            n_blocks=sizes["layers"], n_heads=sizes["heads"], n_factors=sizes["dim"], dropout_rate=sizes["dropout"],
            session_max_len=sizes["length"], loss=loss, n_negatives=sizes["negatives"], lr=sizes["rate"],
            batch_size=sizes["batch"], epochs=1, get_trainer_func=trainer,
        ).fit(dataset)  # fmt: skip
        return taken.pop()

    return epoch


def recbole(events: str, sizes: dict, seconds):
    """Its `SASRec` with cross-entropy over all items; every prefix of a user's events is an example of its own."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer

    folder, columns = Path(tempfile.mkdtemp()), np.load(events)
    (folder / "events").mkdir()
    with (folder / "events" / "events.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        rows = zip(columns["user"], columns["item"], columns["time"], strict=True)
        file.writelines(f"{user}\t{item}\t{at}\n" for user, item, at in rows)
    config = Config(model="SASRec", dataset="events", config_dict={
        "data_path": str(folder), "checkpoint_dir": str(folder), "use_gpu": False, "worker": 0, "show_progress": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": sizes["length"],
        # All events of train are in the file: nothing is split off.
        "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "user", "mode": "full"},
        "train_neg_sample_args": None, "loss_type": "CE", "train_batch_size": sizes["batch"],
        "n_layers": sizes["layers"], "n_heads": sizes["heads"], "hidden_size": sizes["dim"], "inner_size": sizes["dim"],
        "hidden_dropout_prob": sizes["dropout"], "attn_dropout_prob": sizes["dropout"], "learning_rate": sizes["rate"],
    })  # fmt: skip
    dataset = create_dataset(config)
    train_data, _, _ = data_preparation(config, dataset)

    def epoch() -> float:
        trainer = Trainer(config, SASRec(config, train_data.dataset))
        started = seconds()
        trainer._train_epoch(train_data, 0)
        return seconds() - started

    return epoch


if __name__ == "__main__":
    main()
