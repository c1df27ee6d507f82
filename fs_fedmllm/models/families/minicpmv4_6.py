"""MiniCPM-V 4.6: SigLIP 2 with a merger, and Qwen 3.5, three of whose four layers have linear attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fs_fedmllm.models.families.base import Family, packed


@dataclass(frozen=True)
class _MiniCPM(Family):
    def image_settings(self, processor: Any, budget: int) -> Iterator[Mapping[str, Any]]:
        """Fewer slices, and then the whole picture alone."""
        images = processor.image_processor
        if not images.slice_mode:
            yield {}
            return
        tokens = (int(images.scale_resolution) // int(images.patch_size)) ** 2 // int(processor.image_token_divisor)
        fitting = budget // max(1, tokens) - 1  # beside its slices a picture is there as a whole
        for slices in range(min(int(images.max_slice_nums), fitting), 1, -1):
            yield {"max_slice_nums": slices}
        yield {"max_slice_nums": 1}

    def join_pixels(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Pixels of all images are packed."""
        return packed(parts)


FAMILY = _MiniCPM(
    "minicpmv4_6",
    # With self_attn alone three quarters of the layers would be left out.
    adapted=r"(self_attn\.(q_proj|k_proj|v_proj|o_proj)|linear_attn\.(in_proj_qkv|in_proj_z|out_proj))",
    scaled=r"(self_attn\.(k_proj|v_proj)|linear_attn\.in_proj_qkv|mlp\.down_proj)",
    groups={"projector": ("model.merger",), "embeddings": ("embed_tokens",)},
    precise=("vision_tower", "merger", "lm_head"),
)
