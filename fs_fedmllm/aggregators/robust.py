"""Robust means of a round's deltas: what to use when some clients may be faulty or malicious.

* Krum, multi-Krum: Blanchard et al. 2017, "Machine Learning with Adversaries", NeurIPS.
  score(i) = sum of the n - f - 2 smallest ||d_i - d_j||^2; keep the m clients with the lowest scores; n >= 2f + 3.
* Coordinate-wise median and trimmed mean: Yin et al. 2018, "Byzantine-Robust Distributed Learning", ICML.
  The trimmed mean drops the ceil(beta n) smallest and largest values of every coordinate; beta < 1/2.
* Norm bounding: Sun et al. 2019, "Can You Really Backdoor Federated Learning?", arXiv 1911.07963.
  d_k <- d_k / max(1, ||d_k|| / bound), then the weighted mean.

Weights are the clients' own claims, so the selecting rules ignore them, as their papers do; norm bounding keeps them
and therefore bounds a client's influence only together with a bound on its weight. Heterogeneous honest clients look
like outliers: with strong label or modality skew a robust rule costs accuracy. They need all updates of a round in
memory.
"""

from __future__ import annotations

import math

import torch

from fs_fedmllm.aggregators.norms import l2_norm
from fs_fedmllm.aggregators.updates import Updates, ordered
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import ConfigError, UpdateError


def _complete(updates: Updates) -> list[tuple[int, State]]:
    """The deltas in client order; every client must have sent the same tensors."""
    chosen = [(client, dict(delta)) for client, _, delta in ordered(updates)]
    names = set().union(*(delta for _, delta in chosen))
    for client, delta in chosen:
        if set(delta) != names:
            raise UpdateError(
                f"Client {client} did not send {min(names - set(delta))!r}; robust rules compare whole updates."
            )
    return chosen


def krum_scores(updates: Updates, *, byzantine: int) -> dict[int, float]:
    """Krum's score of each client; low is trustworthy.

    Args:
        updates: the round's updates.
        byzantine: f, how many clients of the round may be malicious.

    Raises:
        ConfigError: the round has fewer than 2 f + 3 clients.
    """
    chosen = _complete(updates)
    count = len(chosen)
    if byzantine < 0 or count < 2 * byzantine + 3:
        raise ConfigError(
            f"Krum against {byzantine} malicious clients needs at least {2 * max(0, byzantine) + 3} updates in a "
            f"round; this one has {count}. Sample more clients a round or lower the number."
        )
    distances = torch.zeros(count, count, dtype=torch.float64)
    for i, (_, one) in enumerate(chosen):
        for j, (_, other) in enumerate(chosen[:i]):
            square = sum(float((one[name].double() - other[name].double()).square().sum()) for name in one)
            distances[i, j] = distances[j, i] = square
    nearest = distances.sort(dim=1).values[:, 1 : count - byzantine - 1]  # column 0 is the client itself
    return {client: float(score) for (client, _), score in zip(chosen, nearest.sum(dim=1), strict=True)}


def krum_selection(updates: Updates, *, byzantine: int, keep: int = 1) -> list[int]:
    """The ``keep`` clients with the lowest scores, ascending; the lower id wins a tie.

    Args:
        updates: the round's updates.
        byzantine: f.
        keep: m; 1 is Krum, up to n - f - 2 is covered by the paper's proof.
    """
    scores = krum_scores(updates, byzantine=byzantine)
    if not 1 <= keep <= len(scores) - byzantine:
        raise ConfigError(
            f"Multi-Krum cannot keep {keep} of {len(scores)} updates of which {byzantine} may be malicious."
        )
    return sorted(sorted(scores, key=lambda client: (scores[client], client))[:keep])


def coordinate_median(updates: Updates) -> State:
    """The median of every coordinate; the mean of the middle two for an even number of clients."""
    chosen = _complete(updates)
    return {
        name: _middle(torch.stack([delta[name].float() for _, delta in chosen]), (len(chosen) - 1) // 2)
        for name in chosen[0][1]
    }


def trimmed_mean(updates: Updates, *, trim: float) -> State:
    """The mean of every coordinate without its extremes.

    Args:
        updates: the round's updates.
        trim: beta, share of clients dropped at each end, in [0, 0.5); rounded up to whole clients.

    Raises:
        ConfigError: nothing would be left.
    """
    chosen = _complete(updates)
    # 1e-9: 0.1 of 30 clients is 3, not the 4 that binary rounding of 0.1 would make of it.
    drop = math.ceil(trim * len(chosen) - 1.0e-9)
    if not 0 <= trim < 0.5 or 2 * drop >= len(chosen):
        raise ConfigError(f"A trimmed mean that drops {trim:g} of {len(chosen)} updates at each end leaves none.")
    return {name: _middle(torch.stack([delta[name].float() for _, delta in chosen]), drop) for name in chosen[0][1]}


def _middle(stack: torch.Tensor, drop: int) -> torch.Tensor:
    return stack.sort(dim=0).values[drop : len(stack) - drop].mean(dim=0)


def norms(updates: Updates) -> dict[int, float]:
    """The L2 norm of each client's whole delta."""
    return {client: l2_norm(delta) for client, _, delta in ordered(updates)}


def outliers(updates: Updates, *, factor: float) -> dict[int, str]:
    """The clients whose delta is longer than ``factor`` times the round's median norm, and why.

    The median is the lower one of the middle two; it holds while bad clients are a minority. Nobody is an outlier
    where most clients did not move at all.
    """
    lengths = norms(updates)
    median = sorted(lengths.values())[(len(lengths) - 1) // 2]
    return {
        client: f"Client {client}'s difference has norm {length:.4g}, {length / median:.3g} times the round's median."
        for client, length in lengths.items()
        if median > 0 and length > factor * median
    }


def norm_bounded(updates: Updates) -> list[tuple[int, float, State]]:
    """The updates, their deltas scaled down to the median of the round's norms (the lower one of the middle two).

    The median needs no tuning, and holds while malicious clients are a minority.
    """
    lengths = norms(updates)
    limit = sorted(lengths.values())[(len(lengths) - 1) // 2]
    scaled = []
    for client, weight, delta in updates:
        factor = 1.0 if lengths[client] <= limit else limit / lengths[client]
        scaled.append((client, weight, {name: tensor * factor for name, tensor in delta.items()}))
    return scaled
