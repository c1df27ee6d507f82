"""What an image costs in tokens, and one name for what each family calls a limit to it.

``model.fedmllm.image_tokens`` is the most tokens that an image may have. What brings that about differs: pixels for
Qwen-VL, pieces for SmolVLM and Idefics 3, tiles for InternVL, slices for MiniCPM-V. A family lists its settings from
the dearest to the cheapest (:meth:`fs_fedmllm.models.families.base.Family.image_settings`), and the first one that the
checkpoint's own processor keeps within the budget is taken; what it costs is counted, not computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.families import Family

#: Width and height of the images that a setting is tried on; the dearest counts.
PROBES = ((1024, 1024), (1024, 384), (384, 1024), (1536, 128))
#: What of an image processor decides how many tokens an image has, or what is seen in them.
_FACTS = (
    *("size", "max_image_size", "do_image_splitting", "crop_to_patches", "min_patches", "max_patches"),
    *("do_pan_and_scan", "max_slice_nums", "scale_resolution", "slice_mode", "patch_size", "merge_size", "resample"),
)


def image_cost(family: Family, processor: Any, arguments: Mapping[str, Any], size: tuple[int, int]) -> int:
    """Tokens that an image of a size (width and height in pixels) adds to a prompt."""
    from PIL import Image

    chat = family.chat(processor, "?", True)
    with torch.device("cpu"):  # a model without weights is made where nothing can be computed
        outputs = family.process(processor, chat, Image.new("RGB", size, (127, 127, 127)), arguments)
    plain = processor.tokenizer(family.chat(processor, "?", False), add_special_tokens=False)["input_ids"]
    return int(outputs["input_ids"].shape[1]) - len(plain)


def resolved(options: ModelOptions, family: Family, processor: Any) -> dict[str, Any]:
    """Arguments of the processor for every image: ``model.fedmllm.image``, and what keeps the budget.

    Raises:
        ModelError: no setting of the family keeps an image within ``model.fedmllm.image_tokens``.
    """
    given = dict(options.image)
    if not options.image_tokens:
        return given
    least: int | None = None
    for setting in family.image_settings(processor, options.image_tokens):
        arguments = {**setting, **given}
        dearest = 0
        for size in PROBES:  # the first that is too dear is enough
            dearest = max(dearest, image_cost(family, processor, arguments, size))
            if dearest > options.image_tokens:
                break
        else:
            return arguments
        least = dearest if least is None else min(least, dearest)
    raise ModelError(
        f"model.fedmllm.image_tokens is {options.image_tokens}, and an image of the family {family.name} takes at "
        f"least {least} tokens{' with model.fedmllm.image ' + str(given) if given else ''}: set it to that, or to 0 "
        "for no limit."
    )


def image_facts(processor: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how an image is shown, by the processor's file, its class and the arguments, as JSON takes it."""
    stated = getattr(processor, "image_processor", None)
    found = {name: getattr(stated, name, None) for name in _FACTS}
    usual = getattr(getattr(processor, "valid_processor_kwargs", None), "_defaults", {}) or {}
    for defaults in (getattr(processor, "images_kwargs", None), usual.get("images_kwargs")):  # of the class
        found |= {name: value for name, value in dict(defaults or {}).items() if name in _FACTS}
    found |= dict(arguments)
    return {name: _plain(value) for name, value in found.items() if value is not None}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | float | bool) else int(value)
