"""Who has to be there before a round goes on, how long the server waits for them, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.distributed import protocol as p
from fs_fedmllm.distributed.desk import Desk
from fs_fedmllm.distributed.journal import Journal
from fs_fedmllm.distributed.roster import Roster
from fs_fedmllm.runs.checkpoint import RunState

#: How often the round loop looks up while it waits, in seconds: for signals, deadlines, and the status file.
LOOK_UP = 0.5


class Stopped(Exception):
    """The server was asked to stop; the run resumes with the same command."""


@dataclass(frozen=True, eq=False)
class Attendance:
    """Waits for clients, at the desk where they call.

    Attributes:
        desk: of the run; its lock is held while something is waited for.
        roster: the run's clients.
        journal: events.
        settings: ``fedmllm.network``.
        state: the run's, which the round loop moves on.
        waiting: called when a wait for clients begins that the status should show.
        clock: monotonic seconds.
    """

    desk: Desk
    roster: Roster
    journal: Journal
    settings: NetworkConfig
    state: RunState
    waiting: Callable[[], None]
    clock: Callable[[], float]

    def everybody(self) -> None:
        """Wait for every client that may come; after ``join_timeout`` a quorum of the round is enough."""
        deadline = self.clock() + self.settings.join_timeout
        expected = self.roster.expected
        with self.desk.news:
            while self.clock() < deadline:
                here = {*self.roster.present(expected), *self.desk.not_coming}
                if len(here) == len(expected):
                    break
                self.wait(deadline)
            self.tell_missing(expected)

    def quorum(self, drawn: list[int], needed: int, *, again: bool = False) -> list[int]:
        """Those of the drawn clients that the round waits for.

        Args:
            drawn: the round's clients.
            needed: how many of them have to be there.
            again: whether the round was begun among them, so that no others will do.

        Raises:
            NetworkError: there were too few for too long (TurnedAwayError: and there will not be enough).
        """
        limit = self.clock() + self.settings.give_up
        told = False
        with self.desk.news:
            while len(present := self.roster.present(drawn)) < needed:
                self._check_enough(drawn, needed)
                if not told:
                    self.waiting()
                    self.tell_missing(drawn)
                    told = True
                self.give_up_at(limit, needed, drawn, again=again)
                self.wait(limit)
            for client, why in self.roster.missing(drawn).items():
                self.journal.write("missing", round=self.state.round, client=client, why=why)
            return present

    def _check_enough(self, drawn: list[int], needed: int) -> None:
        """Raise where waiting cannot help: clients that are turned away do not come back by themselves."""
        gone = [client for client in drawn if client in self.desk.not_coming]
        if len(drawn) - len(gone) >= needed or not self.desk.turned_away.intersection(gone):
            return
        why = dict.fromkeys(self.roster.refused[client] for client in gone)  # a site's clients have the same reason
        raise p.TurnedAwayError(
            f"Round {self.state.round} needs {needed} of {len(drawn)} clients, and {len(gone)} do not take part. "
            f"{' '.join(why)}"
        )

    def told_rows(self, kept: dict[str, Any]) -> Mapping[int, Mapping[str, int]]:
        """What every client of the federation has told of its rows, once.

        A draw by modalities is that of one machine only if it knows all clients. What was told is in the checkpoint:
        a server that is started again need not wait for a client that is away.

        Args:
            kept: in the run's figures, by client; what is new is put in.

        Returns:
            By client, its rows by what they show.

        Raises:
            NetworkError: a client did not come for too long.
        """
        limit = self.clock() + self.settings.give_up
        with self.desk.news:
            while True:
                for client in self.roster.expected:
                    member = self.roster.get(client)
                    if member is not None and member.presence:
                        kept[str(client)] = dict(member.presence)
                unknown = [client for client in self.roster.expected if str(client) not in kept]
                if not unknown:
                    return {int(client): own for client, own in kept.items()}
                self.waiting()
                self._check_enough(unknown, len(unknown))
                if self.clock() >= limit:
                    raise p.NetworkError(
                        f"fedmllm.sampler and fedmllm.aggregation.client_weights need to know what the rows of every "
                        f"client show, and for {self.settings.give_up:g} seconds client {unknown[0]} has not joined. "
                        "Start it once and then this command again, or set them to uniform and default on every site."
                    )
                self.wait(limit)

    def lose(self, client: int) -> None:
        """Rounds go on without a client that has missed this one; the lock is held."""
        round_index = self.state.round
        member = self.roster.get(client)
        left = member.absent if member is not None and member.absent else "no answer by the deadline"
        self.roster.drop(client, f"missed round {round_index}: {left}")
        self.journal.write("lost", round=round_index, client=client, why=left)

    def tell_missing(self, clients: list[int]) -> None:
        """Record which of the clients are not there, and why; the lock is held."""
        for client, why in self.roster.missing(clients).items():
            self.journal.write("missing", client=client, why=why)

    def give_up_at(self, limit: float, needed: int, drawn: list[int], *, again: bool = False) -> None:
        """Raise once that time has come; the lock is held.

        Args:
            limit: by the clock.
            needed: how many clients a round waits for.
            drawn: the round's clients.
            again: whether the round was begun among them, so that no others will do.

        Raises:
            NetworkError: it has come.
        """
        if self.clock() < limit:
            return
        remedy = (
            "Masked updates of this round may be out, so it can be taken among the same clients only. Bring them back "
            "and start the same command again, or start a new run under another expname on every site."
            if again
            else "Bring them back and start the same command again, or lower fedmllm.network.min_clients."
        )
        why = "; ".join(f"client {client} {reason}" for client, reason in self.roster.missing(drawn).items())
        raise p.NetworkError(
            f"Round {self.state.round} needs {needed} of {len(drawn)} clients, and for "
            f"{self.settings.give_up:g} seconds there were fewer: {why}. {remedy}"
        )

    def wait(self, until: float) -> None:
        """Wait for news, at most until then; the lock is held.

        Raises:
            Stopped: the server was asked to stop.
        """
        self.look_up()
        self.desk.news.wait(max(0.0, min(LOOK_UP, until - self.clock())))

    def look_up(self) -> None:
        """Go on, unless the server was asked to stop.

        Raises:
            Stopped: it was.
        """
        if self.desk.stopping.is_set():
            raise Stopped
