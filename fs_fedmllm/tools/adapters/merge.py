"""An adapter merged into its base: a checkpoint that needs no PEFT, and how far its answers moved by that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.errors import ModelError
from fs_fedmllm.files.atomic import share
from fs_fedmllm.tools.adapters.opening import Opened

#: What both are asked; any text does, the logits of all its tokens are compared.
PROBE = "Is the content hateful based on the text and image? The quick brown fox jumps over 13 lazy dogs."


@dataclass(frozen=True)
class Merged:
    """How a merge went.

    Attributes:
        folder: the checkpoint.
        adapter_effect: largest difference of a logit between the adapted model and the bare base.
        merged: the same between the adapted model and the merged one in memory.
        reloaded: the same after reading the written checkpoint back.
        flipped: tokens of the probe whose likeliest next token is another one after reading back.
        tokens: tokens of the probe.
    """

    folder: Path
    adapter_effect: float
    merged: float
    reloaded: float
    flipped: int
    tokens: int


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float().cpu()


def _far(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().max())


def merge(opened: Opened, out: Path) -> Merged:
    """Merge an opened adapter into its base and write the checkpoint with its processor.

    Args:
        opened: the adapter; its model is used up.
        out: a folder that does not exist or is empty.

    Raises:
        ModelError: the folder holds something, or the base is quantised.
    """
    from transformers import AutoModelForImageTextToText

    mllm = opened.mllm
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out} is there and not empty; name another folder.")
    if getattr(mllm.inner, "quantization_method", None) is not None or getattr(mllm.inner, "is_quantized", False):
        raise ModelError(
            "The base is quantised: merging would round the adapter away. Merge into the full-precision base "
            "(--base, --full-precision)."
        )
    ids = torch.tensor([mllm.tokenizer(PROBE, add_special_tokens=False)["input_ids"]], device=mllm.device)
    adapted = _logits(mllm.inner, ids)
    with mllm.model.disable_adapter():
        bare = _logits(mllm.inner, ids)
    whole = mllm.model.merge_and_unload(safe_merge=True)
    merged = _logits(whole, ids)
    whole.config.use_cache = True
    whole.save_pretrained(out, safe_serialization=True)
    mllm.processor.save_pretrained(out)
    share(out)
    for written in out.iterdir():
        if written.suffix == ".bin":
            raise ModelError(f"{written} is a pickle; the checkpoint must be safetensors.")
    again = AutoModelForImageTextToText.from_pretrained(out, dtype=whole.dtype, use_safetensors=True)
    reloaded = _logits(torch.nn.Module.to(again, mllm.device).eval(), ids)
    return Merged(
        folder=out,
        adapter_effect=_far(adapted, bare),
        merged=_far(adapted, merged),
        reloaded=_far(adapted, reloaded),
        flipped=int((adapted.argmax(-1) != reloaded.argmax(-1)).sum()),
        tokens=ids.shape[1],
    )
