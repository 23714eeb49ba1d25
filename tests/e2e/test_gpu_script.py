"""`benchmarks/gpu.py` where there is no GPU: every check in its reduced form, and what becomes of checks that fail."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
CHECKS = ["core", "epoch", "search", "search_rate", "tuning", "sharding", "generation", "teacher", "embedding"]


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]], dict[str, Any]]:
    """Exit code, the line of each check in order, and the summary."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--folder", str(folder), "--device", "cpu", "--quick", *arguments],
        stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    *lines, summary = map(json.loads, done.stdout.splitlines())
    return done.returncode, {line["name"]: line for line in lines}, summary


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_script", module)
    spec.loader.exec_module(module)
    return module


def save_encoder(folder: Path, work: Path) -> None:
    """A sentence encoder of two layers that reads letters, without its weights."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    fast.save_pretrained(work)
    config = BertConfig(
        vocab_size=len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(work)
    SentenceTransformer(modules=[Transformer(str(work)), Pooling(24)], device="cpu").save(str(folder))
    (folder / "model.safetensors").unlink()


@pytest.mark.slow
def test_every_check_runs_and_holds_in_its_reduced_form(tiny_llm: ModuleType, tmp_path: Path) -> None:
    tiny_llm.save_tiny_model(tmp_path / "models" / "smollm2-135m-instruct")
    save_encoder(tmp_path / "models" / "minilm-l6-v2", tmp_path / "bert")
    code, lines, summary = run(tmp_path, "--minutes", "60")
    assert {name: line.get("faults") for name, line in lines.items()} == dict.fromkeys(CHECKS)
    assert list(lines) == CHECKS
    assert code == 0
    assert (summary["ok"], summary["ratio"], summary["detail"]["missed"]) == (True, 1.0, [])
    details = {name: line["detail"] for name, line in lines.items()}
    assert details["generation"]["weights"] == "given"
    assert details["embedding"]["weights"] == "random"
    assert details["sharding"]["largest_difference"].keys() == {"cpu"}
    assert 0 < lines["core"]["ratio"] < 1  # float32 is not float64, on any device
    assert details["generation"]["fp32"]["equal"] == 1


@pytest.mark.slow
def test_a_check_that_fails_stops_no_other(tmp_path: Path) -> None:
    code, lines, summary = run(tmp_path, "--only", "embedding", "search", "teacher")
    assert code == 1
    assert {name: line["ok"] for name, line in lines.items()} == {"embedding": False, "search": True, "teacher": False}
    assert str(tmp_path / "models" / "minilm-l6-v2" / "config.json") in lines["embedding"]["faults"][0]
    assert summary["detail"]["missed"] == ["embedding", "teacher"]


def test_what_the_time_does_not_suffice_for_is_no_success(tmp_path: Path) -> None:
    code, lines, summary = run(tmp_path, "--only", "core", "search", "--minutes", "0.001")
    assert code == 1
    assert {name: line["ok"] for name, line in lines.items()} == {"core": False, "search": False}
    assert not summary["ok"]


def test_wheels_of_the_folder_are_installed(script: ModuleType, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    assert script.install(wheels, tmp_path / "site") == (None, "")
    wheel = wheels / "llmcf_probe-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llmcf_probe.py", "FOUND = 7\n")
        archive.writestr(
            "llmcf_probe-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: llmcf-probe\nVersion: 1.0\n"
        )
        archive.writestr(
            "llmcf_probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("llmcf_probe-1.0.dist-info/RECORD", "")
    site, fault = script.install(wheels, tmp_path / "site")
    assert (site, fault) == (tmp_path / "site", "")
    environment = script.surroundings("cpu", site)
    found = subprocess.run(
        [sys.executable, "-c", "import llmcf_probe, llmcf_cli; print(llmcf_probe.FOUND)"], env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == "7\n"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    wheel.write_bytes(b"no zip")
    assert script.install(wheels, tmp_path / "other")[1]
