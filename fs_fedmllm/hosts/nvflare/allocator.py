"""What the server's process keeps of memory that it has freed.

NVFlare serves the sites' transfers in threads of its own, and glibc keeps for later what they have freed: hundreds of
MiB with an adapter of 100 MB. Large blocks are therefore taken from the system one by one, and given back as soon as
they are freed; the rest is given back after each round.
"""

from __future__ import annotations

import ctypes
from typing import Any

from nvflare.fuel.utils.memory_utils import cleanup_memory, get_allocator_type

from fs_fedmllm.runs.checkpoint import RunState
from fs_fedmllm.runs.progress import ConsoleProgress

#: ``M_MMAP_THRESHOLD`` of glibc's ``mallopt``. Once it is set, glibc no longer raises it when large blocks are freed.
_MMAP_THRESHOLD = -3
#: Blocks of so many bytes and more are not kept.
LARGE = 1 << 17


def keep_no_large_blocks() -> None:
    """Let this process give large blocks back when they are freed; where the allocator is another, nothing."""
    if get_allocator_type() == "glibc":
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE)


class TidyProgress(ConsoleProgress):
    """Progress on the console; at the end of a round, what was freed in it is given back."""

    def round_ended(self, state: RunState, figures: dict[str, Any]) -> None:
        """As of every run."""
        super().round_ended(state, figures)
        cleanup_memory()
