"""Who takes part: when each client was seen, and why one is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

#: What a status says before the reason of a client that was turned away.
REFUSED = "was refused: "


@dataclass
class Member:
    """A client that has joined.

    Attributes:
        client: id, from 1.
        rows: size of its training set, as it said when it joined.
        missing_rate: beta_k, as it said.
        presence: its rows by what they show, as it said; empty where the run does not ask.
        seen: seconds since the epoch when it was last heard of.
        absent: why the rounds go on without it; empty while it is there.
        delivered: the last round that it answered, or -1.
        name: what its data calls it, as it said; empty where it is a number alone.
    """

    client: int
    rows: int
    missing_rate: float
    seen: float
    absent: str = ""
    delivered: int = -1
    presence: Mapping[str, int] = field(default_factory=dict)
    name: str = ""


class Roster:
    """The clients of one server process. Not thread-safe; the desk holds its lock.

    Args:
        expected: ids of the federation.
        now: seconds since the epoch.

    Attributes:
        refused: clients that wanted to join and could not, and why.
    """

    def __init__(self, expected: Iterable[int], now: Callable[[], float] = time.time):
        self.expected = sorted(expected)
        self._expected = frozenset(self.expected)
        self._now = now
        self._members: dict[int, Member] = {}
        self.refused: dict[int, str] = {}
        self._started = now()

    def __contains__(self, client: object) -> bool:
        """Whether the federation has this client, joined or not."""
        return client in self._expected

    def join(
        self,
        client: int,
        rows: int,
        missing_rate: float,
        presence: Mapping[str, int] = MappingProxyType({}),
        name: str = "",
    ) -> Member:
        """A client joins, or comes back."""
        delivered = self._members[client].delivered if client in self._members else -1
        self.refused.pop(client, None)
        self._members[client] = Member(
            client, rows, missing_rate, self._now(), delivered=delivered, presence=presence, name=name
        )
        return self._members[client]

    def heard(self, client: int) -> Member | None:
        """A client has called: it is there. None if it has to join first."""
        member = self._members.get(client)
        if member is not None:
            member.seen, member.absent = self._now(), ""
        return member

    def get(self, client: int) -> Member | None:
        """The member, without any effect."""
        return self._members.get(client)

    def drop(self, client: int, why: str) -> None:
        """Rounds no longer wait for this client, until it is heard of again."""
        member = self._members.get(client)
        if member is not None:
            member.absent = why

    def present(self, clients: Iterable[int]) -> list[int]:
        """Those of the clients that rounds wait for."""
        return [c for c in clients if c in self._members and not self._members[c].absent]

    def missing(self, clients: Iterable[int]) -> dict[int, str]:
        """Those of the clients that are not there, and why."""
        found = {}
        for client in clients:
            member = self._members.get(client)
            if client in self.refused and (member is None or member.absent):
                found[client] = REFUSED + self.refused[client]
            elif member is None:
                found[client] = f"has not joined since the server started at {stamp(self._started)}"
            elif member.absent:
                found[client] = f"{member.absent}; last seen {stamp(member.seen)}"
        return found

    def table(self) -> list[dict[str, Any]]:
        """One entry per expected client, for the status."""
        rows = []
        missing = self.missing(self.expected)
        for client in self.expected:
            member = self._members.get(client)
            rows.append(
                {
                    "client": client,
                    "name": member.name if member else "",
                    "state": "there" if client not in missing else "missing" if member else "not joined",
                    "why": missing.get(client, ""),
                    "seen": stamp(member.seen) if member else None,
                    "rows": member.rows if member else None,
                    "delivered": member.delivered if member else None,
                }
            )
        return rows


def stamp(seconds: float) -> str:
    """A point in time as text: ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
