"""A model's shapes without its weights: what is trained, what is sent, what the base weighs."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.errors import ModelError
from fs_fedmllm.files.safe_yaml import parse_yaml
from fs_fedmllm.files.untrusted import WRITTEN, open_regular
from fs_fedmllm.models.checkpoint_faults import told_of
from fs_fedmllm.models.families import family_of
from fs_fedmllm.models.fingerprint import tensor_entries
from fs_fedmllm.models.loader import assemble, resolve_path
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.torchvision import images_without_torchvision


@dataclass(frozen=True)
class Presence:
    """Whether a checkpoint is on this machine.

    Attributes:
        folder: where, or None.
        weights: bytes of its safetensors files; 0 if there are none.
        parameters: as the safetensors headers count them; 0 if there are none.
        licence: from the model card's metadata, or ``unknown``.
        gated: ``no``, ``yes`` or ``unknown``; only the hub knows.
    """

    folder: Path | None
    weights: int = 0
    parameters: int = 0
    licence: str = "unknown"
    gated: str = "unknown"


def _header_parameters(file: Path) -> int:
    """Parameters of a safetensors file, from its header alone."""
    try:
        with open_regular(file) as stream:
            return sum(math.prod(entry["shape"]) for entry in tensor_entries(stream).values())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} is not a safetensors file ({type(error).__name__}: {error}).") from error


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    import yaml

    with open_regular(card) as stream:
        text = stream.read(WRITTEN).decode("utf-8", errors="replace")
    parts = text.split("---", 2)
    if not text.startswith("---") or len(parts) < 3:
        return "unknown"
    try:
        metadata = parse_yaml(parts[1])
    except yaml.YAMLError:
        return "unknown"
    found = metadata.get("license") if isinstance(metadata, dict) else None
    return str(found) if found else "unknown"


def find_checkpoint(options: ModelOptions, *, online: bool = False) -> Presence:
    """Look for the checkpoint in its folder or in the hub's cache; ask the hub only if ``online``.

    Args:
        options: ``model.fedmllm``.
        online: whether the hub may be asked for licence and gating.
    """
    path = resolve_path(options.path)
    folder: Path | None = Path(path) if Path(path).is_dir() else None
    licence, gated = "unknown", "no" if folder is not None else "unknown"
    if folder is None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(path, revision=options.revision or None, local_files_only=True))
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
            folder = None
        if online:
            licence, gated = _ask_hub(path, options.revision)
    if folder is None:
        return Presence(None, licence=licence, gated=gated)
    files = sorted(folder.glob("*.safetensors"))
    return Presence(
        folder,
        weights=sum(file.stat().st_size for file in files),
        parameters=sum(_header_parameters(file) for file in files),
        licence=licence if licence != "unknown" else _licence(folder),
        gated=gated,
    )


def _ask_hub(name: str, revision: str) -> tuple[str, str]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(name, revision=revision or None, timeout=10)
    except GatedRepoError:
        return "unknown", "yes"
    except RepositoryNotFoundError as error:
        raise ModelError(f"The hub has no model {name!r}, or your token may not see it.") from error
    except Exception:  # no network is an answer too
        return "unknown", "unknown"
    licence = getattr(info.card_data, "license", None) if info.card_data else None
    return str(licence or "unknown"), "yes" if info.gated else "no"


def skeleton(options: ModelOptions, *, online: bool = False) -> MLLM:
    """The model with its federated slots on the meta device, and its real processor.

    Args:
        options: ``model.fedmllm``.
        online: whether a configuration may be fetched from the hub.

    Raises:
        ModelError: no configuration on this machine, or no language layers where the configuration looks.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

    path = resolve_path(options.path)
    common: dict[str, Any] = {"trust_remote_code": options.trust_remote_code, "local_files_only": not online}
    if options.revision:
        common["revision"] = options.revision
    with told_of(f"Cannot read the configuration of the model {options.path!r}"):
        with images_without_torchvision():
            config = AutoConfig.from_pretrained(path, **common)
            processor = AutoProcessor.from_pretrained(path, **common)
            with torch.device("meta"):
                inner = AutoModelForImageTextToText.from_config(
                    config, dtype=getattr(torch, options.dtype), trust_remote_code=options.trust_remote_code
                )
        with contextlib.suppress(OSError, ValueError):  # where there is none, the model's own stands
            inner.generation_config = GenerationConfig.from_pretrained(path, **common)
    family = family_of(config.model_type)
    with torch.device("meta"):
        return assemble(options, family, processor, inner, torch.device("meta"))


#: Bytes of a quantised weight: NF4 and FP4 with a float32 scale for 64 values (with double quantisation an eighth of
#: it and more), int8 with a scale for each row.
_QUANTISED = {"int8": 1.0, "nf4": 0.5 + 4 / 64, "fp4": 0.5 + 4 / 64}


def _base_bytes(mllm: MLLM, options: ModelOptions) -> int:
    """Bytes of the frozen base; quantised, that of its linear layers outside those that the family keeps precise."""
    kind = options.quantization.type
    quantised = _QUANTISED.get(kind)
    if quantised is not None and kind != "int8" and options.quantization.double:
        quantised = 0.5 + 1 / 64 + 4 / (64 * 256)
    precise = (*mllm.family.precise, *options.quantization.skip)
    linear = {
        id(module.weight)
        for name, module in mllm.inner.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(part in name.split(".") for part in precise)
    }
    total = 0.0
    for parameter in mllm.model.parameters():
        if parameter.requires_grad:
            continue
        small = quantised is not None and id(parameter) in linear
        total += parameter.numel() * (quantised if small and quantised is not None else parameter.element_size())
    return int(total) + sum(buffer.numel() * buffer.element_size() for buffer in mllm.inner.buffers())


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        base: parameters of the frozen base.
        base_bytes: their bytes in the chosen precision, and the buffers'.
        adapter: trained parameters.
        adapter_bytes: of the adapter's safetensors file, as it goes over the wire.
    """

    base: int
    base_bytes: int
    adapter: int
    adapter_bytes: int


def sizes(mllm: MLLM, options: ModelOptions) -> Sizes:
    """Count a skeleton's parameters and bytes; the options tell how the base is held."""
    frozen = [p for p in mllm.model.parameters() if not p.requires_grad]
    trained = mllm.adapter.parameters
    # safetensors: eight bytes of length, the header padded to eight, then float32 values by name.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, parameter in sorted(zip(mllm.adapter.names, trained, strict=True), key=lambda pair: pair[0]):
        end = at + 4 * parameter.numel()
        header[name] = {"dtype": "F32", "shape": list(parameter.shape), "data_offsets": [at, end]}
        at = end
    length = len(json.dumps(header, separators=(",", ":")))
    return Sizes(
        base=sum(p.numel() for p in frozen),
        base_bytes=_base_bytes(mllm, options),
        adapter=sum(p.numel() for p in trained),
        adapter_bytes=8 + -(-length // 8) * 8 + at,
    )
