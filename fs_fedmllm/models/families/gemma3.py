"""Gemma 3: tokens of an image see each other in both directions, where ``token_type_ids`` say so.

Its placeholder grows line breaks on both sides, which may merge with the prompt's own. So a prompt is not put together
from tokens: the whole text is written as the processor writes it, and read once. Only where pictures are cut (pan and
scan), which depends on their size, every row goes through the processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.models.families.base import Family


@dataclass(frozen=True)
class _Gemma3(Family):
    def written(self, processor: Any, chat: str, arguments: Mapping[str, Any]) -> str | None:
        """With the image's tokens and line breaks around them, unless pictures are cut."""
        cuts = arguments.get("do_pan_and_scan", getattr(processor.image_processor, "do_pan_and_scan", False))
        if cuts or set(arguments) - {"do_pan_and_scan"} or chat.count(processor.boi_token) != 1:
            return None
        return chat.replace(processor.boi_token, processor.full_image_sequence)

    def token_inputs(self, processor: Any, ids: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Which tokens are an image's."""
        image = processor.tokenizer.image_token_id
        return {"token_type_ids": tuple(int(i == image) for i in ids)}


FAMILY = _Gemma3(
    "gemma3",
    groups={"projector": ("multi_modal_projector",), "embeddings": ("embed_tokens",)},
    precise=("vision_tower", "multi_modal_projector", "lm_head"),
    splices=False,
    branching=True,
)
