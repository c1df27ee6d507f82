"""LoRA-correct aggregation: average the clients' products B_k A_k, not their factors.

    P = sum_k p_k B_k A_k,   P = U S V^T,   B = U_r sqrt(S_r),   A = sqrt(S_r) V_r^T

FedIT averages A and B apart, but mean(B) mean(A) != mean(B A). The truncated SVD is the best rank-r answer
(Eckart-Young); FlexLoRA (Bai et al. 2024, "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks
and Client Resources", NeurIPS, arXiv 2402.11505) does this with a rank per client. sqrt(S) must go on both factors:
on one only, the product is wrong. P has rank at most K r, so two thin QR factorisations and an SVD of K r x K r
suffice, and P itself, as large as the model's own matrices, is never built.

What the paper leaves open, decided here:
* When no client moved either factor, the answer is a zero delta: a no-op round is bit-identical, although the SVD
  would give the same product in another basis.
* Where P has rank below r, U sqrt(S) and sqrt(S) V^T have zero columns and rows, which no gradient could ever leave.
  Such a column of B stays zero, but its row of A becomes a unit direction of the old A outside V_r, with the old A's
  mean row norm, as in a fresh LoRA: P is untouched and the direction can be learnt.
* The basis turns from round to round, so server momentum on factors means nothing: use it with FedAvg at learning
  rate 1, which puts W + delta at exactly these factors.

Ranks per client are in :mod:`fs_fedmllm.algorithms.lora_ranks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fs_fedmllm.aggregators.updates import Updates, ordered, weighted_mean
from fs_fedmllm.algorithms.factors import pairs
from fs_fedmllm.algorithms.state import State

#: Singular values below this share of the largest are rounding noise of the float32 factors.
NEGLIGIBLE = 1.0e-7


@dataclass(frozen=True)
class LoraReport:
    """What averaging lost for one pair of factors, relative to the Frobenius norm of the clients' mean product.

    Attributes:
        rank: numerical rank of the mean product.
        residual: what the truncation to rank r lost; the optimum for this rank.
        naive: what averaging A and B apart would have lost.
    """

    rank: int
    residual: float
    naive: float


def exact_lora_mean(params: State, updates: Updates) -> tuple[State, dict[str, LoraReport]]:
    """The mean delta that puts the adapter at the clients' mean product; other tensors get the plain mean.

    Args:
        params: the global adapter that the deltas start from.
        updates: the round's updates, at the global rank; a client that sent one factor keeps the global other one.

    Returns:
        The mean delta, and a report by the name of each A.
    """
    chosen = ordered(updates)
    mean = weighted_mean(chosen)
    report: dict[str, LoraReport] = {}
    for a, b in pairs(params):
        if params[a].dim() != 2:
            continue  # a convolution's factors
        members = [
            (weight, _factor(params, delta, a), _factor(params, delta, b))
            for _, weight, delta in chosen
            if a in delta or b in delta
        ]
        if not members or not any(bool(mean_part.any()) for mean_part in _moves(chosen, a, b)):
            continue  # nobody sent it, or nobody moved it: the plain mean is absent or zero already
        total = sum(weight for weight, _, _ in members)
        left = torch.cat([weight / total * factor_b for weight, _, factor_b in members], dim=1)
        right = torch.cat([factor_a for _, factor_a, _ in members], dim=0)
        naive_a = params[a].double() + mean.get(a, torch.zeros(())).double()
        naive_b = params[b].double() + mean.get(b, torch.zeros(())).double()
        new_a, new_b, values, rank = _refactor(left, right, params[a].double())
        mean[a], mean[b] = new_a.float() - params[a], new_b.float() - params[b]
        size = float(values.norm())
        report[a] = LoraReport(
            rank=rank,
            residual=float(values[len(params[a]) :].norm()) / size if size else 0.0,
            naive=_norm(torch.cat([left, -naive_b], dim=1), torch.cat([right, naive_a])) / size if size else 0.0,
        )
    return mean, report


def _factor(params: State, delta: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    return params[name].double() + delta[name].double() if name in delta else params[name].double()


def _moves(updates: Updates, *names: str) -> list[torch.Tensor]:
    return [delta[name] for _, _, delta in updates for name in names if name in delta]


def _refactor(
    left: torch.Tensor, right: torch.Tensor, old: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Balanced factors A, B of rank r of ``left @ right``, its singular values and its numerical rank.

    ``old`` is the A before.
    """
    wanted = old.shape[0]
    basis_left, core_left = torch.linalg.qr(left)
    basis_right, core_right = torch.linalg.qr(right.T)
    u, s, vh = torch.linalg.svd(core_left @ core_right.T)
    rank = int((s > NEGLIGIBLE * s[0]).sum()) if s.numel() and s[0] > 0 else 0
    used = min(rank, wanted)
    u, root, v = basis_left @ u[:, :used], s[:used].sqrt(), vh[:used] @ basis_right.T
    # The sign of a singular pair is arbitrary; a fixed choice makes the bytes a function of the product alone.
    signs = torch.where(v.gather(1, v.abs().argmax(dim=1, keepdim=True)) < 0, -1.0, 1.0).double()
    new_b = torch.zeros(left.shape[0], wanted, dtype=torch.float64)
    new_b[:, :used], new_a = u * root * signs.T, v * root[:, None] * signs
    if used < wanted:
        outside = torch.linalg.svd(old - (old @ v.T) @ v, full_matrices=False).Vh[: wanted - used]
        new_a = torch.cat([new_a, outside * old.norm(dim=1).mean()])
        if len(new_a) < wanted:  # more rows than the layer is wide
            new_a = torch.cat([new_a, old.new_zeros(wanted - len(new_a), old.shape[1])])
    return new_a, new_b, s, rank


def _norm(left: torch.Tensor, right: torch.Tensor) -> float:
    """Frobenius norm of ``left @ right`` from the small Gram matrices; 1e-8 of the terms' size is rounding."""
    return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())
