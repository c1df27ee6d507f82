"""One thread that cuts off whoever makes no progress; it sleeps until the next deadline."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable


class Watch:
    """A deadline that its owner moves; made by :meth:`Watchdog.watch`."""

    def __init__(self, dog: Watchdog, cut: Callable[[], object]) -> None:
        self._dog = dog
        self._cut: Callable[[], object] | None = cut
        self._due: float | None = None
        self._queued = False
        self.expired = False

    def renew(self) -> None:
        """There was progress: the time starts anew."""
        self._dog._set(self, time.monotonic() + self._dog.seconds)

    def pause(self) -> None:
        """Nothing is expected for now."""
        self._dog._set(self, None)

    def end(self) -> None:
        """Nothing is expected any more, and nothing is kept: a call's stream is open as long as somebody knows it."""
        self._dog._set(self, None)
        self._cut = None


class Watchdog:
    """Calls ``cut`` of every watch that was not renewed for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._queue: list[tuple[float, int, Watch]] = []
        self._count = 0
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="fedmllm-watchdog", daemon=True)
        self._thread.start()

    def watch(self, cut: Callable[[], object]) -> Watch:
        """A new watch; it does nothing until it is renewed once."""
        return Watch(self, cut)

    def close(self) -> None:
        """End the thread; no watch is cut any more."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _set(self, watch: Watch, due: float | None) -> None:
        with self._wake:
            watch._due = due
            # A watch stands in the queue once at most: renewing it for every chunk must not make the queue grow.
            if due is not None and not watch._queued:
                self._push(watch, due)
                self._wake.notify()

    def _push(self, watch: Watch, due: float) -> None:
        watch._queued = True
        self._count += 1
        heapq.heappush(self._queue, (due, self._count, watch))

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closed and (not self._queue or self._queue[0][0] > time.monotonic()):
                    self._wake.wait(self._queue[0][0] - time.monotonic() if self._queue else None)
                if self._closed:
                    return
                _, _, watch = heapq.heappop(self._queue)
                watch._queued = False
                if watch._due is None:
                    continue
                if watch._due > time.monotonic():  # renewed since it was queued
                    self._push(watch, watch._due)
                    continue
                watch._due = None
                watch.expired = True
                cut = watch._cut
            if cut is not None:
                cut()
            del watch, cut
