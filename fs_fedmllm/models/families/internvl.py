"""InternVL (the checkpoints in transformers' own format, ``...-hf``).

An image is cut into up to twelve tiles of 256 tokens, whatever the image processor's file says: the processor's class
has it so. ``model.fedmllm.image_tokens`` asks for fewer tiles, and ``model.fedmllm.image: {crop_to_patches: false}``
for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.models.families.base import Family


@dataclass(frozen=True)
class _InternVL(Family):
    def image_settings(self, processor: Any, budget: int) -> Iterator[Mapping[str, Any]]:
        """Fewer tiles, and then the whole picture alone."""
        most = int(getattr(processor.image_processor, "max_patches", None) or 12)
        fitting = budget // int(processor.image_seq_length) - 1  # beside its tiles a picture is there as a whole
        for tiles in range(min(most, fitting), 1, -1):
            yield {"crop_to_patches": True, "min_patches": 1, "max_patches": tiles}
        yield {"crop_to_patches": False}


FAMILY = _InternVL(
    "internvl",
    groups={"projector": ("multi_modal_projector",), "embeddings": ("embed_tokens",)},
    precise=("vision_tower", "multi_modal_projector", "lm_head"),
    branching=True,
)
