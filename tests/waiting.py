"""Waits of tests: they end at the event, and LONG is only how long a test that is broken takes to say so.

No test measures how fast a machine is. What has a time of its own (a deadline, a pause) is given a ``Clock`` or an
event; where a real time must run out, nothing else of the test depends on how long that takes.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

#: Seconds that a busy machine has for anything that a test waits for; below pytest's own limit.
LONG = 300.0


def wait_until(
    true: Callable[[], object], seconds: float = LONG, says: Callable[[], str] = lambda: "", pause: float = 0.01
) -> None:
    """Return once it is true; asked again after a pause, longer where the question itself costs something.

    Raises:
        AssertionError: it was not in that time; ``says`` tells more.
    """
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"it did not happen in {seconds:g} seconds {says()}"
        time.sleep(pause)


class Clock:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds


def free_port() -> int:
    """A port of loopback for a server that is started later.

    It lies below those that the system gives out by itself: a client that calls a server which is not there yet would
    otherwise reach itself now and then, and keep the port. Each process of tests begins elsewhere.
    """
    global _last
    for _ in range(10_000):
        _last = _FIRST + (_last - _FIRST + 1) % _PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", _last))
            except OSError:
                continue
        return _last
    raise AssertionError("no port is free")


_FIRST, _PORTS = 20_000, 12_000
_last = _FIRST + os.getpid() * 997 % _PORTS
