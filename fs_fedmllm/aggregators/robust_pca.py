"""FedRPCA (Jhunjhunwala et al. 2025, "FedRPCA: Enhancing Federated LoRA Aggregation Using Robust PCA",
arXiv 2506.01194): what clients have in common is averaged, what is single clients' own is averaged and scaled up.

For each tensor of the adapter (A and B apart) the clients' updates, as columns, are M, and

    min ||L||_* + lambda ||S||_1   with L + S = M,   lambda = 1 / sqrt(max(rows, columns))
    update = mean over clients of L + beta * mean over clients of S

The first line is principal component pursuit, solved by the alternating directions method of Candes et al. 2011
("Robust Principal Component Analysis?", JACM 58(3), Algorithm 1): mu = rows * columns / (4 ||M||_1), until
||M - L - S||_F <= 1e-7 ||M||_F. Decided here: means are weighted as the run's other means are; what the solver leaves
over goes to S, so that beta = 1 is the plain mean; a round's clients are few, so L is of low rank among few columns.

Not built: a beta that changes from round to round. We had the paper's abstract and first pages and no rule for that,
so beta is a fixed key here, and its default is ours.

Despite the name this is no defence against bad clients: what one client alone does is scaled up.
"""

from __future__ import annotations

import math

import torch

from fs_fedmllm.aggregators.updates import Updates, ordered
from fs_fedmllm.algorithms.state import State

TOLERANCE = 1.0e-7
MOST_STEPS = 1000


def robust_pca(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A low-rank and a sparse part, in float64, whose sum is the matrix.

    Args:
        matrix: (values, clients).
    """
    given = matrix.double()
    size, absolute = float(given.norm()), float(given.abs().sum())
    if not size:
        return given, torch.zeros_like(given)
    mu, sparsity = given.numel() / (4 * absolute), 1 / math.sqrt(max(given.shape))
    sparse, dual = torch.zeros_like(given), torch.zeros_like(given)
    low = given
    for _ in range(MOST_STEPS):
        left, values, right = torch.linalg.svd(given - sparse + dual / mu, full_matrices=False)
        low = left * (values - 1 / mu).clamp(min=0) @ right
        sparse = torch.nn.functional.softshrink(given - low + dual / mu, sparsity / mu)
        rest = given - low - sparse
        dual = dual + mu * rest
        if float(rest.norm()) <= TOLERANCE * size:
            break
    return low, given - low


def robust_pca_mean(updates: Updates, scale: float) -> tuple[State, float]:
    """The mean delta, and the share of the round's updates that was sparse (of squared norms).

    Args:
        updates: the round's.
        scale: beta, of the sparse part.
    """
    chosen = ordered(updates)
    mean: State = {}
    sparse_size = whole_size = 0.0
    for name in dict.fromkeys(name for _, _, delta in chosen for name in delta):
        senders = [(weight, delta[name]) for _, weight, delta in chosen if name in delta]
        weights = torch.tensor([weight for weight, _ in senders], dtype=torch.float64)
        matrix = torch.stack([tensor.double().flatten() for _, tensor in senders], dim=1)
        low, sparse = robust_pca(matrix)
        combined = (low + scale * sparse) @ (weights / weights.sum())
        mean[name] = combined.reshape(senders[0][1].shape).float()
        sparse_size += float(sparse.square().sum())
        whole_size += float(matrix.square().sum())
    return mean, sparse_size / whole_size if whole_size else 0.0
