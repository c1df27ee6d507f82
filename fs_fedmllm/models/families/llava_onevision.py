"""LLaVA-OneVision: an image is a base view and, by its size, tiles of it; the number of tiles differs from image to
image, so pixels are padded along that axis when they are batched."""

from fs_fedmllm.models.families.base import Family

FAMILY = Family(
    "llava_onevision",
    groups={"projector": ("multi_modal_projector",), "embeddings": ("embed_tokens",)},
    precise=("vision_tower", "multi_modal_projector", "lm_head"),
    branching=True,
)
