"""A run's asynchronous rounds: the clients in flight, the versions of the adapter that they hold, and the counts.

All of it is in the run's state, ``RunState.versions`` and ``figures["async"]``, so that a resumed run goes on with the
same clients in flight at the same moment of the virtual clock. See :mod:`fs_fedmllm.rounds.in_flight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fs_fedmllm.algorithms import State
from fs_fedmllm.config import Config
from fs_fedmllm.keys import is_number
from fs_fedmllm.rounds.client_update import NOTHING
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.in_flight import InFlight, Job, by_client, staleness_weight
from fs_fedmllm.rounds.server import Round
from fs_fedmllm.rounds.workers import Asked
from fs_fedmllm.runs.checkpoint import RunState


class BufferedRounds:
    """The asynchronous part of a session.

    Args:
        federation: the run's pieces.
        state: of the run; its ``versions`` and ``figures["async"]`` are kept up to date.
    """

    def __init__(self, federation: Federation, state: RunState):
        self._config = config = federation.config
        self._state = state
        kept = state.figures.setdefault(
            "async", {"clock": 0.0, "jobs": [], "clocks": [], "dropped": {}, "staleness": {}}
        )
        jobs = [Job(float(finish), client, version) for finish, client, version in kept["jobs"]]
        self._flight = InFlight(config, federation.presence, float(kept["clock"]), sorted(jobs), state.round - 1)
        self._told = 0

    def begin(self, index: int) -> list[int]:
        """Begin a round.

        Returns:
            Whoever is sent the adapter at once, ascending.
        """
        self._told = 0
        return self._flight.begin(index)

    def keep(self, current: Round) -> None:
        """Keep what is sent in this round for as long as a client in flight may need it."""
        self._state.versions[current.index] = current.message

    def asked(self, current: Round, free: int) -> list[Asked]:
        """What is to be computed next: the updates that come until the buffer is full, by ascending client."""
        jobs = by_client(self._flight.arrivals(free)) if free > 0 else []
        kept = self._state.clients
        return [
            (job.client, job.version, self._state.versions[job.version], kept.get(job.client, NOTHING)) for job in jobs
        ]

    def newly_dropped(self) -> list[tuple[int, str]]:
        """Clients whose updates came too late since this was last asked, and what to say of each."""
        jobs = self._flight.dropped[self._told :]
        self._told = len(self._flight.dropped)
        most = self._config.fedmllm.async_.max_staleness
        return [
            (
                job.client,
                f"client {job.client}: its update of round {job.version} is {self._flight.staleness(job)} steps old, "
                f"above fedmllm.async.max_staleness {most}",
            )
            for job in jobs
        ]

    def staleness(self, client: int) -> int:
        """How many steps the server took since a client of this round's buffer was sent the adapter."""
        return self._flight.staleness(self._flight.taken[client])

    def origin(self, client: int) -> tuple[State, float]:
        """What the update of a client of this round's buffer is a difference to, and what it is multiplied by.

        Returns:
            The adapter that it was sent, float32, and the weight of its staleness.
        """
        message = self._state.versions[self._flight.taken[client].version]
        received = {name: message[name].float() for name in self._state.params}
        return received, staleness_weight(self._config.fedmllm.async_, self.staleness(client))

    def end(self, current: Round) -> dict[str, Any]:
        """The round has ended: what is not needed any more goes, and the rest is written into the run's state.

        Returns:
            Figures of the round: ``clock`` (virtual seconds), ``sent`` (clients that were sent the adapter),
            ``dropped`` (updates that were too old) and ``staleness`` (mean of the updates taken).
        """
        flight, told = self._flight, self._state.figures["async"]
        ages = [self.staleness(client) for client in current.taken]
        for age in ages:
            told["staleness"][str(age)] = told["staleness"].get(str(age), 0) + 1
        for job in flight.dropped:
            told["dropped"][str(job.client)] = told["dropped"].get(str(job.client), 0) + 1
        told["clock"] = flight.clock
        told["clocks"].append(flight.clock)
        told["jobs"] = [[job.finish, job.client, job.version] for job in flight.jobs]
        needed = flight.needed()
        for version in set(self._state.versions) - needed:
            del self._state.versions[version]
        return {
            "clock": flight.clock,
            "sent": flight.sent,
            "dropped": len(flight.dropped),
            "staleness": sum(ages) / len(ages),
        }


def check_buffered(saved: RunState, config: Config, params: Mapping[str, torch.Tensor]) -> None:
    """Whether what a checkpoint says of asynchronous rounds is a state of this run.

    Raises:
        ValueError: names what does not fit.
    """
    told, chosen = saved.figures.get("async"), config.fedmllm.async_
    if not chosen.buffer:
        if told is not None or saved.versions:
            raise ValueError("it holds clients in flight, and fedmllm.async.buffer is 0")
        return
    if not isinstance(told, Mapping) or not all(
        (
            _time(told.get("clock")),
            isinstance(told.get("jobs"), list) and all(_job(entry) for entry in told["jobs"]),
            isinstance(told.get("clocks"), list) and all(_time(clock) for clock in told["clocks"]),
            _counts(told.get("dropped")),
            _counts(told.get("staleness")),
        )
    ):
        raise ValueError("async does not say who is in flight")
    clients = [client for _, client, _ in told["jobs"]]
    strange = [client for client in clients if not 1 <= client <= config.federate.client_num]
    if strange or len(set(clients)) < len(clients) or len(clients) > config.sampled_clients:
        raise ValueError("async has clients in flight that this run cannot have")
    if any(finish < told["clock"] or version >= saved.round for finish, _, version in told["jobs"]):
        raise ValueError("async has clients in flight from another time")
    if len(told["clocks"]) != saved.round:
        raise ValueError(f"async has the clock of {len(told['clocks'])} rounds, round is {saved.round}")
    oldest = saved.round - chosen.max_staleness
    if set(saved.versions) != {version for _, _, version in told["jobs"] if version >= oldest}:
        raise ValueError("the versions of the adapter are not those of the clients in flight")
    dtype = getattr(torch, config.fedmllm.compression.download)
    for version, message in saved.versions.items():
        for name, tensor in params.items():
            found = message.get(name)
            if found is None or (found.shape, found.dtype) != (tensor.shape, dtype):
                raise ValueError(f"{name!r} of the adapter of round {version} is not what this run sends")
            if not bool(torch.isfinite(found).all()):
                raise ValueError(f"{name!r} of the adapter of round {version} is not finite")


def _time(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1.0e300


def whole(value: Any) -> bool:
    """Whether a value that was read is a whole number of 0 or more."""
    return type(value) is int and value >= 0


def _job(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 3 and _time(entry[0]) and whole(entry[1]) and whole(entry[2])


def _counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        str(name).isascii() and str(name).isdecimal() and whole(count) for name, count in value.items()
    )
