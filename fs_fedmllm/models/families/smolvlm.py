"""SmolVLM and Idefics3: the language model is called ``text_model``, and the projector ``connector``.

Their vision tower takes pictures cut into pieces, (1, pieces, 3, height, width), and drops pieces that are all zero,
so that pictures with fewer pieces are padded with zeros.
"""

from fs_fedmllm.models.families.base import Family

FAMILY = Family(
    "smolvlm",
    groups={"projector": ("connector",), "embeddings": ("embed_tokens",)},
    precise=("vision_model", "connector", "lm_head"),
    requires=("num2words",),
)
