"""Low-rank adapters: put on a model before tuning, merged into its weights after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llmcf_cli.core.errors import LlmcfError, ModelError
from llmcf_cli.llm.config import AdapterTuneConfig, QLoraTuneConfig
from llmcf_cli.llm.models.load import check_network, load_causal_lm
from llmcf_cli.llm.models.trusted import WEIGHTS


def with_adapters(folder: Path, config: AdapterTuneConfig) -> Any:
    """A folder's model with adapters, which alone are trained.

    Args:
        folder: Hugging Face format.
        config: Rank, scale and layers; with `qlora` the weights are held in 4 bits.

    Raises:
        LlmcfError: The package peft is missing.
        ModelError: The model has no such layers.
    """
    if isinstance(config, QLoraTuneConfig):
        return _adapted(_in_four_bits(folder), config)
    return _adapted(load_causal_lm(folder, torch.float32), config)


def merged(network: Any, folder: Path, config: AdapterTuneConfig) -> Any:
    """A plain model with the adapters in its weights; those of `qlora` go into the folder's full weights."""
    if not isinstance(config, QLoraTuneConfig):
        return network.merge_and_unload()
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    whole = _adapted(load_causal_lm(folder, torch.float32), config)
    adapters = {name: weight.cpu().float() for name, weight in get_peft_model_state_dict(network).items()}
    set_peft_model_state_dict(whole, adapters)
    return whole.merge_and_unload()


def _adapted(network: Any, config: AdapterTuneConfig) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise LlmcfError("low-rank tuning needs the package peft", code="package-needed", where="llm.tune",
                         hint="pip install 'llmcf[llm]'") from error  # fmt: skip
    adapters = LoraConfig(
        task_type="CAUSAL_LM", r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
        target_modules=list(config.modules) or "all-linear",
    )  # fmt: skip
    try:
        return get_peft_model(network, adapters)
    except ValueError as error:
        linear = sorted({name.rpartition(".")[2] for name, module in network.named_modules()
                         if isinstance(module, torch.nn.Linear)})  # fmt: skip
        raise ModelError(
            "the model has no such layers to adapt", code="adapter-layers", where="llm.tune.modules", allowed=linear
        ) from error


def _in_four_bits(folder: Path) -> Any:
    """The folder's model on this process's GPU, linear layers in NF4 with doubly quantised scales."""
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    check_network(folder, AutoModelForCausalLM)
    bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    network = AutoModelForCausalLM.from_pretrained(
        str(folder), quantization_config=bits, device_map={"": torch.cuda.current_device()}, **WEIGHTS,
    )  # fmt: skip
    return prepare_model_for_kbit_training(network, use_gradient_checkpointing=False)
