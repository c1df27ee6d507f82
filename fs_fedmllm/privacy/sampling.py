"""Which clients take part, drawn in secret.

Epsilon is smaller with sampling because nobody knows who was drawn. A draw from the configuration's seed is known to
everybody who has the configuration, so under differential privacy it comes from the operating system instead.
"""

from __future__ import annotations

from random import Random, SystemRandom


def draw(total: int, wanted: int, sampling: str, rng: Random | None = None) -> list[int]:
    """The clients of a round, ascending ids from 1.

    Args:
        total: clients in the federation.
        wanted: clients that a round expects.
        sampling: ``fixed`` draws exactly ``wanted`` without replacement; ``poisson`` draws each client with
            probability ``wanted / total``, so that anything from none to all may come.
        rng: the operating system's by default; tests alone pass another.
    """
    rng = rng or SystemRandom()
    if sampling == "poisson":
        # randrange is exact where random() < p would round.
        return [client for client in range(1, total + 1) if rng.randrange(total) < wanted]
    return sorted(rng.sample(range(1, total + 1), wanted))
