"""Language models on disk: finding, converting, checking and loading them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcf_cli.core.errors import LlmcfError, ModelError
from llmcf_cli.core.files import read_json
from llmcf_cli.core.hashing import digest_file
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.llm.models.sizes import check_size, numbers_held
from llmcf_cli.llm.models.trusted import LOCAL, MAX_JSON_BYTES, WEIGHTS, check_contained

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


def quiet_libraries() -> None:
    """Stop the Hugging Face libraries from printing bars and advice into our own progress display."""
    import warnings

    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|sentence_transformers)\.")


def hf_folder(path: Path, cache: Path, progress: Progress = SILENT) -> Path:
    """A folder in Hugging Face format holding the causal language model that `path` names.

    Args:
        path: A folder in Hugging Face format (returned as it is, after checks), a GGUF file, or a folder with one
            GGUF file.
        cache: Folder for converted models. A GGUF file is converted once, to fp32, under its digest.
        progress: Where the conversion is reported.

    Raises:
        ModelError: `path` holds no causal language model; says what was found.
    """
    if not path.exists():
        raise ModelError(
            "the model does not exist", code="path-missing", where=str(path), hint="correct llm.model in the recipe"
        )
    gguf = _gguf_file(path)
    if gguf is None:
        check_folder(path)
        return path
    target = cache / f"gguf-{digest_file(gguf)[:32]}"
    if not (target / "config.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with progress.task(f"convert {gguf.name}", 1, "models") as task:
            _convert(gguf, target)
            task.advance()
    check_folder(target)
    return target


def check_folder(folder: Path) -> None:
    """Check, without loading weights, that a folder holds a causal language model with its tokenizer.

    Raises:
        ModelError: It does not; says what was found.
    """
    where = str(folder)
    if not folder.is_dir():
        raise ModelError(
            "a model must be a folder in Hugging Face format or a .gguf file", code="model-folder", where=where
        )
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ModelError(f"the folder has no config.json; it contains {_listing(folder)}",
                         code="model-folder", where=where,
                         hint="give a folder in Hugging Face format or a .gguf file")  # fmt: skip
    check_contained(folder)
    config = read_json(config_file, MAX_JSON_BYTES, ModelError)
    if not isinstance(config, dict):
        raise ModelError("not a JSON object", code="model-config", where=str(config_file))
    _check_architecture(config, where)
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        found = "only pickled weights" if pickled else f"no weights; it contains {_listing(folder)}"
        raise ModelError(
            f"the folder has {found}",
            code="model-pickle" if pickled else "model-weights-missing",
            where=where,
            hint="convert the weights to .safetensors",
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"the folder has no tokenizer; it contains {_listing(folder)}",
                         code="model-tokenizer-missing", where=where,
                         allowed=TOKENIZER_FILES)  # fmt: skip


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, with a chat template, padding on the left and a padding token.

    Raises:
        ModelError: It cannot be loaded, has no chat template, or has neither padding nor end-of-text token.
    """
    quiet_libraries()
    from transformers import AutoTokenizer

    check_contained(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **LOCAL)
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelError(
            f"the tokenizer cannot be loaded: {_brief(error)}", code="model-unreadable", where=str(folder)
        ) from error
    if not tokenizer.chat_template:
        raise ModelError("the tokenizer has no chat template, so this is not a chat or instruct model",
                         code="model-chat-template-missing", where=str(folder),
                         hint="use the -instruct or -chat variant of the model")  # fmt: skip
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has neither a padding nor an end-of-text token", code="model-folder", where=str(folder)
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def context_length(folder: Path, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens, prompt and answer together, that the model of a folder is made for.

    Raises:
        ModelError: See `settings_of`.
    """
    shape = settings_of(folder).get_text_config()
    return int(getattr(shape, "max_position_embeddings", None) or tokenizer.model_max_length)


def settings_of(folder: Path) -> PretrainedConfig:
    """The configuration of a model folder, as the library has it.

    Raises:
        ModelError: It cannot be read, or is of a kind that only code of the folder knows.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), **LOCAL)
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelError(
            f"the model cannot be loaded: {_brief(error)}", code="model-unreadable", where=str(folder)
        ) from error


def check_network(folder: Path, kind: Any) -> None:
    """Check that a folder's network is about as large as its weights, before it gets any memory.

    Args:
        folder: Hugging Face format, safetensors.
        kind: The library's class that will load it: `AutoModelForCausalLM` or `AutoModel`.

    Raises:
        ModelError: It is far larger, or one of both cannot be read.
    """
    settings = settings_of(folder)
    packed = getattr(settings, "quantization_config", None) is not None
    held = numbers_held(sorted(folder.glob("*.safetensors")), packed=packed)
    check_size(folder / "config.json", lambda: kind.from_config(settings, trust_remote_code=False), held)


def load_causal_lm(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a folder, on the CPU, in evaluation mode.

    Args:
        folder: Hugging Face format, safetensors.
        dtype: Type of the weights.

    Raises:
        ModelError: The folder holds no causal language model, or its weights do not fit its configuration.
    """
    check_folder(folder)
    quiet_libraries()
    from transformers import AutoModelForCausalLM

    check_network(folder, AutoModelForCausalLM)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, output_loading_info=True, **WEIGHTS
        )
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelError(
            f"the model cannot be loaded: {_brief(error)}", code="model-unreadable", where=str(folder)
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        shown = ", ".join(missing[:3])
        raise ModelError(
            f"{len(missing)} weights are missing, e.g. {shown}", code="model-weights-missing", where=str(folder)
        )
    return model.eval()


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:  # fmt: skip
    """Write weights (safetensors), configuration, tokenizer and chat template to `out`, which appears only complete.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        out: Folder to write.
        weights: Gathered weights, where the model itself holds only a part of them.
    """
    with staged_folder(out) as folder:
        model.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """`with staged_folder(out) as folder`: fill `folder`; it is renamed to `out` when the block ends without error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if out.is_dir():
        shutil.rmtree(out)
    folder.chmod(0o755)
    folder.replace(out)


def computes_in_bf16() -> bool:
    """Whether the device that models run on has bfloat16 arithmetic of its own."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolved_precision(setting: str) -> str:
    """`fp32` or `bf16`: as set, and for `auto` bf16 where the device computes in it.

    There bf16 reads prompts 1.8 times as fast as fp32 and writes no slower, on CPUs too.
    """
    return setting if setting != "auto" else "bf16" if computes_in_bf16() else "fp32"


def load_to_ask(folder: Path, precision: str) -> PreTrainedModel:
    """The model of a folder on the best device, for inference alone, its weights in `precision` (see there).

    Raises:
        ModelError: See `load_causal_lm`.
    """
    import torch

    from llmcf_cli.llm.models.packed import pack_linears

    dtype = torch.bfloat16 if resolved_precision(precision) == "bf16" else torch.float32
    model = load_causal_lm(folder, dtype).to(best_device())
    if model.device.type == "cpu":
        pack_linears(model)
    return model


def best_device() -> torch.device:
    """The first GPU, or the CPU."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _gguf_file(path: Path) -> Path | None:
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(
                "a model must be a folder in Hugging Face format or a .gguf file", code="model-folder", where=str(path)
            )
        return path
    if (path / "config.json").is_file():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise ModelError("the folder contains several GGUF files",
                         code="model-folder", where=str(path), allowed=[f.name for f in files],
                         hint="name one of them in llm.model")  # fmt: skip
    return files[0] if files else None


def _convert(gguf: Path, target: Path) -> None:
    import torch

    try:
        import gguf as _  # noqa: F401
    except ModuleNotFoundError as error:
        raise LlmcfError(
            "reading GGUF needs the package gguf",
            code="package-needed",
            where=str(gguf),
            hint="pip install 'llmcf[llm]'",
        ) from error
    quiet_libraries()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        # Alone in a folder: the libraries would read what lies beside it too, and the digest that the result is kept
        # under is of the file only.
        with tempfile.TemporaryDirectory(prefix=".gguf-", dir=target.parent) as alone, _no_gguf_bar():
            (Path(alone) / "model.gguf").symlink_to(gguf.resolve())
            source = {"pretrained_model_name_or_path": alone, "gguf_file": "model.gguf", **LOCAL}
            tokenizer = AutoTokenizer.from_pretrained(**source)
            model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelError(f"the GGUF file cannot be read as a causal language model: {_brief(error)}",
                         code="model-unreadable", where=str(gguf)) from error  # fmt: skip
    _forget_quantisation(model)
    save_model(model, tokenizer, target)


@contextmanager
def _no_gguf_bar() -> Iterator[None]:
    """The GGUF reader draws its bar with tqdm itself, past the library's own switch."""
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar


def _forget_quantisation(model: Any) -> None:
    """The weights are plain fp32 by now; marks of where they came from would make `save_pretrained` refuse."""
    for owner, name in (
        (model, "is_quantized"), (model, "quantization_method"), (model, "hf_quantizer"),
        (model.config, "quantization_config"),
    ):  # fmt: skip
        if name in vars(owner):
            delattr(owner, name)


def _check_architecture(config: dict[str, Any], where: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as known

    named = config.get("architectures") or []
    if named:
        classes: set[str] = set()
        for value in known.values():
            classes.update((value,) if isinstance(value, str) else value)
        fits = any(name in classes for name in named)
    else:
        fits = config.get("model_type") in known
    if not fits:
        found = ", ".join(named) or f"model_type {config.get('model_type')!r}"
        raise ModelError(f"not a causal language model: config.json has {found}",
                         code="model-architecture", where=where,
                         hint="use a decoder that generates text, e.g. asset:smollm2-135m-instruct")  # fmt: skip


def _listing(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return (", ".join(names[:6]) + (", …" if len(names) > 6 else "")) or "nothing"


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "…"
