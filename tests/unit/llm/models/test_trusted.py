"""Folders of models and encoders from strangers run no code."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from refusals import refused
from resources import used
from transformers import BertConfig, BertModel, BertTokenizerFast

from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.models.encoder import TextEncoder
from llmcf_cli.llm.models.load import context_length, load_causal_lm, load_tokenizer
from llmcf_cli.llm.models.sizes import numbers_held
from llmcf_cli.llm.models.trusted import MAX_ADDED_TOKENS, check_contained, check_encoder


class Bomb:
    """What a pickle may hold: a call that is made when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def encoder(tmp_path):
    """A whole small encoder."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film"]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    shape = BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(shape).save_pretrained(folder)
    modules = [{"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
               for n, (kind, path) in enumerate([("Transformer", ""), ("Pooling", "1_Pooling")])]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": True}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True})
    )
    return folder


def poisoned(folder: Path, mark: Path) -> None:
    """Put a pickle that leaves a mark in the place of the weights."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))


def test_a_sound_encoder_loads(encoder):
    check_encoder(encoder)
    assert TextEncoder(encoder).encode(["a film"]).shape == (1, 8)


def test_the_pickle_would_have_run(encoder, tmp_path):
    """The control: read without care, the folder of the next test leaves its mark."""
    poisoned(encoder, tmp_path / "mark")
    with contextlib.suppress(RuntimeError):  # that it holds no weights is noticed too late
        torch.load(encoder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("asks", [False, True], ids=["alone", "asked for by the folder"])
def test_pickled_weights_are_never_read(encoder, tmp_path, asks):
    poisoned(encoder, tmp_path / "mark")
    if asks:
        settings = {"max_seq_length": 16, "model_args": {"weights_only": False, "use_safetensors": False}}
        (encoder / "sentence_bert_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError):  # before any library looks at the folder
        check_encoder(encoder)
    with pytest.raises(ModelError) as caught:
        TextEncoder(encoder)
    assert ("model_args" if asks else "pickle") in caught.value.what
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("modules.json", [{"path": "", "type": "os.system"}]),
        ("modules.json", [{"path": "", "type": "modeling.Mine"}]),
        ("modules.json", [{"path": "../..", "type": "sentence_transformers.models.Transformer"}]),
        ("modules.json", ["sentence_transformers.models.Transformer"]), ("modules.json", 7),
        ("sentence_bert_config.json", {"tokenizer_args": {"trust_remote_code": True}}),
        ("sentence_bert_config.json", {"config_args": {}}), ("sentence_bert_config.json", []),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused(encoder, file, content):
    (encoder / file).write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        TextEncoder(encoder)
    assert str(caught.value.where) == str(encoder / file)


def test_a_dense_layer_has_an_activation_of_pytorch(encoder):
    modules = json.loads((encoder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (encoder / "modules.json").write_text(json.dumps(modules))
    (encoder / "2_Dense").mkdir()
    (encoder / "2_Dense" / "config.json").write_text(
        json.dumps({"in_features": 8, "out_features": 8, "activation_function": "os.abort"})
    )
    with refused("model-module-refused", ModelError):
        check_encoder(encoder)


@pytest.mark.parametrize("load", [load_tokenizer, lambda folder: load_causal_lm(folder, torch.float32),
                                  lambda folder: context_length(folder, load_tokenizer(folder))])  # fmt: skip
@pytest.mark.parametrize("kind", ["llama", "mine"], ids=["known", "unknown"])
def test_code_of_a_model_folder_never_runs(tiny_model, tmp_path, monkeypatch, load, kind):
    """`auto_map` is passed by: the known architecture is taken, or the folder refused; nobody is asked."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(tiny_model).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    code = f"from pathlib import Path\nPath({str(tmp_path / 'mark')!r}).touch()\n"
    (folder / "mine.py").write_text(code)
    mapped = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model", "AutoTokenizer": ["mine.Slow", None]}
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, "model_type": kind, "auto_map": mapped}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with contextlib.suppress(ModelError):
        load(folder)
    assert not (tmp_path / "mark").exists()


def _copy(source: Path, to: Path) -> Path:
    to.mkdir(parents=True)
    for file in Path(source).iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def _shards_of(folder: Path, shard: str) -> None:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as weights:
        names = list(weights.keys())
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_of_another_folder_are_not_read(tiny_model, tmp_path):
    """An index may name files; joined with the folder, `../other/model.safetensors` is one elsewhere."""
    other, folder = _copy(tiny_model, tmp_path / "other"), _copy(tiny_model, tmp_path / "model")
    _shards_of(folder, "../other/model.safetensors")
    (folder / "model.safetensors").rename(folder / "unused.safetensors")
    assert (folder / "../other/model.safetensors").samefile(other / "model.safetensors")
    with refused("model-foreign-files", ModelError):
        load_causal_lm(folder, torch.float32)
    for shard in ("model.bin", str(other / "model.safetensors"), ".."):
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        index["weight_map"] = {"x": shard}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError):
            check_contained(folder)


def test_whole_shards_of_a_folder_are_read(tiny_model, tmp_path):
    folder = _copy(tiny_model, tmp_path / "model")
    _shards_of(folder, "one.safetensors")
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    assert load_causal_lm(folder, torch.float32).config.vocab_size


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_no_kernel_is_fetched(tiny_model, encoder, tmp_path, key):
    model = _copy(tiny_model, tmp_path / "model")
    for folder, load in ((model, lambda folder: load_causal_lm(folder, torch.float32)), (encoder, TextEncoder)):
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**settings, "text_config": {key: "stranger/kernel"}}))
        with refused("model-remote-code", ModelError):
            load(folder)
        (folder / "config.json").write_text(json.dumps({**settings, key: "eager"}))
        check_contained(folder)


def test_an_encoder_is_no_adapter_to_a_model_elsewhere(encoder, tmp_path):
    (tmp_path / "private").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "private" / name).write_bytes((encoder / name).read_bytes())
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "private"), "target_modules": ["query"]}
    (encoder / "adapter_config.json").write_text(json.dumps(adapter))
    with refused("model-adapter", ModelError):
        TextEncoder(encoder)


def test_nobody_is_asked_about_code_of_an_unknown_encoder(encoder, monkeypatch):
    """Of a kind that the library knows, `auto_map` is passed by; of another, it would ask at the terminal."""
    settings = json.loads((encoder / "config.json").read_text())
    (encoder / "mine.py").write_text("")
    mapped = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    (encoder / "config.json").write_text(json.dumps({**settings, "model_type": "mine", "auto_map": mapped}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(ModelError):
        TextEncoder(encoder)


def _grow(file: Path, size: int) -> None:
    with file.open("ab") as handle:
        handle.truncate(size)


@pytest.mark.parametrize(
    ("name", "size"), [("config.json", 1 << 21), ("tokenizer_config.json", 1 << 25), ("tokenizer.json", 1 << 27),
                       ("vocab.txt", 1 << 27), ("chat_template.jinja", 1 << 21)],
)  # fmt: skip
def test_huge_files_are_not_read(tiny_model, encoder, tmp_path, name, size):
    for folder, load in ((_copy(tiny_model, tmp_path / "model"), load_tokenizer), (encoder, TextEncoder)):
        _grow(folder / name, size)  # sparse: it takes no room
        with pytest.raises(ModelError, match="is larger than"):
            load(folder)


def test_huge_numbers_of_tokens_and_layers_are_refused(tiny_model, tmp_path):
    folder = _copy(tiny_model, tmp_path / "model")
    whole = {name: (folder / name).read_text() for name in ("tokenizer.json", "tokenizer_config.json", "config.json")}
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    many = [{**token, "id": 1000 + n, "content": f"<t{n}>"} for n in range(MAX_ADDED_TOKENS + 1)]
    for name, change in (
        ("tokenizer.json", {"added_tokens": many}),
        ("tokenizer_config.json", {"added_tokens_decoder": {str(one["id"]): one for one in many}}),
        ("config.json", {"num_hidden_layers": 10**9}),
    ):
        (folder / name).write_text(json.dumps({**json.loads(whole[name]), **change}))
        with pytest.raises(ModelError, match="at most"):
            load_tokenizer(folder)
        (folder / name).write_text(whole[name])
    load_tokenizer(folder)


def test_a_pipe_in_a_model_folder_is_not_waited_for(tiny_model, tmp_path):
    folder = _copy(tiny_model, tmp_path / "model")
    os.mkfifo(folder / "added_tokens.json")
    with pytest.raises(ModelError, match="named pipe"):
        load_tokenizer(folder)


HUGE = (10**7, 10**9, 2**63)
"""Of what a library would make at once: the smallest would fit into the memory of a large machine."""


def settings_changed(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "head_dim", "num_attention_heads",
                                 "num_key_value_heads", "num_labels", "num_hidden_layers"])  # fmt: skip
def test_a_model_that_says_it_is_huge_takes_no_memory(tiny_model, tmp_path, key, size):
    folder = _copy(tiny_model, tmp_path / "model")
    load_causal_lm(folder, torch.float32)
    settings_changed(folder, **{key: size})
    with used() as found, pytest.raises(ModelError):
        load_causal_lm(folder, torch.float32)
    assert found.seconds < 2
    assert found.mebibytes < 100


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings",
                                 "type_vocab_size", "num_hidden_layers", "num_labels"])  # fmt: skip
def test_an_encoder_that_says_it_is_huge_takes_no_memory(encoder, key, size):
    TextEncoder(encoder)
    settings_changed(encoder, **{key: size})
    with used() as found, pytest.raises(ModelError):
        TextEncoder(encoder)
    assert found.seconds < 2
    assert found.mebibytes < 100


@pytest.mark.parametrize("size", HUGE)
def test_layers_of_an_encoder_that_say_they_are_huge_take_no_memory(encoder, size):
    TextEncoder(encoder)  # libraries are imported once
    pooling = encoder / "1_Pooling" / "config.json"
    whole = pooling.read_text()
    pooling.write_text(json.dumps({**json.loads(whole), "word_embedding_dimension": size}))
    with used() as found, refused("encoder-unusable", ModelError):
        TextEncoder(encoder)
    pooling.write_text(whole)
    modules = json.loads((encoder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (encoder / "modules.json").write_text(json.dumps(modules))
    (encoder / "2_Dense").mkdir()
    (encoder / "2_Dense" / "config.json").write_text(json.dumps({"in_features": 8, "out_features": size}))
    with used() as more, refused("model-limit", ModelError):
        TextEncoder(encoder)
    assert max(found.mebibytes, more.mebibytes) < 100


def test_weights_of_four_bits_stand_for_more_numbers(tiny_model, tmp_path):
    files = [Path(tiny_model) / "model.safetensors"]
    assert numbers_held(files, packed=True) == 8 * numbers_held(files)
    with refused("model-unreadable", ModelError):
        (tmp_path / "a.safetensors").write_bytes(b"\xff" * 100)
        numbers_held([tmp_path / "a.safetensors"])
