"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pixels are one long row of patches, with a grid for each image.

``visual.merger`` is what others call the projector. Qwen3-VL also feeds features of inner vision layers to the first
language layers (deepstack), through mergers of their own; they belong to the group as well.
"""

from fs_fedmllm.models.families.base import Family

FAMILY = Family(
    "qwen_vl",
    groups={"projector": ("visual.merger", "visual.deepstack_merger_list"), "embeddings": ("embed_tokens",)},
    precise=("visual", "lm_head"),
    widest=200.0,
)
