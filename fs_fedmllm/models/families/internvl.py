"""InternVL (the checkpoints in transformers' own format, ``...-hf``).

An image is cut into up to twelve tiles of 256 tokens, whatever the image processor's file says;
``model.fedmllm.image: {crop_to_patches: false}`` makes it one.
"""

from fs_fedmllm.models.families.base import Family

FAMILY = Family(
    "internvl",
    groups={"projector": ("multi_modal_projector",), "embeddings": ("embed_tokens",)},
    precise=("vision_tower", "multi_modal_projector", "lm_head"),
)
