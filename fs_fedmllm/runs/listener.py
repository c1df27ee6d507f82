"""Whoever looks on while a run goes on: a progress bar, callbacks, a sweep's counter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fs_fedmllm.rounds.client_update import ClientUpdate
    from fs_fedmllm.runs.checkpoint import RunState


class Listener:
    """Told of what happens; what is not overridden does nothing."""

    def began(self, names: Mapping[int, str]) -> None:
        """Once, before anything else: what the data calls its clients, by id; empty where they are numbers alone."""

    def resumed(self, updates: int) -> None:
        """Before a run goes on that has taken so many client updates."""

    def evaluated(self, done_rounds: int, figures: dict[str, float]) -> None:
        """After an evaluation on the run's own rows."""

    def test_set_evaluated(self, done_rounds: int, name: str, figures: dict[str, float]) -> None:
        """After an evaluation on a further test set."""

    def trained(self, round_index: int, update: ClientUpdate) -> None:
        """After a client's training."""

    def refused(self, round_index: int, client: int, reason: str) -> None:
        """After an update was refused."""

    def round_ended(self, state: RunState, figures: dict[str, Any]) -> None:
        """After the server's step; ``state.round`` rounds are done."""
