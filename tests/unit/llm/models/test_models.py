from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from refusals import refused

from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.models.load import hf_folder, load_causal_lm, load_tokenizer, save_model, staged_folder


def test_a_good_folder_is_used_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    assert hf_folder(tiny_model, tmp_path / "cache") == tiny_model
    assert not (tmp_path / "cache").exists()
    assert load_causal_lm(tiny_model, torch.bfloat16).dtype == torch.bfloat16


def test_saved_model_loads_with_its_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load_causal_lm(tiny_model, torch.float32), load_tokenizer(tiny_model)
    save_model(model, tokenizer, tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").chat_template == tokenizer.chat_template
    again = load_causal_lm(tmp_path / "copy", torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert {p.suffix for p in (tmp_path / "copy").iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_missing_padding_token_is_handled(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    assert tokenizer.pad_token == "<|end|>"
    assert tokenizer.padding_side == "left"


def _config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda f: (f / "config.json").unlink(), "model-folder"),
        (lambda f: (f / "config.json").write_text("{"), "json-invalid"),
        (
            lambda f: _config(f, architectures=["BertModel"]),
            "model-architecture",
        ),
        (lambda f: _config(f, architectures=None, model_type="vit"), "model-architecture"),
        (lambda f: (f / "model.safetensors").unlink(), "model-weights-missing"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "model-pickle"),
        (lambda f: (f / "tokenizer.json").unlink(), "model-tokenizer-missing"),
    ],
)
def test_what_is_no_language_model_is_refused_by_name(tiny_model: Path, tmp_path: Path, spoil, code: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    spoil(folder)
    with refused(code, ModelError) as error:
        hf_folder(folder, tmp_path)
    assert str(error.value.where).startswith(str(folder))


def test_base_models_without_chat_template_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").unlink()
    with refused("model-chat-template-missing", ModelError):
        load_tokenizer(folder)


def test_weights_that_do_not_fit_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    _config(folder, num_hidden_layers=3)
    with refused("model-weights-missing", ModelError):
        load_causal_lm(folder, torch.float32)


@pytest.mark.parametrize("name", ["absent", "notes.txt", "broken.gguf"])
def test_files_that_are_no_models_are_refused(tmp_path: Path, name: str) -> None:
    if name != "absent":
        (tmp_path / name).write_text("hello")
    with pytest.raises(ModelError):
        hf_folder(tmp_path / name, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("gguf-*"))


def test_several_gguf_files_are_listed(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_text("x")
    with pytest.raises(ModelError) as error:
        hf_folder(tmp_path, tmp_path / "cache")
    assert error.value.allowed == ("a.gguf", "b.gguf")


def test_staged_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "out") as folder:
        (folder / "part").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with staged_folder(tmp_path / "out") as folder:
        (folder / "part").write_text("x")
    assert (tmp_path / "out" / "part").read_text() == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_settings_import_nothing_heavy() -> None:
    script = (
        "import sys, llmcf_cli.llm.config, llmcf_cli.recipe.prompt;"
        "print([m for m in ('torch', 'numpy', 'pyarrow', 'duckdb', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def write_gguf(path: Path) -> None:
    """A tiny model with a tokenizer and a chat template of its own."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(str(path), "llama")
    for name, value in {"context_length": 64, "embedding_length": 8, "block_count": 1, "feed_forward_length": 16,
                        "head_count": 2, "head_count_kv": 2, "layer_norm_rms_eps": 1e-5, "rope_dimension_count": 4,
                        "vocab_size": 6, "tokenizer_model": "gpt2", "token_merges": ["a b"], "bos_token_id": 1,
                        "token_list": ["<unk>", "<s>", "</s>", "a", "b", "ab"], "token_types": [2, 3, 3, 1, 1, 1],
                        "eos_token_id": 2, "unk_token_id": 0, "chat_template": "{{ 'own' }}"}.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    rng = np.random.default_rng(0)
    block = {"attn_q": (8, 8), "attn_k": (8, 8), "attn_v": (8, 8), "attn_output": (8, 8), "ffn_gate": (16, 8),
             "ffn_up": (16, 8), "ffn_down": (8, 16), "attn_norm": (8,), "ffn_norm": (8,)}  # fmt: skip
    shapes = {"token_embd": (6, 8), "output_norm": (8,), "output": (6, 8)} | {f"blk.0.{n}": s for n, s in block.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_what_lies_beside_a_gguf_file_is_not_read(tmp_path: Path) -> None:
    """The converted model is kept under the file's digest, for every recipe of this machine."""
    write_gguf(tmp_path / "m.gguf")
    (tmp_path / "chat_template.jinja").write_text("{{ 'stranger' }}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "a"}))
    tokenizer = load_tokenizer(hf_folder(tmp_path / "m.gguf", tmp_path / "cache"))
    assert (tokenizer.chat_template, tokenizer.eos_token) == ("{{ 'own' }}", "</s>")
