"""Gemma 3: tokens of an image see each other in both directions, where ``token_type_ids`` say so.

Its placeholder grows line breaks on both sides, which may merge with the prompt's own, so every row with an image goes
through the processor as a whole.
"""

from fs_fedmllm.models.families.base import Family

FAMILY = Family(
    "gemma3",
    groups={"projector": ("multi_modal_projector",), "embeddings": ("embed_tokens",)},
    precise=("vision_tower", "multi_modal_projector", "lm_head"),
    splices=False,
)
