"""What goes between the server and its clients, by the configuration alone: whoever plans a run asks here too."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fs_fedmllm.aggregators import federated_names
from fs_fedmllm.algorithms import METHODS, ServerOptimizer, State, parameters_of
from fs_fedmllm.algorithms.lora_ranks import to_rank
from fs_fedmllm.compression import Codec, download
from fs_fedmllm.config import Config


def server_optimizer(config: Config) -> ServerOptimizer | None:
    """The run's server optimizer; None where clients only train alone."""
    method, options = METHODS[config.federate.method], config.fedmllm.server
    return method.build(
        lr=config.server_lr,
        beta1=options.beta1,
        beta2=options.beta2,
        tau=options.tau,
        switches=config.switches,
        parameters=parameters_of(config, method),
    )


def upload_codec(config: Config) -> Codec:
    """How clients write their updates."""
    compression = config.fedmllm.compression
    return Codec(compression.upload, compression.group, compression.error_feedback)


def to_clients(config: Config, server: ServerOptimizer | None, params: State, server_state: State) -> State:
    """What the server sends to a round's clients: the global adapter, and what else the algorithm needs.

    Args:
        config: the run's configuration.
        server: its server optimizer.
        params: the global adapter.
        server_state: the server optimizer's state.
    """
    sent = params if server is None else server.broadcast(params, server_state)
    return download(sent, config.fedmllm.compression.download)


def shared_tensors(config: Config, server: ServerOptimizer | None, params: State) -> State:
    """The tensors that clients send, by the names and shapes of the global adapter.

    Args:
        config: the run's configuration.
        server: its server optimizer.
        params: the adapter that the clients receive.
    """
    expected = params if server is None else server.expected(params)
    names = federated_names(expected, config.fedmllm.aggregation)
    return {name: tensor for name, tensor in expected.items() if name in names}


def messages(config: Config, params: Mapping[str, torch.Tensor], client: int) -> tuple[State, State]:
    """What a client gets and gives in a round, by name, dtype and shape; the values say nothing.

    Args:
        config: the run's configuration.
        params: an adapter, float32.
        client: id, from 1.
    """
    server, adapter = server_optimizer(config), dict(params)
    down = to_clients(config, server, adapter, server.init(adapter) if server is not None else {})
    up = shared_tensors(config, server, adapter)
    if config.fedmllm.aggregation.ranks:
        up = to_rank(up, int(config.fedmllm.aggregation.ranks[client - 1]))
    return down, upload_codec(config).encode(adapter, up, {})[0]
