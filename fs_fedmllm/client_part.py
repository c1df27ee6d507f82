"""The algorithms' parts of a client's turn, put together: what it starts from, corrects by, sends and keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fs_fedmllm.aggregation.base import State
from fs_fedmllm.aggregation.frozen_a import is_frozen, without_a
from fs_fedmllm.aggregation.lora_exact import from_rank, pairs, to_rank
from fs_fedmllm.aggregation.scaffold import VARIATE
from fs_fedmllm.config import Config
from fs_fedmllm.models.adapter import Adapter
from fs_fedmllm.training.correction import Correction
from fs_fedmllm.training.feddyn import FedDynCorrection
from fs_fedmllm.training.moon import PREVIOUS, Contrast
from fs_fedmllm.training.scaffold import ScaffoldCorrection
from fs_fedmllm.training.yoco import YocoCorrection

#: In front of a tensor's name in what a client of FedDyn keeps.
GRADIENT = "feddyn/"


def frozen_positions(config: Config, adapter: Adapter) -> tuple[int, ...]:
    """Positions of the adapter's tensors that no client trains."""
    if config.fedmllm.aggregation.lora != "frozen_a":
        return ()
    return tuple(i for i, name in enumerate(adapter.names) if is_frozen(name))


@dataclass
class ClientPart:
    """The algorithms' part of one turn.

    Attributes:
        start: the adapter that the client loads.
    """

    start: State
    _config: Config
    _rank: int
    _frozen: tuple[int, ...]
    _variates: State = dataclasses.field(default_factory=dict)
    _contrast: Contrast | None = None
    _scaffold: ScaffoldCorrection | None = None
    _feddyn: FedDynCorrection | None = None
    _yoco: YocoCorrection | None = None

    def join(self, turn: Any) -> Any:
        """The turn with the algorithms' part in it."""
        chosen: list[Correction] = [c for c in (self._scaffold, self._feddyn, self._yoco) if c is not None]
        if not chosen and not self._frozen and self._contrast is None:
            return turn
        return dataclasses.replace(turn, corrections=chosen, contrast=self._contrast, frozen=self._frozen)

    def finish(self, trained: State) -> tuple[State, State]:
        """What the client sends, and what it keeps for its next turn.

        Args:
            trained: the adapter after the turn.
        """
        names, sent = list(trained), trained
        kept: State = {}
        if self._rank:
            sent = to_rank(sent, self._rank)
        if self._frozen:
            sent = without_a(sent)
        if self._scaffold is not None:
            variates = [v.to(device="cpu", dtype=torch.float32) for v in self._scaffold.variate()]
            fresh = {f"{VARIATE}{name}": v for name, v in zip(names, variates, strict=True)}
            kept |= fresh
            federated = [name for name in fresh if name.removeprefix(VARIATE) in sent]
            sent = sent | {name: fresh[name] - self._variates[name] for name in federated}
        if self._feddyn is not None:
            after, before = ([state[name] for name in names] for state in (trained, self.start))
            # On the CPU, where the adapter is kept.
            gradients = [g.to("cpu") for g in self._feddyn.gradients]
            fresh_g = dataclasses.replace(self._feddyn, gradients=gradients).next_gradients(after, before)
            kept |= {f"{GRADIENT}{name}": g for name, g in zip(names, fresh_g, strict=True)}
        if self._config.fedmllm.regularizer.type == "moon":
            kept |= {f"{PREVIOUS}{name}": tensor for name, tensor in trained.items()}
        return sent, kept


def client_part(
    config: Config,
    adapter: Adapter,
    client: int,
    received: Mapping[str, torch.Tensor],
    carried: Mapping[str, torch.Tensor],
) -> ClientPart:
    """The algorithms' part of a client's turn.

    Args:
        config: the run's configuration.
        adapter: the live adapter, for its names and its device.
        client: id.
        received: what the server sent.
        carried: what the client keeps from its last turn; empty before its first.
    """
    ranks = config.fedmllm.aggregation.ranks
    start = {name: received[name] for name in adapter.names if name in received}
    rank = int(ranks[client - 1]) if ranks else 0
    if rank:
        # The model has slots of the global rank. Rows of A and columns of B that are zero get no gradient and no
        # weight decay, so the client trains exactly a rank-q adapter with the global scale alpha / r.
        start = from_rank(to_rank(start, rank), start)
    part = ClientPart(start, config, rank, frozen_positions(config, adapter))
    device = adapter.parameters[0].device
    zeros = {name: torch.zeros_like(tensor) for name, tensor in start.items()}

    def mine(prefix: str) -> State:
        return {f"{prefix}{name}": carried.get(f"{prefix}{name}", zeros[name]) for name in adapter.names}

    if config.federate.method == "scaffold":
        part._variates = mine(VARIATE)
        part._scaffold = ScaffoldCorrection([(received[n] - v).to(device) for n, v in part._variates.items()])
    elif config.federate.method == "feddyn":
        gradients = [tensor.to(device) for tensor in mine(GRADIENT).values()]
        part._feddyn = FedDynCorrection(config.fedmllm.feddyn.alpha, gradients)
    kind = config.fedmllm.regularizer.type
    if kind == "moon" and any(name.startswith(PREVIOUS) for name in carried):
        previous = {name: carried[f"{PREVIOUS}{name}"] for name in adapter.names}
        part._contrast = Contrast(config.fedmllm.moon.mu, config.fedmllm.moon.temperature, previous)
    elif kind == "yoco":
        index = {name: i for i, name in enumerate(adapter.names)}
        found = pairs(adapter.names)
        part._yoco = YocoCorrection(
            config.fedmllm.yoco,
            [(index[a], index[b]) for a, b in found],
            [start[b].sign().to(device) for _, b in found],
        )
    return part
