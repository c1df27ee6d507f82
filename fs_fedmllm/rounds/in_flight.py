"""Asynchronous rounds: who trains from which version of the adapter until when, on a virtual clock.

FedBuff (Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation", AISTATS, arXiv 2106.06639,
Algorithm 1). So many clients train at once, each from the adapter that was the newest when it began. The server keeps
what comes in a buffer, and steps when it holds K updates:

    W <- W + eta_g / K * sum_i s(tau_i) Delta_i,    s(tau) = 1 or (1 + tau)^-a

where tau_i, the staleness, is how many steps the server took since client i was sent the adapter, and Delta_i is the
difference to what it was sent. The sum is divided by K (with weights by rows, by their sum) and not by the sum of s:
a buffer of old updates is a shorter step.

Here a round is one step of the server, and a version is the adapter that a round begins with. What we decide:

- A client comes into a buffer once, and then waits for the next version. Its draws are functions of the client and the
  version, so a second update from the same version would be the first one again.
- A client that has come back is replaced at once, by a draw among those that are idle and not in this buffer.
- All that comes at one moment comes before anything is sent at that moment; ties go by the client's number.
- An update that is older than ``max_staleness`` is dropped when it comes. Its client has worked in vain, as it would
  have; here nothing is computed for it.

Where all clients train at once and the buffer holds them all, this is the synchronous run whatever their speeds; where
some are drawn, with equal speeds. The order of events follows from the configuration alone (but for updates that are
refused), so a plan can tell it, and updates are computed when they come: nothing of a client in flight is in memory
but its version of the adapter, once for all that have it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fs_fedmllm.config import AsyncConfig, Config
from fs_fedmllm.rounds.modality_draw import Presence
from fs_fedmllm.rounds.schedule import draw_clients


@dataclass(frozen=True, order=True)
class Job:
    """A client that is training.

    Attributes:
        finish: when its update comes, virtual seconds from the run's beginning.
        client: id.
        version: the round whose adapter it was sent.
    """

    finish: float
    client: int
    version: int


def staleness_weight(chosen: AsyncConfig, staleness: int) -> float:
    """s(tau): what a difference is multiplied by.

    Args:
        chosen: ``fedmllm.async``.
        staleness: steps of the server since the client was sent the adapter.
    """
    return 1.0 if chosen.weight == "constant" else float((1 + staleness) ** -chosen.exponent)


def seconds_of(chosen: AsyncConfig, client: int, version: int) -> float:
    """How long a client takes for its update of a version, virtual seconds.

    Args:
        chosen: ``fedmllm.async``.
        client: id, from 1.
        version: from 0.
    """
    if not chosen.seconds:
        return 1.0
    entry = chosen.seconds[client - 1]
    return float(entry[version % len(entry)] if isinstance(entry, list | tuple) else entry)


@dataclass
class InFlight:
    """The clients that are training, and the clock.

    Attributes:
        config: the run's configuration.
        presence: what every client's rows show; read by ``fedmllm.sampler: modality``.
        clock: virtual seconds from the run's beginning.
        jobs: who is training, the next to come first.
        version: the round that is under way.
        sent: clients that were sent the adapter in this round.
        dropped: updates of this round that were too old.
        taken: the others that have come in this round, by client.
    """

    config: Config
    presence: Presence
    clock: float = 0.0
    jobs: list[Job] = field(default_factory=list)
    version: int = 0
    sent: int = 0
    dropped: list[Job] = field(default_factory=list)
    taken: dict[int, Job] = field(default_factory=dict)
    _draws: int = 0

    def begin(self, version: int) -> list[int]:
        """Begin a round: whoever is free is sent the new version.

        Args:
            version: the round, from 0.

        Returns:
            Who, ascending.
        """
        self.version, self.sent, self.dropped, self.taken, self._draws = version, 0, [], {}, 0
        return self._send()

    def arrivals(self, count: int) -> list[Job]:
        """The next updates, in the order in which they come; fewer than ``count`` if nobody else can come."""
        found: list[Job] = []
        while len(found) < count:
            if not (self.jobs and self.jobs[0].finish == self.clock):
                self._send()
            if not self.jobs:
                break
            self.clock = self.jobs[0].finish
            while len(found) < count and self.jobs and self.jobs[0].finish == self.clock:
                job = self.jobs.pop(0)
                if self.staleness(job) > self.config.fedmllm.async_.max_staleness:
                    self.dropped.append(job)
                else:
                    found.append(job)
                    self.taken[job.client] = job
        return found

    def staleness(self, job: Job) -> int:
        """Steps of the server since the client was sent the adapter."""
        return self.version - job.version

    def needed(self) -> set[int]:
        """The versions that an update that may still be used in the next round, or later, began from."""
        oldest = self.version + 1 - self.config.fedmllm.async_.max_staleness
        return {job.version for job in self.jobs if job.version >= oldest}

    def _send(self) -> list[int]:
        busy = {job.client for job in self.jobs}
        idle = [
            client
            for client in range(1, self.config.federate.client_num + 1)
            if client not in busy and client not in self.taken
        ]
        places = min(self.config.sampled_clients - len(busy), len(idle))
        if places <= 0:
            return []
        clients = draw_clients(self.config, self.version, idle, places, self.presence, self._draws)
        self._draws += 1
        self.sent += len(clients)
        for client in clients:
            finish = self.clock + seconds_of(self.config.fedmllm.async_, client, self.version)
            bisect.insort(self.jobs, Job(finish, client, self.version))
        return clients


@dataclass(frozen=True)
class PlannedRound:
    """A round as it will be if no update is refused.

    Attributes:
        jobs: the updates of its buffer, by ascending client.
        sent: clients that are sent the adapter.
        dropped: updates that are too old.
        clock: when it ends, virtual seconds.
        versions: versions of the adapter that are kept for clients in flight when it has ended.
    """

    jobs: list[Job]
    sent: int
    dropped: int
    clock: float
    versions: int


def planned_rounds(config: Config, presence: Presence) -> Iterator[PlannedRound]:
    """A run's asynchronous rounds, told ahead."""
    flight = InFlight(config, presence)
    for version in range(config.federate.total_round_num):
        flight.begin(version)
        jobs = by_client(flight.arrivals(config.fedmllm.async_.buffer))
        yield PlannedRound(jobs, flight.sent, len(flight.dropped), flight.clock, len(flight.needed()))


def by_client(jobs: Iterable[Job]) -> list[Job]:
    """By ascending client: the order in which updates are added, as in every round."""
    return sorted(jobs, key=lambda job: job.client)
