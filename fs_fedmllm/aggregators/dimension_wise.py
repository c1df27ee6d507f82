"""FediLoRA's dimension-wise mean (Yang et al. 2025, arXiv 2509.06984) for clients of different LoRA ranks.

    row d of A, column d of B:   sum over {k: r_k >= d} of p_k theta_k,d / sum over {k: r_k >= d} of p_k

Averaging factors that are padded with zeros shrinks what only the clients of a high rank have; here each dimension is
averaged over the clients that have it, and weights of the others play no part. Where all ranks are alike it is the
plain mean of the factors. A dimension that nobody of the round has stays as it is.

The authors' code has the sum for B stop at a client's own rank in one place where it should go on dimension by
dimension; the formula is what is built here. Layer-wise editing, the paper's other half, is
:mod:`fs_fedmllm.algorithms.fedilora`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fs_fedmllm.aggregators.updates import Updates, ordered, weighted_mean
from fs_fedmllm.algorithms.factors import pairs
from fs_fedmllm.algorithms.state import State


def dimension_wise_mean(params: State, updates: Updates, ranks: Mapping[int, int]) -> State:
    """The mean delta.

    Args:
        params: the global adapter.
        updates: at the global rank; what lies beyond a client's own rank is not read.
        ranks: of each client.
    """
    chosen = ordered(updates)
    mean = weighted_mean(chosen)
    for pair in pairs(params):
        for axis, name in enumerate(pair):  # rows of A, columns of B
            senders = [(client, weight, delta[name]) for client, weight, delta in chosen if name in delta]
            if not senders:
                continue
            total, weights = torch.zeros_like(params[name]), torch.zeros(params[name].shape[axis])
            along = [-1 if i == axis else 1 for i in range(total.dim())]
            for client, weight, delta in senders:
                own = torch.arange(len(weights)) < ranks[client]
                total += torch.where(own.reshape(along), weight * delta.float(), 0.0)
                weights += weight * own
            mean[name] = total / torch.where(weights > 0, weights, 1.0).reshape(along)
    return mean
