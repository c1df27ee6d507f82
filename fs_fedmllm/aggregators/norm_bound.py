"""A bound on how far one client may move the adapter (Sun et al. 2019, arXiv 1911.07963, section 4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fs_fedmllm.aggregators.norms import l2_norm
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.errors import UpdateError


def bound_update(
    client: int, params: State, update: Mapping[str, torch.Tensor], *, limit: float, clip: bool
) -> Mapping[str, torch.Tensor]:
    """An update no further than ``limit`` from the global adapter.

    Args:
        client: id for the message.
        params: the global adapter; tensors of the update that it lacks are not measured.
        update: the client's parameters.
        limit: largest L2 norm of the whole difference.
        clip: scale a longer difference down instead of refusing it.

    Raises:
        UpdateError: the difference is longer, and is not to be scaled.
    """
    deltas = {name: tensor.float() - params[name] for name, tensor in update.items() if name in params}
    norm = l2_norm(deltas)
    if norm <= limit:
        return update
    if not clip:
        raise UpdateError(
            f"Client {client}'s difference to the global adapter has norm {norm:.4g}, above "
            f"fedmllm.aggregation.max_update_norm, {limit:g}."
        )
    return dict(update) | {name: params[name] + delta * (limit / norm) for name, delta in deltas.items()}


def bound_beside(client: int, params: State, update: Mapping[str, torch.Tensor], limit: float) -> None:
    """Refuse what a client sends beside its adapter if it is too long (the change of a variate).

    It has another unit than the adapter, a gradient's, and so a limit of its own.

    Args:
        client: id for the message.
        params: the global adapter.
        update: the client's; tensors that the adapter lacks are changes themselves, measured from zero.
        limit: largest L2 norm of all of them together.

    Raises:
        UpdateError: they are longer.
    """
    norm = l2_norm({name: tensor for name, tensor in update.items() if name not in params})
    if norm > limit:
        raise UpdateError(
            f"Client {client}'s variate changed by a norm of {norm:.4g}, above fedmllm.aggregation.max_variate_norm, "
            f"{limit:g}."
        )
