"""A limit to the seconds that a thread may work on what somebody else's program does inside this process."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


class TooSlowError(Exception):
    """Raised inside what does not end."""


@dataclass(eq=False)
class _Work:
    ident: int
    spent: Callable[[], float]
    until: float
    late: bool = False


class _Watch:
    """One thread for all that is limited now; it ends when there is nothing, and is not there after a fork."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Begin anew."""
        self._lock = threading.Lock()
        self._works: set[_Work] = set()
        self._running = False

    def add(self, work: _Work, pause: float) -> None:
        """Watch; the thread looks every ``pause`` seconds."""
        with self._lock:
            self._works.add(work)
            if not self._running:
                threading.Thread(target=self._look, args=(pause,), daemon=True).start()
                self._running = True

    def remove(self, work: _Work) -> None:
        """Watch it no more; nothing is raised in it from here on but what is on its way."""
        with self._lock:
            self._works.discard(work)

    def _look(self, pause: float) -> None:
        while True:
            time.sleep(pause)
            with self._lock:
                for work in self._works:
                    if not work.late and _seconds(work) > work.until:
                        work.late = True
                        ident, error = ctypes.c_ulong(work.ident), ctypes.py_object(TooSlowError)
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, error)
                if not self._works:
                    self._running = False
                    return


def _seconds(work: _Work) -> float:
    try:
        return work.spent()
    except OSError:  # its thread has ended
        return 0.0


_WATCH = _Watch()


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise inside after so many seconds of this thread's work; what other threads and programs do does not count.

    Raises:
        TooSlowError: out of what Python runs there; a single operation of a library is waited for.
    """
    clock = getattr(time, "pthread_getcpuclockid", None)
    own = clock(threading.get_ident()) if clock is not None else time.CLOCK_MONOTONIC
    work = _Work(threading.get_ident(), lambda: time.clock_gettime(own), time.clock_gettime(own) + seconds)
    try:
        _WATCH.add(work, seconds / 5)
        yield
    finally:
        try:
            _WATCH.remove(work)
        finally:  # also where somebody interrupts that
            work.until = math.inf
        if work.late:
            for _ in range(1000):  # what is on its way arrives here, and not in what comes after
                pass
