"""Wall time beside CPU time, and contestants that take turns: ratios that hold on a machine that others use too."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Wall and CPU seconds.
Seconds = tuple[float, float]


def now() -> Seconds:
    """Both clocks, when the device is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def since(started: Seconds) -> Seconds:
    """What both clocks have gone on since."""
    wall, cpu = now()
    return wall - started[0], cpu - started[1]


def alternating(repeats: int, contestants: Mapping[str, Callable[[int], Seconds]]) -> dict[str, Seconds]:
    """Median seconds of each contestant, who take turns, so that a slow minute hits all alike.

    Args:
        repeats: turns of each, after a first one that is not counted.
        contestants: by name; each is given one of three rounds' numbers, in turn.
    """
    times: dict[str, list[Seconds]] = {name: [] for name in contestants}
    for repeat in range(-1, repeats):
        for name, contestant in contestants.items():
            seconds = contestant(repeat % 3)
            if repeat >= 0:  # the first is a warm-up
                times[name].append(seconds)
    return {
        name: (statistics.median(wall for wall, _ in values), statistics.median(cpu for _, cpu in values))
        for name, values in times.items()
    }


def ratio(slow: Seconds, fast: Seconds) -> str:
    """How much longer one takes than the other, by both clocks."""
    return f"{slow[0] / fast[0]:.2f} x in wall time, {slow[1] / fast[1]:.2f} x in CPU time"


def measured(action: Callable[[], T]) -> tuple[T, Seconds, float]:
    """What an action gives, its seconds, and the most MiB that it had beyond what was there before (Linux, glibc)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier actions left free counts for none
    Path("/proc/self/clear_refs").write_text("5")
    before, started = _resident("VmRSS"), now()
    found = action()
    return found, since(started), _resident("VmHWM") - before


def _resident(field: str) -> float:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024
