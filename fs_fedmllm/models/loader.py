"""Load any multimodal language model that transformers knows, freeze it, and give it LoRA slots.

There is one base model in a process, whatever the number of clients: :func:`load_mllm` returns the same object
for the same options.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.adapter import Adapter

TINY = Path(__file__).resolve().parent / "tiny"
_LOADED: dict[tuple[Any, ...], MLLM] = {}


@dataclass(eq=False)
class MLLM:
    """A frozen multimodal language model with federated slots.

    Attributes:
        model: the PEFT model; ``inner`` is the transformers model inside.
        processor: tokenizer and image processor.
        adapter: handles to what is trained and sent.
        device: where the base lives.
        identity: sha256 over path, configuration files, weights, revision, precision and device: the part of a
            vision-cache key that stands for the model.
        source: what ``base_model_name_or_path`` says in a saved adapter.
    """

    model: Any
    inner: Any
    processor: Any
    adapter: Adapter
    device: torch.device
    identity: str
    source: str

    def __post_init__(self) -> None:
        self.inner.eval()  # PEFT's new modules come in training mode inside a model that is not
        self._modules = list(self.inner.modules())

    def set_training(self, training: bool) -> None:
        """Switch dropout and checkpointing on or off.

        ``Module.train`` walks a deep model through ``__setattr__``, 15 ms on one of 700 modules; this is the same
        flag on the same modules.
        """
        if self.inner.training != training:
            for module in self._modules:
                module.__dict__["training"] = training

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def takes_vision_features(self) -> bool:
        """Whether ``forward`` accepts precomputed vision features (transformers 5.18 and newer)."""
        return "mm_encoder_outputs" in inspect.signature(self.inner.forward).parameters

    @property
    def vision_is_frozen(self) -> bool:
        """Whether nothing that feeds the vision features is trainable."""
        return all(layer is not None for layer in self.adapter.layers)


def resolve_path(path: str) -> str:
    """``tiny`` is the embedded model; anything else is a folder or a hub id."""
    return str(TINY) if path == "tiny" else path


def _file_digest(folder: str) -> str:
    """A digest that changes when the checkpoint does; weights count by size and the first and last MiB."""
    digest = hashlib.sha256(folder.encode())
    root = Path(folder)
    if root.is_dir():
        for file in sorted(root.glob("*.json")) + sorted(root.glob("*.safetensors")):
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 20))
                stream.seek(max(0, size - (1 << 20)))
                digest.update(stream.read())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep loading bars and known chatter out of the run's own output."""
    from transformers.utils import logging as hf_logging

    was_on = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if was_on:
            hf_logging.enable_progress_bar()


def language_depth(model: torch.nn.Module, target: str) -> int:
    """Number of language layers that a LoRA target expression reaches.

    Raises:
        ModelError: no module matches, or the expression has no group with the layer's index.
    """
    try:
        pattern = re.compile(target)
    except re.error as error:
        raise ModelError(f"model.fedmllm.lora.target is not a valid regular expression: {error}.") from error
    indices = set()
    for name, _ in model.named_modules():
        match = pattern.fullmatch(name)
        if match:
            digits = [int(group) for group in match.groups() if group and group.isdigit()]
            if not digits:
                raise ModelError("model.fedmllm.lora.target needs a group (\\d+) that captures the layer's index.")
            indices.add(digits[0])
    if not indices:
        raise ModelError(
            f"No language layer of {type(model).__name__} matches model.fedmllm.lora.target {target!r}; "
            "print the model's named_modules() and adapt the expression."
        )
    config = getattr(model, "config", None)
    declared = getattr(config.get_text_config(), "num_hidden_layers", 0) if config is not None else 0
    return max(int(declared or 0), max(indices) + 1)


def pick_device(use_gpu: bool, index: int) -> torch.device:
    """The device of a run; asking for an accelerator that is not there is an error, never a silent CPU run.

    Raises:
        ModelError: no such accelerator.
    """
    if not use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ModelError("use_gpu is True, but torch sees no accelerator. Set use_gpu: False or install a GPU build.")
    index = max(index, 0)
    if index >= torch.cuda.device_count():
        raise ModelError(f"device is {index}, but there are {torch.cuda.device_count()} accelerators.")
    return torch.device("cuda", index)


def load_mllm(options: ModelOptions, *, use_gpu: bool = False, device_index: int = -1) -> MLLM:
    """The process-wide model for these options; loaded at the first call.

    Args:
        options: ``model.fedmllm``.
        use_gpu: ask for an accelerator.
        device_index: which one.

    Raises:
        ModelError: the checkpoint cannot be loaded, needs remote code, or has no language layer at the expression.
    """
    device = pick_device(use_gpu, device_index)
    lora = options.lora
    cache_key = (
        options.path,
        options.revision,
        options.dtype,
        options.trust_remote_code,
        tuple(options.modules_to_save),
        (lora.r, lora.alpha, lora.dropout, lora.target),
        str(device),
    )
    if cache_key not in _LOADED:
        _LOADED[cache_key] = _load(options, device)
    return _LOADED[cache_key]


def _load(options: ModelOptions, device: torch.device) -> MLLM:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText, AutoProcessor

    path = resolve_path(options.path)
    if options.path == "tiny" and not (TINY / "model.safetensors").is_file():
        raise ModelError(f"The embedded model is missing from the installation ({TINY}); reinstall fs-fedmllm.")
    common: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if options.revision:
        common["revision"] = options.revision
    with _quiet(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            processor = AutoProcessor.from_pretrained(path, **common)
            inner = AutoModelForImageTextToText.from_pretrained(
                path, dtype=getattr(torch, options.dtype), use_safetensors=True, **common
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            hint = "" if options.trust_remote_code else " If it ships its own code and you trust it, set it so."
            raise ModelError(f"Cannot load the model {options.path!r}: {error}{hint}") from error
        depth = language_depth(inner, lora_target := options.lora.target)
        torch.nn.Module.to(inner, device)
        inner.config.use_cache = False
        for wanted in options.modules_to_save:
            if not any(name == wanted or name.endswith(f".{wanted}") for name, _ in inner.named_modules()):
                raise ModelError(f"model.fedmllm.modules_to_save names {wanted!r}, which the model does not have.")
        model = get_peft_model(
            inner,
            LoraConfig(
                r=options.lora.r,
                lora_alpha=options.lora.alpha,  # type: ignore[arg-type]
                lora_dropout=options.lora.dropout,
                target_modules=lora_target,
                modules_to_save=list(options.modules_to_save) or None,
                bias="none",
                task_type="CAUSAL_LM",
            ),
        )
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return MLLM(
        model=model,
        inner=inner,
        processor=processor,
        adapter=Adapter.collect(model, depth),
        device=device,
        identity=hashlib.sha256(
            "|".join(
                [
                    _file_digest(path),
                    options.revision or str(getattr(inner.config, "_commit_hash", "")),
                    options.dtype,
                    device.type,
                ]
            ).encode()
        ).hexdigest(),
        source=options.path,
    )
