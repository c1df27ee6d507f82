"""Precision, quantisation, attention and placement of the frozen base, as arguments of ``from_pretrained``."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any

import torch

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.errors import ModelError
from fs_fedmllm.extras import require_extra
from fs_fedmllm.models.families import Family


def _worth_saying(record: logging.LogRecord) -> bool:
    """Whether what bitsandbytes says while it is imported concerns the run.

    PEFT imports it wherever it is installed, for runs without quantisation too, and on some processors it then warns
    that a faster 4-bit kernel was not downloaded. Nothing is downloaded here, and its own kernel is used. Everything
    else it says is let through.
    """
    return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward from kernels-community")


# A filter belongs to one logger, so it has to be there before the module that logs is imported.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_worth_saying)


def precision_arguments(
    options: ModelOptions, config: Mapping[str, Any], family: Family, device: torch.device
) -> dict[str, Any]:
    """Keyword arguments for loading the model.

    Raises:
        ModelError: a package is missing, or the configuration contradicts a checkpoint that is quantised already.
    """
    arguments: dict[str, Any] = {"dtype": getattr(torch, options.dtype)}
    if options.attention:
        if options.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
            raise ModelError(
                "model.fedmllm.attention is flash_attention_2, but the package flash_attn is not installed "
                "(pip install flash-attn, with a GPU and its compiler). sdpa is nearly as fast."
            )
        arguments["attn_implementation"] = options.attention
    quantised = quantization_of(config)
    wanted = options.quantization.type
    if quantised and wanted not in ("none", quantised):
        raise ModelError(
            f"model.fedmllm.quantization.type is {wanted}, but the checkpoint {options.path!r} is quantised to "
            f"{quantised} already. Set it to none: the checkpoint's own is taken."
        )
    if quantised or wanted != "none":
        asks = f"The checkpoint {options.path!r}, which is quantised," if quantised else "model.fedmllm.quantization"
        require_extra("quant", asks, error=ModelError)
        if not quantised:
            arguments["quantization_config"] = _bitsandbytes(options, family)
        arguments["device_map"] = {"": str(device)}  # quantised weights cannot be moved afterwards
    if options.device_map:
        arguments["device_map"] = options.device_map
    return arguments


def same_on_every_cpu(model: torch.nn.Module) -> None:
    """Keep bitsandbytes' 4-bit layers from packing their weights anew on processors with AVX512-BF16.

    There a layer in evaluation rewrites its weights for a kernel of its own, once and for all. That fails with a bare
    shape error unless rows and columns are multiples of 32 and of the block size, rounds otherwise than every other
    processor, and has no gradient, so training after an evaluation would change nothing. The general path has neither
    limit: a layer of any width is quantised, and gives the same on every processor.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def quantization_of(config: Mapping[str, Any]) -> str:
    """What a checkpoint was quantised to: int8, nf4, fp4, or empty.

    Raises:
        ModelError: by another method than bitsandbytes.
    """
    found = config.get("quantization_config")
    if not found:
        return ""
    method = str(found.get("quant_method", "bitsandbytes"))
    if not method.startswith("bitsandbytes"):
        raise ModelError(
            f"The checkpoint is quantised with {method}; adapters are trained here on bases that bitsandbytes "
            "quantised, or that are not quantised."
        )
    if found.get("load_in_4bit"):
        return str(found.get("bnb_4bit_quant_type", "nf4"))
    return "int8"


def _bitsandbytes(options: ModelOptions, family: Family) -> Any:
    from transformers import BitsAndBytesConfig

    quantization = options.quantization
    # What is trained in full must not be quantised; the rest of the list is small, and scores depend on it.
    trained = [name for group in options.federated for name in family.groups.get(group, ())]
    named = dict.fromkeys([*family.precise, *quantization.skip, *trained, *options.modules_to_save])
    skip = [form for name in named for form in (name, rf"(.*\.)?{name}")]  # transformers matches from the start
    if quantization.type == "int8":
        # One line for every layer and call, that inputs become half precision.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=getattr(torch, quantization.compute_dtype or options.dtype),
        llm_int8_skip_modules=skip,
    )
