"""What a run sends, in bytes, by the code that a run uses; and its asynchronous rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.models.skeleton import Sizes
from fs_fedmllm.rounds.in_flight import PlannedRound
from fs_fedmllm.rounds.modality_draw import Presence
from fs_fedmllm.rounds.replay import recorded_participants
from fs_fedmllm.rounds.schedule import round_clients


def traffic(
    config: Config, counted: Sizes, mllm: Any, presence: Presence, buffered: Sequence[PlannedRound] = ()
) -> dict[str, int]:
    """Bytes of the adapter, of a message in each direction, of a round and of the run.

    Args:
        config: the run's configuration.
        counted: sizes of the model.
        mllm: the model, without weights.
        presence: rows of each client by what they show; decides who is drawn.
        buffered: the run's asynchronous rounds, if no update is refused; empty for none.
    """
    import torch

    from fs_fedmllm.rounds.server import messages
    from fs_fedmllm.rounds.wire import wire_bytes

    rounds, clients = config.federate.total_round_num, config.updates_per_round
    found = {"adapter_bytes": counted.adapter_bytes}
    if not config.method.has_global:
        parts = ("to_a_client_bytes", "from_a_client_bytes", "round_bytes", "run_bytes")
        return found | dict.fromkeys(parts, 0)
    state = {
        name: torch.zeros(parameter.shape)
        for name, parameter in zip(mllm.adapter.names, mllm.adapter.parameters, strict=True)
    }

    def sizes_of(client: int) -> tuple[int, int]:
        down, up = messages(config, state, client)
        return wire_bytes(down), wire_bytes(up)

    # Clients differ by their rank only.
    ranks = config.fedmllm.aggregation.ranks
    of_rank = {rank: sizes_of(client) for client, rank in enumerate(ranks, start=1)} or {None: sizes_of(1)}
    of_client = {client: of_rank[ranks[client - 1] if ranks else None] for client in range(1, len(ranks) + 1)}
    down, up = max(of_rank.values())
    found |= {
        "to_a_client_bytes": down,
        "from_a_client_bytes": up,
        "round_bytes": clients * (down + up),
        "run_bytes": clients * (down + up) * rounds,
    }
    if buffered:
        came = sum(len(planned.jobs) + planned.dropped for planned in buffered)
        found["run_bytes"] = sum(planned.sent for planned in buffered) * down + came * up
    if ranks:
        recorded = recorded_participants(config)
        drawn = [client for index in range(rounds) for client in round_clients(config, index, recorded, presence)]
        found["run_bytes"] = sum(sum(of_client[client]) for client in drawn)
    return found


def asynchronous(config: Config, buffered: Sequence[PlannedRound]) -> dict[str, Any]:
    """Asynchronous rounds: their virtual clock, and what is kept in them if no update is refused."""
    return {
        "in_flight": config.sampled_clients,
        "virtual_seconds": buffered[-1].clock,
        "dropped": sum(planned.dropped for planned in buffered),
        "versions_kept": max(planned.versions for planned in buffered),
    }
