"""A round's clients drawn so that both modalities are among them: ``fedmllm.sampler: modality``. Our own rule.

The slots of a round go in turn to a client that shows images and to one that shows texts, each drawn evenly from those
that are left; a client that shows both stands in both pools, and whose pool is empty takes anybody. Which modality
comes first changes from round to round, so that an odd number of slots favours neither. Where every client shows both
modalities it is the ordinary draw, to the byte. Client-aware selection for missing modalities is CMSFed's idea (arXiv
2401.00403), which scores clients by gradients; this needs to know no more than which modalities a client has.

It is not a uniform draw: a client that shows both is drawn more often than one that shows one. The accountant of
differential privacy takes a uniform draw, so the two are refused together.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fs_fedmllm.data.sample import MODALITIES

#: client id -> rows by what they show: both, image, text, neither (a bare question, which is text).
Presence = Mapping[int, Mapping[str, int]]


def shows(presence: Mapping[str, int], modality: str) -> bool:
    """Whether a client has a row that shows the modality."""
    alone = presence.get(modality, 0) + (presence.get("neither", 0) if modality == "text" else 0)
    return presence.get("both", 0) + alone > 0


def tells_apart(presence: Presence) -> bool:
    """Whether there is a client that lacks a modality; without one the ordinary draw covers both."""
    return any(not shows(own, modality) for own in presence.values() for modality in MODALITIES)


def modality_draw(presence: Presence, size: int, round_index: int, rng: np.random.Generator) -> list[int]:
    """The clients of a round, ascending.

    Args:
        presence: every client of the federation.
        size: how many are drawn; at most all.
        round_index: from 0; even rounds begin with a client that shows images.
        rng: the round's own generator.
    """
    pools = [[client for client in sorted(presence) if shows(presence[client], kind)] for kind in MODALITIES]
    chosen: list[int] = []
    for slot in range(size):
        pool = pools[(slot + round_index) % len(pools)]
        left = [c for c in pool if c not in chosen] or [c for c in sorted(presence) if c not in chosen]
        chosen.append(int(rng.choice(left)))
    return sorted(chosen)
