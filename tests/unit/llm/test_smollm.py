"""The real models of the quickstart, at toy length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from llmcf_cli.llm.config import FullTuneConfig, TransformersEngineConfig
from llmcf_cli.llm.embed import TextEncoder
from llmcf_cli.llm.engines.transformers import TransformersEngine
from llmcf_cli.llm.mix import SCHEMA
from llmcf_cli.llm.models import hf_folder, load_causal_lm
from llmcf_cli.llm.tune import tune

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


@pytest.mark.slow
def test_smollm_is_converted_once_generates_and_learns(assets, tmp_path: Path, capfd) -> None:
    source = assets.path("asset:smollm2-135m-instruct")
    folder = hf_folder(source, tmp_path / "cache")
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert hf_folder(source, tmp_path / "cache") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert capfd.readouterr() == ("", "")

    engine = TransformersEngine(TransformersEngineConfig(max_new_tokens=12, temperature=0, precision="fp32"))
    engine.open(folder)
    assert "Paris" in engine.generate([QUESTION], [0])[0].text

    row = {"prompt": QUESTION, "completion": [{"role": "assistant", "content": "No"}], "source": "x",
           "prompt_tokens": 1, "completion_tokens": 1}  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row] * 2, schema=SCHEMA), tmp_path / "mix.parquet")
    config = FullTuneConfig(
        max_length=64,
        batch_size=2,
        max_steps=3,
        epochs=3,
        learning_rate=1e-4,
        warmup_ratio=0,
        schedule="constant",
    )
    report = tune(
        config,
        model=folder,
        mix=tmp_path / "mix.parquet",
        out=tmp_path / "out",
        work=tmp_path / "work",
        seed=1,
    )
    assert report.loss[-1][1] < report.loss[0][1]
    assert load_causal_lm(tmp_path / "out", torch.float32).num_parameters() == report.trained_parameters
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_minilm_puts_similar_texts_close(assets) -> None:
    encoder = TextEncoder(assets.path("asset:minilm-l6-v2"))
    vectors_NT = encoder.encode(["a space adventure", "a journey through outer space", "a cookbook of soups", ""])
    cosine_NN = vectors_NT @ vectors_NT.T
    assert vectors_NT.shape == (4, 384)
    assert cosine_NN[0, 1] > cosine_NN[0, 2] + 0.2
    assert not np.any(vectors_NT[3])
