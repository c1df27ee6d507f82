"""MOON (Li, He and Song 2021, "Model-Contrastive Federated Learning", CVPR, equations 3 and 5).

    L = L_task + mu l,   l = -log exp(cos(z, z_glob) / tau) / (exp(cos(z, z_glob) / tau) + exp(cos(z, z_prev) / tau))

z is a row's representation by the model that is being trained, z_glob by the global one and z_prev by the client's
own after its last turn. For a language model with LoRA, z is what enters the LM head in the column that predicts the
answer's first token: the only place that the forced choice reads, and there is no projection head to add. The global
and the previous representations are taken once per turn and row, without dropout, so a turn costs one training pass
and two forward passes. A client without a past has no z_prev; its first turn is without the term.

A client keeps its adapter as it was after its last turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

#: In front of a tensor's name in what a client keeps.
PREVIOUS = "moon/"


@dataclass(frozen=True)
class Contrast:
    """The contrastive term of one turn.

    Attributes:
        mu: its weight.
        temperature: tau.
        previous: the client's adapter after its last turn.
    """

    mu: float
    temperature: float
    previous: Mapping[str, torch.Tensor]


def contrastive_loss(
    z: torch.Tensor, z_global: torch.Tensor, z_previous: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Equation 3, summed over rows.

    Args:
        z: (rows, width), with gradient.
        z_global: (rows, width).
        z_previous: (rows, width).
        temperature: tau.
    """
    near = F.cosine_similarity(z, z_global, dim=-1) / temperature
    far = F.cosine_similarity(z, z_previous, dim=-1) / temperature
    return F.softplus(far - near).sum()


def answer_representation(head_input: torch.Tensor, labels: torch.Tensor, ignored: int) -> torch.Tensor:
    """The columns that predict the answers' first tokens.

    Args:
        head_input: (rows, columns of labels, width), what enters the LM head.
        labels: (rows, columns) token ids, ``ignored`` outside the answers, and in the first column always.
        ignored: see above.

    Returns:
        (rows, width) in float32.
    """
    first = (labels != ignored).int().argmax(dim=1)
    rows = torch.arange(len(labels), device=head_input.device)
    return head_input[rows, first.to(head_input.device) - 1].float()
