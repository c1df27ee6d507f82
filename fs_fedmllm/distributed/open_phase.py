"""A phase that waits for its clients' answers, shared by the round loop and the desk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fs_fedmllm.distributed.phases import Phase

#: An answer that counts as given but holds nothing to use.
UNUSABLE = object()


@dataclass
class OpenPhase:
    """A phase that waits for answers."""

    phase: Phase
    round: int
    clients: list[int]
    answers: dict[int, Any] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    closed: bool = False

    @property
    def place(self) -> dict[str, Any]:
        """What an answer belongs to, see :func:`fs_fedmllm.distributed.answering.place_of`."""
        return {"phase": self.phase.name, "round": self.round, "start": self.phase.start}

    def is_next(self, client: int) -> bool:
        """Whether the answers of all clients before this one have come and been taken; for who holds the desk's lock.

        One that has come and not been taken is as much in the way as one that is missing: sites that answer in
        ascending order, faster than their updates are added up, would have all of them in memory.
        """
        return all(c in self.answered and c not in self.answers for c in self.clients if c < client)
