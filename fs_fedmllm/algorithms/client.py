"""The client half of an algorithm: one client's part of one round, around and inside its local training.

The trainer knows these hooks and no algorithm by name. A half is made anew for every client update; whatever a client
must remember from one update to its next is in the state that ``finish`` gives and ``begin`` gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.lazy import torch


@dataclass(frozen=True)
class ClientContext:
    """What the client half of an algorithm may know of the client, its rows and the adapter.

    Attributes:
        client: id, from 1.
        names: canonical names of the adapter's tensors; parameters and anchors below come in this order.
        layers: index of the language layer that each tensor belongs to; None outside the language layers.
        depth: number of language layers.
        frozen: positions of the tensors that nobody trains.
        device: where the adapter's parameters are.
        label_counts: training rows of each option, in the options' order; empty where answers are open.
        missing_rate: the largest share, over modalities, of the client's training rows that lack it.
        scenario: name of the scenario.
        scenario_params: its parameters, as the manifest has them.
        switches: the profile's switches (:mod:`fs_fedmllm.config.profiles`).
    """

    client: int
    names: Sequence[str]
    device: torch.device
    layers: Sequence[int | None] = ()
    depth: int = 0
    frozen: Sequence[int] = ()
    label_counts: Sequence[int] = ()
    missing_rate: float = 0.0
    scenario: str = ""
    scenario_params: Mapping[str, object] = field(default_factory=dict)
    switches: Mapping[str, str] = field(default_factory=dict)


#: (adapter, or None for the one that is loaded) -> row index -> representation of the row (width,), without dropout.
Represent = Callable[["State | None"], dict[int, "torch.Tensor"]]


class ClientHalf:
    """One client's part of a round; what is not overridden does nothing, which is FedAvg's client."""

    #: Whether :meth:`correct` is to be called.
    corrects: ClassVar[bool] = False

    #: Whether :meth:`prepare` and :meth:`row_loss` are to be called: the forward pass then shows its representations.
    represents: bool = False

    #: Positions of the adapter's tensors that are not trained in this update.
    frozen: Sequence[int] = ()

    #: What is added in training to the logits of the tokens that decide between the options, by option; empty for
    #: nothing. Where several halves have one, they add up.
    option_shift: Sequence[float] = ()

    def begin(self, received: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor], start: State) -> State:
        """What local training starts from.

        Args:
            received: everything that the server sent.
            kept: what the client kept from its last update; empty before its first.
            start: the adapter so far: what was received, or what the half before made of it.
        """
        return start

    def prepare(self, represent: Represent) -> None:
        """Before the first step; may look at the rows of this update through any adapter."""

    def row_loss(self, indices: Sequence[int], representations: torch.Tensor, rows: int) -> torch.Tensor:
        """A term that is added to the loss of a forward pass.

        Args:
            indices: the rows of the pass.
            representations: (rows of the pass, width), with gradient.
            rows: rows of the whole step.
        """
        raise NotImplementedError

    def correct(
        self, parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor], step: int, steps: int
    ) -> torch.Tensor:
        """Change the gradients in place, after the backward pass and before they are clipped.

        Args:
            parameters: the adapter's parameters, with gradients; a batch that does not reach one leaves it None.
            anchors: the values that training started from, same order.
            step: optimizer step of the update, from 0.
            steps: how many there are.

        Returns:
            The value of what was added to the loss, a scalar tensor.
        """
        raise NotImplementedError

    def finish(self, trained: State, sent: State) -> tuple[State, State]:
        """What is sent to the server, and what the client keeps for its next update.

        Args:
            trained: the adapter after training.
            sent: what is sent so far: the trained adapter, or what the half before made of it.

        Returns:
            What is sent, and what is kept, by ``<algorithm>/<canonical name>``. It is kept only if the server accepts
            the update.
        """
        return sent, {}


def add_gradient(parameter: torch.nn.Parameter, gradient: torch.Tensor) -> None:
    """Add to a parameter's gradient, which a batch that does not reach the parameter leaves empty."""
    if not parameter.requires_grad:  # frozen for this update
        return
    if parameter.grad is None:
        parameter.grad = gradient.clone()
    else:
        parameter.grad.add_(gradient)
