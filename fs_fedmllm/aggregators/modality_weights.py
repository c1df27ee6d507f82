"""Modality-aware client weights: who counts how much when clients lack modalities. Our own rules, off by default.

Let n_k be the rows of client k, and I_k, T_k those that show an image, a text (a row with both counts in each).

    samples    w_k ~ n_k                                       McMahan et al. 2017
    balanced   w_k ~ I_k / sum_j I_j + T_k / sum_j T_j         both modalities weigh the same in the round
    complete   w_k ~ n_k (1 - strength * beta_k)               clients with missing modalities weigh less

with beta_k = 1 - min(I_k, T_k) / n_k, the missing rate that the adaptive regulariser uses, and all weights divided by
their sum. On complete data the three are equal. ``balanced`` leaves out the term of a modality that nobody has.
``complete`` with strength 1 drops single-modality clients altogether, so it is refused where no one else is left.

Per tensor: a tensor on the image path (projector, resampler, vision LoRA) gets no gradient from a row without an
image, so averaging it over n_k shrinks it by the share of text-only rows. ``modality_mean`` weighs it by I_k; one that
nobody trained is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fs_fedmllm.aggregators.updates import Updates, ordered, weighted_mean
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import ConfigError, UpdateError

RULES = ("samples", "balanced", "complete")

#: client id -> rows by what they show, with the keys of the manifest: both, image, text, neither.
Presence = Mapping[int, Mapping[str, int]]


def _counts(presence: Mapping[str, int]) -> tuple[int, int, int]:
    rows = sum(presence.values())
    both = presence.get("both", 0)
    return rows, both + presence.get("image", 0), both + presence.get("text", 0)


def modality_weights(presence: Presence, *, rule: str, strength: float = 1.0) -> dict[int, float]:
    """The weight of each client of a round; they sum to one, and a client with weight 0 takes no part.

    Args:
        presence: the round's clients.
        rule: one of ``RULES``.
        strength: for ``complete``, in [0, 1]; 0 is ``samples``.

    Raises:
        ConfigError: an unknown rule, or a strength outside [0, 1].
        UpdateError: no client is left with a weight.
    """
    if rule not in RULES:
        raise ConfigError(f"Unknown rule {rule!r} for client weights; choose one of {', '.join(RULES)}.")
    if not 0 <= strength <= 1:
        raise ConfigError(f"The strength of modality weights is {strength}; it must be in [0, 1].")
    counts = {client: _counts(presence[client]) for client in sorted(presence)}
    images, texts = (sum(count[i] for count in counts.values()) for i in (1, 2))
    raw: dict[int, float] = {}
    for client, (rows, with_image, with_text) in counts.items():
        if rule == "balanced":
            raw[client] = (with_image / images if images else 0.0) + (with_text / texts if texts else 0.0)
        else:
            beta = 1 - min(with_image, with_text) / rows if rows else 0.0
            raw[client] = rows * (1 - strength * beta) if rule == "complete" else float(rows)
    total = sum(raw.values())
    if not total > 0:
        raise UpdateError(
            f"The rule {rule!r} gives no client of this round ({', '.join(map(str, counts))}) a weight; sample more "
            "clients a round, or lower the strength."
        )
    return {client: weight / total for client, weight in raw.items()}


def modality_mean(
    updates: Updates,
    presence: Presence,
    *,
    rule: str = "balanced",
    strength: float = 1.0,
    on_image_path: Callable[[str], bool] = lambda name: False,
) -> State:
    """The mean delta under modality-aware weights; the weights in ``updates`` are not used.

    Args:
        updates: the round's updates.
        presence: rows of (at least) their clients; the weights are relative to the clients that sent updates.
        rule: one of ``RULES``, for the tensors off the image path.
        strength: for ``complete``.
        on_image_path: whether a tensor lies before the image meets the text.
    """
    shown = {client: presence[client] for client, _, _ in ordered(updates)}
    weights = modality_weights(shown, rule=rule, strength=strength)
    visual = {client: float(_counts(own)[1]) for client, own in shown.items()}
    split: list[State] = []
    for chosen, wanted in ((weights, False), (visual, True)):
        parts = [
            (client, chosen[client], {n: t for n, t in delta.items() if bool(on_image_path(n)) is wanted})
            for client, _, delta in ordered(updates)
            if chosen.get(client, 0.0) > 0
        ]
        split.append(weighted_mean(parts) if parts else {})
    return split[0] | split[1]
