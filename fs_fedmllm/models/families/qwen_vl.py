"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pixels are one long row of patches, with a grid for each image.

``visual.merger`` is what others call the projector. Qwen3-VL also feeds features of inner vision layers to the first
language layers (deepstack), through mergers of their own; they belong to the group as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.models.families.base import Family


@dataclass(frozen=True)
class _QwenVL(Family):
    def image_settings(self, processor: Any, budget: int) -> Iterator[Mapping[str, Any]]:
        """Fewer pixels: a token stands for ``merge_size`` patches each way."""
        images = processor.image_processor
        token = (int(images.patch_size) * int(images.merge_size)) ** 2
        least, most = int(images.size["shortest_edge"]), int(images.size["longest_edge"])
        # Two tokens stand around an image, or more.
        around = range(min(budget, most // token), max(4, budget - 16), -1)
        for tokens in (*around, 4):
            yield {"size": {"shortest_edge": min(least, tokens * token), "longest_edge": tokens * token}}


FAMILY = _QwenVL(
    "qwen_vl",
    groups={"projector": ("visual.merger", "visual.deepstack_merger_list"), "embeddings": ("embed_tokens",)},
    precise=("visual", "lm_head"),
    widest=200.0,
)
