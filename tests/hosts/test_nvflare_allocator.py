"""The server's process gives back what it has freed, so that its memory does not grow with sites and rounds."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

from nvflare.fuel.utils.memory_utils import get_allocator_type

from fs_fedmllm.hosts.nvflare import allocator

#: Frees blocks of 2 MiB, takes as many again, and prints how many MiB the second ones have in maps of their own.
BLOCKS = """
import ctypes, sys

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks "
                "fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
if sys.argv[1] == "ours":
    from fs_fedmllm.hosts.nvflare.allocator import keep_no_large_blocks
    keep_no_large_blocks()
for _ in range(2):
    before = libc.mallinfo2().hblkhd
    blocks = [bytearray(2 << 20) for _ in range(32)]
    own = libc.mallinfo2().hblkhd - before
    del blocks
print(own >> 20)
"""


@pytest.mark.skipif(get_allocator_type() != "glibc", reason="NOT RUN: the allocator is not glibc's")
@pytest.mark.parametrize(("whose", "own"), [("ours", range(60, 80)), ("glibc's", range(10))])
def test_large_blocks_go_back_when_they_are_freed(whose: str, own: range) -> None:
    """glibc by itself keeps blocks of a size that was freed once; a process of its own, since it is for all of it."""
    done = subprocess.run([sys.executable, "-c", BLOCKS, whose], text=True, capture_output=True, check=True)
    assert int(done.stdout) in own


def test_a_round_that_has_ended_is_tidied_up_after(monkeypatch: pytest.MonkeyPatch) -> None:
    tidied: list[bool] = []
    monkeypatch.setattr(allocator, "cleanup_memory", lambda: tidied.append(True))
    progress = allocator.TidyProgress(schema.load(CONFIGS / "cross_i3t7.yaml", SHORT))
    progress.round_ended(SimpleNamespace(round=1), {"clients": 2})  # type: ignore[arg-type]
    progress.close()
    assert tidied == [True]


def test_another_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "get_allocator_type", lambda: "jemalloc")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("it was asked"))
    allocator.keep_no_large_blocks()
