"""How many lines of a log one peer may cause, so that nobody fills a disk by calling often."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

#: Names that are remembered at once; the one that was quiet longest is forgotten first.
_REMEMBERED = 4096


class Throttle:
    """Lets so many lines of one name through at once, and then one every so many seconds.

    Args:
        burst: lines at once.
        every: seconds until there is room for one more.
        clock: monotonic seconds.
    """

    def __init__(self, burst: int = 100, every: float = 10.0, clock: Callable[[], float] = time.monotonic):
        self._burst = burst
        self._every = every
        self._clock = clock
        #: name -> room for lines, when that was, lines left out since
        self._names: OrderedDict[Hashable, tuple[float, float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def room(self, name: Hashable) -> int | None:
        """Lines of this name that were left out since the last one, or None if this one must be left out too."""
        with self._lock:
            now = self._clock()
            room, since, left_out = self._names.pop(name, (float(self._burst), now, 0))
            room = min(float(self._burst), room + (now - since) / self._every)
            allowed = room >= 1
            self._names[name] = (room - 1, now, 0) if allowed else (room, now, left_out + 1)
            if len(self._names) > _REMEMBERED:
                self._names.popitem(last=False)
            return left_out if allowed else None
