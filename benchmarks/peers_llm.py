"""TRL's SFTTrainer with its own packing, trained step by step; runs in the peers' environment.

    python benchmarks/peers_llm.py packed|padding-free MODEL SAMPLES.parquet TOKENS PRECISION wall|cpu

SAMPLES has a list of tokens per sample (`input_ids`) and which of them are the answer's (`completion_mask`); a batch
has about TOKENS of them. `packed` fills rows by best fit, `padding-free` puts as many samples side by side as fit on
average. Each line on standard input asks for an optimiser step and is answered with its seconds per token. One thread.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from stepwise import Stepwise
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Build the trainer and answer."""
    kind, model, samples, tokens, precision, clock = sys.argv[1:]
    torch.set_num_threads(1)
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        data = Dataset.from_parquet(samples)
        mean = sum(map(len, data["input_ids"])) / len(data)
        size = {"per_device_train_batch_size": 1, "packing": True, "max_length": int(tokens)}
        if kind == "padding-free":
            size = {"per_device_train_batch_size": max(1, round(int(tokens) / mean)), "padding_free": True,
                    "max_length": None}  # fmt: skip
        settings = SFTConfig(
            output_dir=tempfile.mkdtemp(), max_steps=10_000, learning_rate=1e-5, lr_scheduler_type="constant",
            bf16=precision == "bf16", use_cpu=True,
            gradient_checkpointing=False, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
            **size,
        )  # fmt: skip
        trainer = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), settings, train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(model),
        )  # fmt: skip
        Stepwise(answers, clock).watch(trainer)


if __name__ == "__main__":
    main()
