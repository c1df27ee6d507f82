"""MiniCPM-V 4.6: SigLIP 2 with a merger, and Qwen 3.5, three of whose four layers have linear attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fs_fedmllm.models.families.base import Family


@dataclass(frozen=True)
class _MiniCPM(Family):
    def image_settings(self, processor: Any, budget: int) -> Iterator[Mapping[str, Any]]:
        """Fewer slices, and then the whole picture alone."""
        for slices in range(int(processor.image_processor.max_slice_nums) - 1, 0, -1):
            yield {"max_slice_nums": slices}

    def join_pixels(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Pixels of all images are packed along the last axis: (1, 3, patch, patches times patch)."""
        return {
            name: torch.cat([part[name] for part in parts], dim=-1 if name == "pixel_values" else 0)
            for name in parts[0]
        }


FAMILY = _MiniCPM(
    "minicpmv4_6",
    # With self_attn alone three quarters of the layers would be left out.
    adapted=r"(self_attn\.(q_proj|k_proj|v_proj|o_proj)|linear_attn\.(in_proj_qkv|in_proj_z|out_proj))",
    scaled=r"(self_attn\.(k_proj|v_proj)|linear_attn\.in_proj_qkv|mlp\.down_proj)",
    groups={"projector": ("model.merger",), "embeddings": ("embed_tokens",)},
    precise=("vision_tower", "merger", "lm_head"),
)
