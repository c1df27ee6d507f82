"""What a client gives back in a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

from fs_fedmllm.algorithms import State
from fs_fedmllm.rounds.trainer import UpdateLog

#: What a client without a past keeps.
NOTHING: Mapping[str, torch.Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class ClientUpdate:
    """A client's update.

    Attributes:
        client: id, from 1.
        rows: size of the client's training set, the weight of sample-weighted methods.
        state: what is sent: the client's adapter, float32, by canonical name, or what ``fedmllm.compression`` makes of
            it, and whatever else the algorithm sends back, by names that hold a slash.
        log: the figures of its training.
        client_state: what the client keeps for its next update, by ``<owner>/<name>`` (for example
            ``<algorithm>/<canonical name>``); never sent. Empty where nothing is kept.
    """

    client: int
    rows: int
    state: State
    log: UpdateLog
    client_state: State = field(default_factory=dict)


@dataclass(frozen=True)
class FailedUpdate:
    """That a client has no update in this round.

    Attributes:
        client: id.
        reason: what happened, without the client's id.
    """

    client: int
    reason: str
