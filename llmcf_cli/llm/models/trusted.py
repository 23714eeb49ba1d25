"""What a folder with a model or an encoder may say. Folders come from strangers: nothing in them runs.

Weights are safetensors, or a GGUF file that is converted. `auto_map` and custom modules are never followed. Of an
encoder's own files only keys and modules that are known are accepted, since the library passes the others on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import LlmcfError, ModelError
from llmcf_cli.core.files import kind_of, read_json
from llmcf_cli.llm.models.sizes import check_numbers, numbers_held

LOCAL = {"local_files_only": True, "trust_remote_code": False}
"""Arguments of every `from_pretrained`: nothing is fetched, and no code of the folder runs."""
WEIGHTS = {**LOCAL, "use_safetensors": True}
"""Those of one that loads weights."""

_MODULES = ("Transformer", "Pooling", "Normalize", "Dense")
_PACKAGE = "sentence_transformers."
_ACTIVATIONS = ("torch.nn.modules.activation.", "torch.nn.modules.linear.Identity")
_TRANSFORMER_KEYS = frozenset({"max_seq_length", "do_lower_case", "transformer_task", "modality_config",
                               "module_output_name"})  # fmt: skip
_DENSE_KEYS = frozenset({"in_features", "out_features", "bias", "activation_function", "module_input_name",
                         "module_output_name"})  # fmt: skip
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_ADAPTER = "adapter_config.json"
_PLAIN = re.compile(r"[^/\\\x00]+")
_WORD = re.compile(r"[a-z0-9_]+")
_IMPLEMENTATIONS = frozenset({"attn_implementation", "attn_implementation_internal", "experts_implementation",
                              "experts_implementation_internal"})  # fmt: skip
MAX_JSON_BYTES = 1 << 20
MAX_INDEX_BYTES = 1 << 24
MAX_TEXT_BYTES = 1 << 26
"""Of a file that is no weights; the largest vocabularies there are have half of it."""
MAX_ADDED_TOKENS = 20_000
MAX_LAYERS = 1_000
MAX_COUNT = 1 << 16
"""Of any other things that a configuration has numbers of: heads, experts, labels, of which it makes lists."""
_COUNTS = re.compile(r"(num|n)_(?!(ctx|embd|inner|positions|words|mels?|frames)).*")
_MOST = {
    "config.json": MAX_JSON_BYTES, "generation_config.json": MAX_JSON_BYTES, "special_tokens_map.json": MAX_JSON_BYTES,
    "added_tokens.json": MAX_JSON_BYTES, "chat_template.jinja": MAX_JSON_BYTES, "tokenizer_config.json": 1 << 24,
}  # fmt: skip
_WEIGHT_SUFFIXES = (".safetensors", ".gguf", *_PICKLED, ".h5", ".msgpack", ".onnx", ".ot")
"""Weights, and what nothing reads."""


def check_encoder(folder: Path) -> None:
    """Check a folder in sentence-transformers format before the library reads it.

    Raises:
        ModelError: It names a module, a key or an activation that is not known, or keeps weights in pickles.
    """
    types = dict(modules_of(folder))
    for place, kind in types.items():
        if kind == "Transformer":
            for name in ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlnet_config.json"):
                _refuse_keys(place / name, _TRANSFORMER_KEYS)
            check_contained(place)
        if kind == "Dense":
            settings = _refuse_keys(place / "config.json", _DENSE_KEYS)
            given = [settings.get(key) for key in ("in_features", "out_features")]
            sizes = [size for size in given if isinstance(size, int)]
            if len(sizes) == len(given):
                check_numbers(
                    place / "config.json", math.prod(sizes), numbers_held(sorted(place.glob("*.safetensors")))
                )
            activation = str(settings.get("activation_function", _ACTIVATIONS[1]))
            if not activation.startswith(_ACTIVATIONS):
                what = f"names the activation {activation!r:.80}, which PyTorch does not have"
                raise ModelError(
                    what, code="model-module-refused", where=str(place / "config.json"), hint="use another encoder"
                )
        if kind in ("Transformer", "Dense"):
            refuse_pickles(place)


def check_contained(folder: Path) -> None:
    """Check that a folder in Hugging Face format names nothing beyond itself, before a library reads it.

    Raises:
        ModelError: It has an adapter, which names another model; weights in other folders or formats; or an
            implementation that would be fetched and run.
    """
    if (folder / _ADAPTER).exists():
        raise ModelError("is an adapter for another model", code="model-adapter", where=str(folder / _ADAPTER),
                         hint="if you trust both, merge it into its model and use the result")  # fmt: skip
    _check_sizes(folder)
    for index in sorted(folder.glob("*.safetensors.index.json")):
        found = _json(index, MAX_INDEX_BYTES)
        shards = found.get("weight_map") if isinstance(found, dict) else None
        for shard in set(map(str, shards.values())) if isinstance(shards, dict) else [""]:
            if not shard.endswith(".safetensors") or not _PLAIN.fullmatch(shard):
                raise ModelError(f"names the weights {shard!r:.80}, which are not safetensors of its own",
                                 code="model-foreign-files", where=str(index),
                                 hint="convert the weights to .safetensors")  # fmt: skip
    config = folder / "config.json"
    if config.is_file():
        for key, value in _settings(_json(config)):
            if "layer" in key and isinstance(value, int) and value > MAX_LAYERS:
                raise ModelError(f"has {value:,} layers ({key!r:.80}); at most {MAX_LAYERS:,} are allowed",
                                 code="model-limit", where=str(config))  # fmt: skip
            if _COUNTS.fullmatch(key) and isinstance(value, int | float) and not value <= MAX_COUNT:
                raise ModelError(f"has {key!r:.80} {value:,}; at most {MAX_COUNT:,} is allowed",
                                 code="model-limit", where=str(config))  # fmt: skip
            if key.strip("_") in _IMPLEMENTATIONS and not _is_built_in(value):
                raise ModelError(f"has {key} {value!r:.80}, whose code would be fetched and run",
                                 code="model-remote-code", where=str(config),
                                 hint=f"remove {key}")  # fmt: skip


def _check_sizes(folder: Path) -> None:
    """Check that what a library would read at once ends soon: no pipes, huge files or huge lists of tokens."""
    for file in sorted(folder.iterdir()):
        try:
            kind = kind_of(file)
        except LlmcfError as error:
            raise ModelError(error.what, code=error.code, where=error.where, hint=error.hint) from error
        if kind == "file" and file.suffix not in _WEIGHT_SUFFIXES:
            most = _MOST.get(file.name, MAX_TEXT_BYTES)
            if file.stat().st_size > most:
                raise ModelError(f"is larger than {most:,} bytes", code="file-limit", where=str(file))
    for name, key in (("tokenizer.json", "added_tokens"), ("tokenizer_config.json", "added_tokens_decoder")):
        if (folder / name).is_file():
            settings = _json(folder / name, _MOST.get(name, MAX_TEXT_BYTES))
            tokens = settings.get(key) if isinstance(settings, dict) else None
            if isinstance(tokens, list | dict) and len(tokens) > MAX_ADDED_TOKENS:
                what = f"adds {len(tokens):,} tokens to the vocabulary; at most {MAX_ADDED_TOKENS:,} are allowed"
                raise ModelError(what, code="model-limit", where=str(folder / name))


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Key and value of every setting, at all levels."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield str(key), inner
        yield from _settings(inner)


def _is_built_in(implementation: Any) -> bool:
    """Whether a library has it itself: `sdpa`, not `NAME/KERNEL`; or one for each part of a model."""
    if isinstance(implementation, dict):
        return all(map(_is_built_in, implementation.values()))
    return implementation is None or (isinstance(implementation, str) and _WORD.fullmatch(implementation) is not None)


def refuse_pickles(folder: Path) -> None:
    """Check that a folder keeps its weights as safetensors.

    Raises:
        ModelError: It has files of pickles and no safetensors.
    """
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    pickled = [name for name in files if name.endswith(_PICKLED)]
    if pickled and not any(name.endswith(".safetensors") for name in files):
        raise ModelError(
            f"keeps its weights in {pickled[0]}, a pickle, which can run code when read",
            code="model-pickle", where=str(folder),
            hint="if you trust them, convert them to safetensors; or use another model",
        )  # fmt: skip


def modules_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """Folder and known name of each module; of a folder without `modules.json` its one transformer."""
    listed = folder / "modules.json"
    if not listed.is_file():
        yield folder, "Transformer"
        return
    modules = _json(listed)
    for module in modules if isinstance(modules, list) else [modules]:
        kind, path = (str(module.get(key, "")) if isinstance(module, dict) else "" for key in ("type", "path"))
        name = kind.rpartition(".")[2]
        if not kind.startswith(_PACKAGE) or name not in _MODULES:
            raise ModelError(
                f"names the module {kind!r:.80}", code="model-module-refused", where=str(listed), allowed=_MODULES
            )
        place = (folder / path).resolve()
        if not place.is_relative_to(folder.resolve()) or (name != "Normalize" and not place.is_dir()):
            raise ModelError(
                f"names the folder {path!r:.80}, which is not its own",
                code="model-foreign-files",
                where=str(listed),
            )
        yield place, name


def _refuse_keys(file: Path, known: frozenset[str]) -> dict[str, Any]:
    """The settings of a file, all known; none where there is no such file."""
    if not file.is_file():
        return {}
    settings = _json(file)
    if not isinstance(settings, dict):
        raise ModelError("not a JSON object", code="model-config", where=str(file))
    strange = sorted(set(settings) - known)
    if strange:
        what = f"has the key {strange[0]!r:.80}, which is unknown or changes how files are loaded"
        raise ModelError(
            what,
            code="model-config",
            where=str(file),
            allowed=sorted(known),
            hint="remove the key, if the encoder works without it",
        )
    return settings


def _json(file: Path, most: int = MAX_JSON_BYTES) -> Any:
    return read_json(file, most, ModelError)
