"""What every server optimizer is: two pure functions over a flat dictionary of float32 tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

#: Parameters, deltas and optimizer state alike: name -> float32 tensor. Always serialisable as safetensors.
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ServerOptimizer(ABC):
    """A server optimizer; ``step`` never writes into its arguments.

    Attributes:
        lr: server learning rate, eta.
        beta1: momentum or first-moment decay.
        beta2: second-moment decay.
        tau: adaptivity.
        switches: fidelity switches, see :mod:`fs_fedmllm.profiles`.
    """

    lr: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1.0e-3
    switches: Mapping[str, str] = field(default_factory=dict)

    #: The value of ``federate.method``.
    name: ClassVar[str]
    #: ``samples`` weights a client by its rows, ``uniform`` gives every client the same weight.
    weighting: ClassVar[str] = "samples"
    #: Whether an update must hold every name: a sum over clients would else not be the sum of what they keep.
    weighs_all_names: ClassVar[bool] = False

    @abstractmethod
    def init(self, params: State) -> State:
        """The state before the first round.

        Args:
            params: the global parameters, name -> float32 tensor of any shape.
        """

    @abstractmethod
    def step(self, params: State, state: State, mean_delta: State) -> tuple[State, State]:
        """One server step.

        Args:
            params: the global parameters.
            state: what ``init`` or the last ``step`` returned.
            mean_delta: the weighted mean over clients of (client - global); a name that no client sent is absent,
                and its parameter and state stay as they are.

        Returns:
            The new parameters and the new state.
        """

    def broadcast(self, params: State, state: State) -> State:
        """What a round's clients are sent: the global parameters, and what else their side needs.

        Further names hold a slash, which canonical names do not.
        """
        return params

    def expected(self, params: State) -> State:
        """What a client's update is a difference to: the names and shapes that it may send."""
        return params

    def joined(self, state: State, share: float) -> State:
        """The state with which to step after a round in which a share of all clients took part."""
        return state


@dataclass(frozen=True)
class CorrectedOptimizer(ServerOptimizer):
    """One whose clients correct their gradients by what they keep from turn to turn.

    ``share`` in the state is the share of all clients that took part in the round, 1 until ``joined`` sets it.
    """

    weighting: ClassVar[str] = "uniform"
    weighs_all_names: ClassVar[bool] = True

    def init(self, params: State) -> State:
        return {"share": torch.ones(1)}

    def joined(self, state: State, share: float) -> State:
        return state | {"share": torch.tensor([share])}


def is_first_round(state: State) -> bool:
    """Whether no step was taken yet; the upstream variants treat round 0 differently."""
    return not bool(state["round"].item())


def advance(param: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """``param + step``, and the very bits of ``param`` where the step is zero: -0.0 + 0.0 would be 0.0."""
    return torch.where(step == 0, param, param + step)


def round_counter(value: int) -> torch.Tensor:
    """The round counter as a tensor, so that the state stays a flat dictionary of tensors."""
    return torch.tensor([float(value)])
