"""Adapters on disk, in PEFT's format: ``PeftModel.from_pretrained(base, folder)`` loads what is written here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fs_fedmllm.errors import ModelError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.files.untrusted import open_regular
from fs_fedmllm.models.mllm import MLLM

#: The name that stands for the embedded model in a saved adapter; a local path would leak and not load elsewhere.
TINY_NAME = "fs-fedmllm/tiny"
#: ``models--owner--name/snapshots/<commit>``: how the hub's cache lays a model out.
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/[0-9a-f]{40}")


def adapter_bytes(state: dict[str, torch.Tensor]) -> bytes:
    """The adapter as safetensors; the same state gives the same bytes."""
    return save({name: tensor.contiguous() for name, tensor in state.items()}, metadata={"format": "pt"})


def base_name(source: str, public: str = "") -> str:
    """What a saved adapter calls its base: a public id or a bare name, never a path of this machine.

    Args:
        source: ``model.fedmllm.path``.
        public: the public id that the user gave (``fedmllm.hub.base_model``), or empty.
    """
    if source == "tiny":
        return TINY_NAME
    if public:
        return public
    cached = _CACHED.search(Path(source).as_posix())
    if cached:
        return f"{cached.group(1)}/{cached.group(2)}"
    path = Path(source)
    local = path.exists() or path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1
    return path.resolve().name if local else source


def adapter_config_bytes(mllm: MLLM, public: str = "") -> bytes:
    """``adapter_config.json``; ``public`` as in :func:`base_name`."""
    config = mllm.model.peft_config["default"].to_dict()
    for name, value in config.items():
        if isinstance(value, set):
            config[name] = sorted(value)
    config["base_model_name_or_path"] = base_name(mllm.source, public)
    config["inference_mode"] = True
    return (json.dumps(config, indent=2, default=str) + "\n").encode()


def write_adapter(folder: Path, mllm: MLLM, state: dict[str, torch.Tensor], public: str = "") -> str:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``.

    Returns:
        sha256 of the tensor file.
    """
    data = adapter_bytes(state)
    write_atomically(folder / "adapter_model.safetensors", data)
    write_atomically(folder / "adapter_config.json", adapter_config_bytes(mllm, public))
    return hashlib.sha256(data).hexdigest()


def check_readable(path: Path) -> None:
    """There is a tensor file, or a folder that holds one, and it can be opened; what is in it is seen when it is read.

    Raises:
        ModelError: there is none, or it cannot be opened.
    """
    file = path / "adapter_model.safetensors" if path.is_dir() else path
    try:
        open_regular(file).close()
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as a safetensors adapter ({error}).") from error


def read_adapter(path: Path, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read an adapter's tensor file, or the folder that holds it; only safetensors, never a pickle.

    Args:
        path: ``adapter_model.safetensors`` or its folder.
        like: the tensors that the model needs, by canonical name.

    Raises:
        ModelError: the file is missing or damaged, a name is unknown or missing, a shape differs, or a value is not
            finite.
    """
    file = path / "adapter_model.safetensors" if path.is_dir() else path
    return fitting(tensors_in(file), like, str(file))


def tensors_in(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter's file, whatever they are.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        with open_regular(file) as stream:
            return load(stream.read())
    except (OSError, ValueError, KeyError, SafetensorError) as error:  # KeyError: a dtype that torch does not have
        raise ModelError(f"{file} cannot be read as a safetensors adapter ({error}).") from error


def fitting(
    state: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor], where: str
) -> dict[str, torch.Tensor]:
    """An adapter's tensors in float32, in the model's order, if they are those of this model.

    Args:
        state: canonical name -> tensor.
        like: the tensors that the model needs, by canonical name.
        where: what holds them, for messages.

    Raises:
        ModelError: a name is unknown or missing, a shape differs, or a value is a whole number or not finite.
    """
    unknown = [name for name in state if name not in like]
    missing = [name for name in like if name not in state]
    if unknown or missing:
        raise ModelError(
            f"{where} does not fit the model: "
            + (f"{len(unknown)} unknown tensors, the first {unknown[0]!r}. " if unknown else "")
            + (f"{len(missing)} missing tensors, the first {missing[0]!r}. " if missing else "")
            + "Check model.fedmllm.path and model.fedmllm.lora."
        )
    for name, tensor in state.items():
        if tensor.shape != like[name].shape:
            raise ModelError(
                f"{where}: {name!r} is {tuple(tensor.shape)}, the model needs {tuple(like[name].shape)}. Give the "
                "base and the rank that it was trained with (model.fedmllm.path, model.fedmllm.lora.r)."
            )
        _check_values(tensor, f"{where}: {name!r}")
    return {name: state[name].float() for name in like}


def check_tensors(file: Path) -> None:
    """An adapter's file holds numbers that a training wrote, whatever model they are for.

    Raises:
        ModelError: the file is damaged or empty, or a value is a whole number or not finite.
    """
    state = tensors_in(file)
    if not state:
        raise ModelError(f"{file} holds no tensors. Take the adapter as it was trained.")
    for name, tensor in state.items():
        _check_values(tensor, f"{file}: {name!r}")


def _check_values(tensor: torch.Tensor, said: str) -> None:
    if not tensor.is_floating_point():
        raise ModelError(
            f"{said} is of {tensor.dtype}, and an adapter has floating-point numbers: what quantised "
            "it has scales that are not here. Take the adapter as it was trained."
        )
    if not bool(tensor.isfinite().all()):
        raise ModelError(
            f"{said} holds values that are not finite: its training diverged, or the file is damaged. "
            "Take that of an earlier round."
        )
