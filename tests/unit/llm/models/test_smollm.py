"""The real models of the quickstart, at toy length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmcf_cli.llm.config import FullTuneConfig, TransformersEngineConfig
from llmcf_cli.llm.engines.transformers import TransformersEngine
from llmcf_cli.llm.mix.build import SCHEMA
from llmcf_cli.llm.models.encoder import TextEncoder
from llmcf_cli.llm.models.load import hf_folder, load_causal_lm
from llmcf_cli.llm.tuning.tune import tune

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


@pytest.fixture(scope="module")
def six_layers(smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of its 30 layers: few processors multiply bfloat16 fast."""
    folder = tmp_path_factory.mktemp("six_layers")
    AutoModelForCausalLM.from_pretrained(smollm, num_hidden_layers=6).save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_smollm_is_converted_once_generates_and_learns(
    assets, smollm: Path, six_layers: Path, tmp_path: Path, capfd
) -> None:
    folder = smollm
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert hf_folder(assets.path("asset:smollm2-135m-instruct"), folder.parent) == folder
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
        model=six_layers,
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


MEASURE = """
import re
import sys
from pathlib import Path
from llmcf_cli.llm.config import FullTuneConfig
from llmcf_cli.llm.tuning.epochs import plan_batches
from llmcf_cli.llm.tuning.estimate import Sharding, memory_needed, model_shape, planned_load
from llmcf_cli.llm.tuning.tokens import TokenisedMix
from llmcf_cli.llm.tuning.tune import tune

def peak():  # of this program; ru_maxrss starts with what the program had that started it
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])

folder, model = Path(sys.argv[1]), Path(sys.argv[2])
config = FullTuneConfig(max_length=256, batch_size=int(sys.argv[4]), precision=sys.argv[3])
import llmcf_cli.llm.tuning.trainer
before = peak()
tune(config, model=model, mix=folder / "mix.parquet", out=folder / "out", work=folder / "work", seed=1)
samples = TokenisedMix(folder / "work")
load = planned_load(samples, plan_batches(samples.lengths_N, config, 1), config)
needed = memory_needed(model_shape(model, config), load, config, sys.argv[3], Sharding())
print("RATIO", needed / (peak() - before))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "precision", "batch_size", "words"), [("smollm", "fp32", 4, 60), ("six_layers", "bf16", 2, 25)]
)
def test_the_estimate_of_memory_is_near_what_tuning_takes(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, precision: str, batch_size: int, words: int
) -> None:
    folder = request.getfixturevalue(model)
    # Two steps: only the second one has activations and the state of the optimiser at once.
    row = {"prompt": [{"role": "user", "content": "the film " * words}], "source": "x", "prompt_tokens": 1,
           "completion": [{"role": "assistant", "content": "a good one " * 5}], "completion_tokens": 1}  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row] * 2 * batch_size, schema=SCHEMA), tmp_path / "mix.parquet")
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(folder), precision, str(batch_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ratio = float(done.stdout.split("RATIO")[-1])
    print("estimate / measured", ratio)
    assert 0.75 < ratio < 1.5
