"""FedDyn's client (Acar et al. 2021, "Federated Learning Based on Dynamic Regularization", ICLR, Algorithm 1).

    theta_k = argmin L_k(theta) - <g_k, theta> + alpha / 2 ||theta - theta_global||^2
    g_k <- g_k - alpha (theta_k - theta_global)

g_k stands for the gradient of L_k where the client last stopped: at an exact minimum the first line gives
grad L_k(theta_k) = g_k - alpha (theta_k - theta_global), which is the second. The gradient
-g_k + alpha (theta - theta_global) is added before clipping; it has the unit of a gradient whatever the local
optimizer, and AdamW's stationary points are those of the corrected loss. The paper solves the first line (nearly)
exactly: with few local steps g_k lags behind and the server, which adds up all differences, overshoots.

A client keeps g_k, one adapter in size, and starts with g_k = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fs_fedmllm.training.correction import add


@dataclass(frozen=True)
class FedDynCorrection:
    """The correction of one turn.

    Attributes:
        alpha: strength of the regulariser.
        gradients: g_k for each of the adapter's tensors.
    """

    alpha: float
    gradients: Sequence[torch.Tensor]

    def add_gradient(
        self, parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor], step: int, steps: int
    ) -> torch.Tensor:
        """Add -g_k + alpha (theta - theta_global)."""
        value = torch.zeros((), device=parameters[0].device)
        for parameter, anchor, gradient in zip(parameters, anchors, self.gradients, strict=True):
            distance = parameter.detach() - anchor
            add(parameter, self.alpha * distance - gradient)
            value = value + self.alpha / 2 * distance.square().sum() - (gradient * parameter.detach()).sum()
        return value

    def next_gradients(self, trained: Sequence[torch.Tensor], anchors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """g_k for the client's next turn.

        Args:
            trained: theta_k.
            anchors: theta_global.
        """
        rows = zip(self.gradients, trained, anchors, strict=True)
        return [gradient - self.alpha * (after - before) for gradient, after, before in rows]
