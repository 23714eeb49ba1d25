"""SASRec by RecTools, trained with its own loader and loop; runs in the peers' environment.

    python benchmarks/peers_retrieval.py EVENTS.npz sampled_softmax|gBCE SIZES.json cpu|wall

EVENTS has integer columns `user`, `item` and `time`. Each line on standard input asks for an epoch and is answered with
its seconds, those of the loop over batches alone. One thread, no worker processes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import warnings

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
        epoch = rectools(events, loss, json.loads(sizes), time.perf_counter if clock == "wall" else time.process_time)
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


if __name__ == "__main__":
    main()
