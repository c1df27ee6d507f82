"""``model.fedmllm``: which model, what is trained of it, and how its base is held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.config.precision import PEFT_METHODS, REFUSED_METHODS, QuantizationConfig
from fs_fedmllm.keys import DECAY, MAX_SEED, NOT_NEGATIVE, ONE_OR_MORE, POSITIVE, Range, key, section


@dataclass(frozen=True)
class LoraConfig:
    """``model.fedmllm.lora``: low-rank adaptation (Hu et al. 2022), and what the other methods share with it."""

    r: int = key(8, "Rank.", valid=ONE_OR_MORE)
    alpha: float = key(8.0, "Scale is alpha / r.", valid=POSITIVE)
    dropout: float = key(0.05, "Dropout in front of the A factor, training only.", valid=DECAY)
    target: str = key(
        "",
        "Regular expression over module names; its group of digits is the layer index. Empty takes the family's own: "
        "the attention of the language layers.",
    )


@dataclass(frozen=True)
class ModelOptions:
    """``model.fedmllm``: what a model builder may know (FederatedScope shows it ``cfg.model`` only)."""

    path: str = key("tiny", "'tiny' (the embedded model), a folder, or a hub id.", owner="site")
    revision: str = key("", "Hub revision; empty is the default branch.", owner="site")
    dtype: str = key(
        "float32",
        "Precision of the frozen base; what is trained stays in float32.",
        choices=("float32", "bfloat16", "float16"),
    )
    attention: str = key(
        "",
        "Implementation of attention; empty leaves it to transformers.",
        choices=("", "eager", "sdpa", "flash_attention_2"),
    )
    device_map: str = key(
        "",
        "How one model is laid over several accelerators; empty keeps it on one.",
        choices=("", "auto", "balanced", "sequential"),
    )
    trust_remote_code: bool = key(
        False, "Run code that comes with the checkpoint. Off unless you set it.", owner="site"
    )
    init_seed: int = key(
        -1, "Seed of the LoRA initialisation; -1 takes the run's seed.", valid=Range(0, MAX_SEED, default=-1)
    )
    image: dict = key({}, "Arguments of the processor for every image, such as {crop_to_patches: false} for InternVL.")
    image_tokens: int = key(
        0,
        "The most tokens that an image may have, by the family's own setting (pixels, pieces, tiles, slices); 0 "
        "leaves it to the checkpoint's processor and to image.",
        unit="tokens",
        valid=NOT_NEGATIVE,
    )
    peft: str = key("lora", f"What is trained on the language layers: {', '.join(PEFT_METHODS)}.")
    federated: list = key(
        ["lora"],
        "What is trained and sent: lora (the adapter of whatever method), and by name groups of modules in full: "
        "projector, resampler, embeddings, as far as the family has them.",
    )
    modules_to_save: list = key([], "Further modules trained and sent in full, by their own names.")
    lora: LoraConfig = section(LoraConfig)
    quantization: QuantizationConfig = section(QuantizationConfig)


def whole_modules(options: ModelOptions) -> str:
    """The keys that ask for modules in full, with what they name."""
    groups = [name for name in options.federated if name != "lora"]
    named = {"federated": groups, "modules_to_save": list(options.modules_to_save)}
    return " and ".join(f"model.fedmllm.{key} [{', '.join(names)}]" for key, names in named.items() if names)


def model_faults(config: Any) -> Iterator[str]:
    """A message, naming the keys, for every choice of model, adapter and base that cannot be federated."""
    model = config.model.fedmllm
    reason = REFUSED_METHODS.get(model.peft.lower(), "")
    if reason:
        yield f"model.fedmllm.peft is {model.peft!r}, which cannot be federated: {reason}. Use lora."
    if model.peft not in PEFT_METHODS:
        yield (
            f"model.fedmllm.peft is {model.peft!r}, which is not one of {', '.join(PEFT_METHODS)}"
            f"{nearest(model.peft, PEFT_METHODS)}"
        )
    if "lora" not in model.federated:
        yield (
            "model.fedmllm.federated must name lora: the adapter of the language layers is what clients share. "
            "Further groups come beside it, for example [lora, projector]."
        )
    quantized = model.quantization.type
    if quantized != "none" and model.peft in ("loha", "lokr"):
        yield (
            f"model.fedmllm.peft {model.peft} needs a base that is not quantised. Use lora, or set "
            "model.fedmllm.quantization.type: none."
        )
    if model.attention == "flash_attention_2" and (not config.use_gpu or model.dtype == "float32"):
        yield (
            "model.fedmllm.attention flash_attention_2 needs use_gpu: True and model.fedmllm.dtype bfloat16 or "
            "float16; sdpa works everywhere."
        )
    if model.device_map and not config.use_gpu:
        yield f"model.fedmllm.device_map {model.device_map} spreads the model over accelerators; set use_gpu: True."
