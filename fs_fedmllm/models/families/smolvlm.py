"""SmolVLM and Idefics3: the language model is called ``text_model``, and the projector ``connector``.

Their vision tower takes pictures cut into pieces, (1, pieces, 3, height, width), and drops pieces that are all zero,
so that pictures with fewer pieces are padded with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.models.families.base import Family


@dataclass(frozen=True)
class _SmolVLM(Family):
    def image_settings(self, processor: Any, budget: int) -> Iterator[Mapping[str, Any]]:
        """Fewer pieces along the longest side, and then the whole picture alone."""
        images = processor.image_processor
        if not images.do_image_splitting:
            yield {}
            return
        edge = int(images.max_image_size["longest_edge"])
        fitting = math.isqrt(max(0, budget // int(processor.image_seq_len) - 1))  # and the whole beside them
        for pieces in range(min(int(images.size["longest_edge"]) // edge, fitting), 1, -1):
            yield {"do_image_splitting": True, "size": {"longest_edge": pieces * edge}}
        yield {"do_image_splitting": False, "size": {"longest_edge": edge}}


FAMILY = _SmolVLM(
    "smolvlm",
    groups={"projector": ("connector",), "embeddings": ("embed_tokens",)},
    precise=("vision_model", "connector", "lm_head"),
    requires=("num2words",),
    branching=True,
)
