"""A client's part of a round: the client halves of what the run has chosen, in their order."""

from __future__ import annotations

from collections.abc import Sequence

from fs_fedmllm.algorithms import METHODS, REGULARIZERS, ClientContext, ClientHalf, parameters_of
from fs_fedmllm.algorithms.factors import is_a
from fs_fedmllm.algorithms.frozen_a import FrozenAClient
from fs_fedmllm.algorithms.lora_ranks import RankedClient
from fs_fedmllm.config import Config


def frozen_positions(config: Config, names: Sequence[str]) -> tuple[int, ...]:
    """Positions of the adapter's tensors that no client trains."""
    if config.fedmllm.aggregation.lora != "frozen_a":
        return ()
    return tuple(i for i, name in enumerate(names) if is_a(name))


def client_halves(config: Config, context: ClientContext) -> list[ClientHalf]:
    """The client halves of one update: of how factors are averaged, of the method, and of the regulariser.

    Args:
        config: the run's configuration.
        context: the client and the adapter.

    Raises:
        ConfigError: a regulariser's parameters do not fit the model.
    """
    aggregation = config.fedmllm.aggregation
    halves: list[ClientHalf | None] = []
    if aggregation.ranks:
        halves.append(RankedClient(int(aggregation.ranks[context.client - 1])))
    if context.frozen:
        halves.append(FrozenAClient(context))
    method = METHODS[config.federate.method]
    halves.append(method.client(parameters_of(config, method), context))
    regularizer = REGULARIZERS[config.fedmllm.regularizer.type]
    halves.append(regularizer.client(parameters_of(config, regularizer), context))
    return [half for half in halves if half is not None]
