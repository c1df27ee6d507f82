"""A client regulariser: a client half alone, orthogonal to the server's method (Table 10 of the paper)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from fs_fedmllm.algorithms.client import ClientContext, ClientHalf
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.lazy import torch


class Regularizer(ABC):
    """A value of ``fedmllm.regularizer.type``."""

    #: The value.
    name: ClassVar[str]
    #: The section ``fedmllm.<section>`` of its parameters.
    section: ClassVar[str] = "regularizer"
    #: The section's frozen dataclass, if the section is its own.
    parameters: ClassVar[type | None] = None
    #: Whether a client starts from what the server sent and forgets its past, as differential privacy needs.
    private: ClassVar[bool] = True
    #: Whether its client half looks at representations of rows, which a trainer may not show.
    represents: ClassVar[bool] = False
    #: Whether its client half shifts the logits of a choice's options, which open answers do not have.
    shifts_options: ClassVar[bool] = False
    #: Whether a client must know which of its updates the server has used.
    remembers: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def client(cls, parameters: Any, context: ClientContext) -> ClientHalf | None:
        """The client half for one update; None where it has nothing to do.

        Args:
            parameters: the section.
            context: the client and the adapter.

        Raises:
            ConfigError: the parameters do not fit the model.
        """

    @classmethod
    def initial_state(cls, state: State, base_weights: Mapping[str, torch.Tensor]) -> State:
        """The global adapter before the first round.

        Args:
            state: a fresh adapter.
            base_weights: the frozen weight that each B factor's name belongs to.
        """
        return state

    #: Whether :meth:`initial_state` reads the base's weights.
    reads_base: ClassVar[bool] = False

    @classmethod
    def faults(cls, config: Any) -> Iterator[str]:
        """A message, naming the keys, for every setting of a run that it cannot mean anything with.

        Args:
            config: the whole configuration.
        """
        return iter(())


class NoRegularizer(Regularizer):
    """None."""

    name: ClassVar[str] = "none"

    @classmethod
    def client(cls, parameters: Any, context: ClientContext) -> None:
        return None
