"""Load any multimodal language model that transformers knows, freeze it, and give it LoRA slots.

There is one base model in a process, whatever the number of clients: :func:`load_mllm` returns the same object
for the same options.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.errors import ModelError
from fs_fedmllm.files.untrusted import both_ends
from fs_fedmllm.models.adapter import Adapter
from fs_fedmllm.models.checkpoint_faults import told_of
from fs_fedmllm.models.families import FAMILIES, Family, family_of
from fs_fedmllm.models.image_tokens import resolved
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.precision import precision_arguments, same_on_every_cpu
from fs_fedmllm.models.slots import attach
from fs_fedmllm.models.torchvision import images_without_torchvision

TINY = Path(__file__).resolve().parent / "tiny"
_LOADED: dict[str, MLLM] = {}


def resolve_path(path: str) -> str:
    """``tiny`` is the embedded model; anything else is a folder or a hub id."""
    return str(TINY) if path == "tiny" else path


def _file_digest(folder: str) -> str:
    """A digest that changes when the checkpoint does; weights count by size and the first and last MiB."""
    digest = hashlib.sha256(folder.encode())
    root = Path(folder)
    if root.is_dir():
        for file in sorted(root.glob("*.json")) + sorted(root.glob("*.safetensors")):
            digest.update(f"{file.name}:{file.stat().st_size}".encode() + both_ends(file))
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

    Raises:
        ModelError: the checkpoint cannot be loaded, needs remote code, or has no language layer at the expression.
    """
    device = pick_device(use_gpu, device_index)
    cache_key = json.dumps([dataclasses.asdict(dataclasses.replace(options, init_seed=0)), str(device)])
    if cache_key not in _LOADED:
        _LOADED[cache_key] = _load(options, device)
    return _LOADED[cache_key]


def check_folder(path: str) -> None:
    """Tell a folder that is not there from an id on a hub; transformers takes every name for the latter.

    Args:
        path: ``model.fedmllm.path``, resolved.

    Raises:
        ModelError: it can only be a folder, and there is none.
    """
    place = Path(path)
    if place.is_dir():
        return
    # An id is "name" or "owner/name"; the latter is a folder's name where "owner" is a folder here.
    local = path.startswith((".", "/", "~")) or path.endswith("/") or "\\" in path or len(place.parts) > 2
    if not local and len(place.parts) == 2:
        local = place.parent.is_dir()
    if place.exists():
        raise ModelError(f"model.fedmllm.path is {path!r}, which is a file: name the folder that holds config.json.")
    if local:
        parent = next((p for p in place.parents if p.is_dir()), None)
        near = ", ".join(sorted(child.name for child in parent.iterdir() if child.is_dir())[:5]) if parent else ""
        raise ModelError(
            f"model.fedmllm.path is {path!r}, and there is no such folder"
            + (f"; {parent} has {near}." if near and parent != Path() else ".")
            + (" A ~ is not expanded: write the whole path." if path.startswith("~") else "")
        )


def read_config(path: str, revision: str = "") -> dict[str, Any]:
    """The mapping in a checkpoint's config.json; no code of the checkpoint's runs.

    Raises:
        ModelError: there is none.
    """
    from transformers import PreTrainedConfig

    check_folder(path)
    try:
        config, _ = PreTrainedConfig.get_config_dict(path, **({"revision": revision} if revision else {}))
    except (OSError, ValueError, TypeError, AttributeError) as error:  # the last two where it is no mapping
        here = "" if Path(path).is_dir() else f" (There is no folder {path!r} here either.)"
        raise ModelError(f"Cannot load the model {path!r}: {error}{here}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"Cannot load the model {path!r}: there is no config.json with a model_type.")
    return config


def _check_known(options: ModelOptions, config: Mapping[str, Any]) -> None:
    """Say what is missing before a library says something else."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    kind = config["model_type"]
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return
    if config.get("auto_map"):
        if not options.trust_remote_code:
            raise ModelError(
                f"The model {options.path!r} (model_type {kind}) comes with Python code of its own. Read it, and if "
                "you trust it set model.fedmllm.trust_remote_code: true (docs/models.md)."
            )
        return
    raise ModelError(
        f"The model {options.path!r} has model_type {kind!r}, which transformers {transformers.__version__} has no "
        f"image-text-to-text class for. Families that are known here: {', '.join(sorted(FAMILIES))}. "
        "docs/extending.md shows how to add one."
    )


def _load(options: ModelOptions, device: torch.device) -> MLLM:
    path = resolve_path(options.path)
    if options.path == "tiny" and not (TINY / "model.safetensors").is_file():
        raise ModelError(f"The embedded model is missing from the installation ({TINY}); reinstall fs-fedmllm.")
    with (
        _quiet(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        images_without_torchvision(),
    ):
        config = read_config(path, options.revision)
        _check_known(options, config)
        family = family_of(config["model_type"])
        arguments = precision_arguments(options, config, family, device)
        arguments["trust_remote_code"] = options.trust_remote_code
        if options.revision:
            arguments["revision"] = options.revision
        with told_of(f"Cannot load the model {options.path!r}"):
            processor, inner = family.load(path, config, arguments)
        same_on_every_cpu(inner)
        if "device_map" not in arguments:
            torch.nn.Module.to(inner, device)
        elif options.device_map:
            device = inner.get_input_embeddings().weight.device
        return assemble(options, family, processor, inner, device, _identity(options, path, inner, device))


def _identity(options: ModelOptions, path: str, inner: Any, device: torch.device) -> str:
    parts = [
        _file_digest(path),
        options.revision or str(getattr(inner.config, "_commit_hash", "")),
        options.dtype,
        device.type,
        # What is the default leaves a cache of an earlier release valid.
        *([json.dumps(options.image, sort_keys=True)] if options.image else []),
        *([f"image_tokens {options.image_tokens}"] if options.image_tokens else []),
        *([options.attention] if options.attention else []),
        *([str(options.quantization)] if options.quantization.type != "none" else []),
    ]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def assemble(
    options: ModelOptions, family: Family, processor: Any, inner: Any, device: torch.device, identity: str = ""
) -> MLLM:
    """Give a transformers model its federated slots, and put it together with its processor.

    Args:
        options: ``model.fedmllm``.
        family: of the model.
        processor: of the checkpoint; without a padding token it is given the one that ends a text.
        inner: the model, on its device or on ``meta``.
        device: where it is.
        identity: see :class:`MLLM`; a model without weights has none.

    Raises:
        ModelError: see :func:`fs_fedmllm.models.slots.attach`; or there is no tokenizer, or none of its tokens pads or
            ends a text.
    """
    _check_tokenizer(options, processor)
    _check_image_arguments(options, processor)
    model, depth, groups = attach(options, family, inner)
    head = inner.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous)
    return MLLM(
        model=model,
        inner=inner,
        processor=processor,
        adapter=Adapter.collect(model, depth, "" if family.layers == Family.layers else family.layers),
        device=device,
        identity=identity,
        source=options.path,
        family=family,
        image_arguments=resolved(options, family, processor),
        groups=groups,
    )


def _contiguous(head: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The last columns of a batch as one block of memory: torch multiplies others row by row, at half the speed."""
    return (*(given.contiguous() for given in inputs[:1]), *inputs[1:])


def _check_image_arguments(options: ModelOptions, processor: Any) -> None:
    """transformers ignores an argument that its processor does not have, with a warning; a run refuses it."""
    home = type(processor).__module__
    own = getattr(getattr(getattr(processor, "image_processor", None), "valid_kwargs", None), "__annotations__", None)
    if not options.image or own is None or not home.startswith("transformers."):
        return  # a checkpoint's own code may take any
    known = {*own, "images_kwargs", "common_kwargs"}
    for name, declared in vars(sys.modules[home]).items():
        if name.endswith("ProcessorKwargs"):
            part = getattr(declared, "__annotations__", {}).get("images_kwargs")
            known |= set(getattr(part, "__annotations__", {}))
    for name in options.image:
        if name not in known:
            raise ModelError(
                f"model.fedmllm.image: the processor of {options.path!r} ({type(processor).__name__}) has no argument "
                f"{name!r}{nearest(str(name), sorted(known))}"
            )


def _check_tokenizer(options: ModelOptions, processor: Any) -> None:
    """A batch needs a token that pads; the one that ends a text will do, since padding is masked."""
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise ModelError(
            f"The checkpoint {options.path!r} has no processor with a tokenizer ({type(processor).__name__} found): "
            "its processor_config.json, preprocessor_config.json or tokenizer files are missing."
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"The tokenizer of {options.path!r} has neither a pad token nor an eos token, so "
                "rows cannot be batched and answers do not end: name them (pad_token, eos_token)"
                " in its tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token
    # It would warn of every first row that is too long, which is shortened or refused here (fedmllm.train.max_length).
    if isinstance(getattr(tokenizer, "deprecation_warnings", None), dict):
        tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
