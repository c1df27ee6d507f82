"""The bound on what one client can change: its delta, all tensors together, within an L2 ball.

McMahan, Ramage, Talwar and Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018, "flat
clipping": delta * min(1, C / ||delta||).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from fs_fedmllm.aggregators.norms import l2_norm
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import UpdateError

#: A clipped delta is this much shorter than the bound, which is more than float32 can add again by rounding.
SLACK = 1.0e-6


def clip(delta: Mapping[str, torch.Tensor], bound: float) -> State:
    """Scale a delta into the ball; one that is inside keeps its bits.

    Args:
        delta: name -> client minus global, any shapes; a name that is absent counts as zeros.
        bound: largest norm, in the units of the parameters.

    Returns:
        name -> tensor; its norm is at most ``bound``, also after rounding.

    Raises:
        UpdateError: the delta is not finite, so that no scale would bound it.
    """
    norm = l2_norm(delta)
    if not math.isfinite(norm):
        raise UpdateError("the update is not finite (NaN or infinite) and cannot be clipped.")
    limit = bound * (1 - SLACK)
    if norm <= limit:
        return dict(delta)
    scale = limit / norm
    return {name: (tensor.double() * scale).to(tensor.dtype) for name, tensor in delta.items()}


def clip_update(start: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], bound: float) -> State:
    """The client's half: its adapter, moved back towards the one it started from until the delta fits.

    Args:
        start: the adapter that it was sent.
        state: the adapter that it trained, with the same names and shapes.
        bound: largest norm of the difference.

    Raises:
        UpdateError: the adapter is not finite.
    """
    delta = {name: tensor.double() - start[name].to(tensor.device).double() for name, tensor in state.items()}
    if l2_norm(delta) <= bound:
        return dict(state)
    clipped = clip(delta, bound)
    return {
        name: (start[name].to(tensor.device).double() + clipped[name]).to(tensor.dtype)
        for name, tensor in state.items()
    }
