"""Where a run's wall time goes: training, evaluation, everything else; over all processes that it took."""

from __future__ import annotations

import time
from collections.abc import Mapping


class RunClock:
    """Counts seconds.

    Args:
        started: ``time.perf_counter()`` of the command's start, so that loading counts; None is now.
    """

    def __init__(self, started: float | None = None):
        self._started = time.perf_counter() if started is None else started
        self._before: Mapping[str, float] = {"total": 0.0, "training": 0.0, "evaluation": 0.0}
        self._training = 0.0
        self._round_started, self._round_training = self._started, 0.0

    def resume(self, seconds: Mapping[str, float]) -> None:
        """Go on from what an interrupted run had taken, as :meth:`seconds` gave it."""
        self._before = seconds

    def trained(self, seconds: float) -> None:
        """Count a client's training."""
        self._training += seconds

    def begin_round(self) -> None:
        """A round begins."""
        self._round_started, self._round_training = time.perf_counter(), self._training

    def end_round(self) -> tuple[float, float]:
        """Seconds of the round, and of its training."""
        seconds = time.perf_counter() - self._round_started
        # Updates that are computed side by side add up to more than the time that passes.
        training = min(self._training - self._round_training, seconds)
        self._training = self._round_training + training
        return seconds, training

    def seconds(self, evaluation: float) -> dict[str, float]:
        """Wall time so far: total, training, evaluation; what is left is everything else.

        Args:
            evaluation: seconds of evaluation in this process.
        """
        return {
            "total": self._before["total"] + time.perf_counter() - self._started,
            "training": self._before["training"] + self._training,
            "evaluation": self._before["evaluation"] + evaluation,
        }
