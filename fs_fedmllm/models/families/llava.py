"""LLaVA 1.5 and LLaVA-NeXT: CLIP or SigLIP, a two-layer projector, a Llama-like language model."""

from fs_fedmllm.models.families.base import Family

FAMILY = Family(
    "llava",
    groups={"projector": ("multi_modal_projector",), "embeddings": ("embed_tokens",)},
    precise=("vision_tower", "multi_modal_projector", "lm_head"),
    branching=True,
)
