"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pixels are one long row of patches, with a grid for each image.

``visual.merger`` is what others call the projector. Qwen3-VL also feeds features of inner vision layers to the first
language layers (deepstack), through mergers of their own; they belong to the group as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

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

    def forget(self, model: Any) -> None:
        """How far an image shifts the positions behind it: a batch of texts would be continued with another's."""
        model.model.rope_deltas = None

    def continued(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
        """With the positions spelled out: left to itself the model takes those of all tokens for the further ones."""
        shift = model.model.rope_deltas
        if shift is None:
            return super().continued(model, ids, mask, cache)
        shift = shift.to(mask.device).repeat(len(mask) // len(shift), 1)  # branches are rows, all rows for each
        places = mask.long().cumsum(-1)[:, -ids.shape[1] :] - 1 + shift
        return model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places.expand(3, *places.shape),
            past_key_values=cache,
            use_cache=True,
        )

    def next_places(self, model: Any, mask: torch.Tensor) -> torch.Tensor:
        """Behind images, which take fewer positions than tokens; in a batch of texts alone padding counts."""
        shift = model.model.rope_deltas
        if shift is None:
            return super().next_places(model, mask)
        return mask.long().sum(-1, keepdim=True) + shift.to(mask.device)

    def branched(
        self, model: Any, ids: torch.Tensor, visible: torch.Tensor, places: torch.Tensor, cache: Any, columns: int
    ) -> Any:
        """With positions in three directions, which are one for texts."""
        return super().branched(model, ids, visible, places.expand(3, *places.shape), cache, columns)


FAMILY = _QwenVL(
    "qwen_vl",
    groups={"projector": ("visual.merger", "visual.deepstack_merger_list"), "embeddings": ("embed_tokens",)},
    precise=("visual", "lm_head"),
    widest=200.0,
    branching=True,
)
