"""Write an adapter in PEFT's format: ``PeftModel.from_pretrained(base, folder)`` loads it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save

from fs_fedmllm.atomic import write_atomically
from fs_fedmllm.models.loader import MLLM

#: The name that stands for the embedded model in a saved adapter; a local path would leak and not load elsewhere.
TINY_NAME = "fs-fedmllm/tiny"


def adapter_bytes(state: dict[str, torch.Tensor]) -> bytes:
    """The adapter as safetensors; the same state gives the same bytes."""
    return save({name: tensor.contiguous() for name, tensor in state.items()}, metadata={"format": "pt"})


def write_adapter(folder: Path, mllm: MLLM, state: dict[str, torch.Tensor]) -> str:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``.

    Returns:
        sha256 of the tensor file.
    """
    data = adapter_bytes(state)
    config = mllm.model.peft_config["default"].to_dict()
    for name, value in config.items():
        if isinstance(value, set):
            config[name] = sorted(value)
    source = mllm.source
    config["base_model_name_or_path"] = TINY_NAME if source == "tiny" else source
    config["inference_mode"] = True
    write_atomically(folder / "adapter_model.safetensors", data)
    write_atomically(folder / "adapter_config.json", (json.dumps(config, indent=2, default=str) + "\n").encode())
    return hashlib.sha256(data).hexdigest()
