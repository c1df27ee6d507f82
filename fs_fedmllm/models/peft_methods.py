"""PEFT's methods that can be federated, and how their tensors start.

A mean of clients' adapters means something only if a tensor means the same on every client: the base is the same for
all, and so are random directions that are not trained (VeRA). Methods without that are refused in the configuration
(:data:`fs_fedmllm.config.REFUSED_METHODS`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.models.families import Family

#: The part of a tensor's name that says it belongs to an adapter and is not a module trained in full.
ADAPTER = re.compile(r"\.(lora_|ia3_|vera_lambda_|hada_|lokr_)")
#: Vectors that scale; weight decay would pull the model itself to zero.
SCALES = ("lora_magnitude_vector", "ia3_l", "vera_lambda_")
#: Zero at the start, so that a fresh adapter changes nothing.
_ZERO = re.compile(r"\.(lora_B|lora_embedding_B|hada_w2_b|lokr_w1|lokr_w1_a)\b")
#: Drawn at the start, Kaiming-uniform with a = sqrt(5) as PEFT does: within 1 / sqrt(columns).
_DRAWN = re.compile(r"\.(lora_A|lora_embedding_A|hada_w1_[ab]|hada_w2_a|lokr_w1_b|lokr_w2|lokr_w2_[ab])\b")
#: VeRA's shared projections are drawn from this key by every client and by whoever loads the adapter; not sent.
VERA_KEY = 0


def target_of(options: ModelOptions, family: Family) -> str:
    """The regular expression over module names: the configuration's, or the family's own for the method."""
    if options.lora.target:
        return options.lora.target
    return rf"{family.layers}\.{family.scaled}" if options.peft == "ia3" else family.target


def peft_config(options: ModelOptions, family: Family, modules: Sequence[str], generates: bool) -> Any:
    """PEFT's configuration of the adapter.

    Args:
        options: ``model.fedmllm``.
        family: the model's family.
        modules: modules trained in full.
        generates: whether the model has PEFT's idea of a causal language model.
    """
    import peft

    lora = options.lora
    common: dict[str, Any] = {
        "target_modules": target_of(options, family),
        "modules_to_save": list(modules) or None,
        "task_type": "CAUSAL_LM" if generates else None,
    }
    if options.peft == "ia3":
        return peft.IA3Config(feedforward_modules=rf".*\.{family.feed_forward}", **common)
    if options.peft == "vera":
        return peft.VeraConfig(
            r=lora.r, vera_dropout=lora.dropout, projection_prng_key=VERA_KEY, save_projection=False, **common
        )
    if options.peft in ("loha", "lokr"):
        made = peft.LoHaConfig if options.peft == "loha" else peft.LoKrConfig
        return made(r=lora.r, alpha=lora.alpha, **common)  # type: ignore[arg-type]
    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        use_rslora=options.peft == "rslora",
        use_dora=options.peft == "dora",
        bias="none",
        **common,
    )


def initial_tensor(name: str, origin: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The first value of a federated tensor.

    Args:
        name: its canonical name.
        origin: its value when PEFT had just made it; a function of the base alone for what is not drawn or zero.
        generator: what draws come from.
    """
    if _DRAWN.search(name):
        bound = 1.0 / math.sqrt(origin.shape[1])
        return torch.empty_like(origin).uniform_(-bound, bound, generator=generator)
    return torch.zeros_like(origin) if _ZERO.search(name) else origin.clone()
