"""The server half of an algorithm: two pure functions over a flat dictionary of float32 tensors.

A value of ``federate.method`` is one class: its server half, the client half that goes with it, the section of its
parameters, and the combinations that it refuses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from fs_fedmllm.algorithms.client import ClientContext, ClientHalf
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.lazy import torch


class Method(ABC):
    """A value of ``federate.method``."""

    #: The value.
    name: ClassVar[str]
    #: Whether several clients' updates meet on a server; the baselines have no such thing.
    federated: ClassVar[bool] = True
    #: Whether one client holds every row.
    pooled: ClassVar[bool] = False
    #: Whether there is a global adapter.
    has_global: ClassVar[bool] = True
    #: The section ``fedmllm.<section>`` of its own parameters; empty if it has none.
    section: ClassVar[str] = ""
    #: The section's frozen dataclass, whose fields are :func:`fs_fedmllm.keys.key`.
    parameters: ClassVar[type | None] = None
    #: Server learning rate where ``fedmllm.server.lr`` names none.
    default_lr: ClassVar[float] = 1.0
    #: What its server keeps that is only right for the plain mean of all that clients did; empty for nothing.
    keeps: ClassVar[str] = ""
    #: Whether clients send more than an adapter; so it is where a server optimizer overrides ``expected``.
    sends_beside: ClassVar[bool] = False

    @classmethod
    def build(cls, *, parameters: Any = None, **settings: Any) -> ServerOptimizer | None:
        """The server half; None where there is no server.

        Args:
            parameters: the method's own, see ``section``.
            settings: ``lr``, ``beta1``, ``beta2``, ``tau`` and ``switches``, see :class:`ServerOptimizer`.
        """
        return None

    @classmethod
    def client(cls, parameters: Any, context: ClientContext) -> ClientHalf | None:
        """The client half for one update; None is FedAvg's client, which only trains.

        Args:
            parameters: the method's own, see ``section``.
            context: the client and the adapter.
        """
        return None

    @classmethod
    def faults(cls, config: Any) -> Iterator[str]:
        """A message, naming the keys, for every setting of a run that the method cannot mean anything with.

        Args:
            config: the whole configuration.
        """
        return iter(())


@dataclass(frozen=True)
class ServerOptimizer(Method):
    """A server optimizer; ``step`` never writes into its arguments.

    Attributes:
        lr: server learning rate, eta.
        beta1: momentum or first-moment decay.
        beta2: second-moment decay.
        tau: adaptivity.
        switches: fidelity switches, see :mod:`fs_fedmllm.config.profiles`.
    """

    lr: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1.0e-3
    switches: Mapping[str, str] = field(default_factory=dict)

    #: ``samples`` weights a client by its rows, ``uniform`` gives every client the same weight.
    weighting: ClassVar[str] = "samples"
    #: Whether an update must hold every name: a sum over clients would else not be the sum of what they keep.
    weighs_all_names: ClassVar[bool] = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.sends_beside = cls.expected is not ServerOptimizer.expected

    @classmethod
    def build(cls, *, parameters: Any = None, **settings: Any) -> Self:
        return cls(**settings)

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
    """One whose clients correct their gradients by what they keep from update to update.

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
