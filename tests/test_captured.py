"""What tests look for in a captured process is found where it is, and nowhere else."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

import numpy as np
from captured import PIECE, Pieces, files_of, memory_of

#: Holds the bytes whose halves it is told, in a block of 4 MiB between others; says so, and waits.
HOLDS = """
import sys
first, second = (bytes.fromhex(half) for half in sys.stdin.readline().split())
blocks = [bytearray(1 << 22) for _ in range(3)]
blocks[1][2_000_001:2_000_065] = first + second
del first, second
print("held", flush=True)
sys.stdin.readline()
"""


def test_what_a_process_holds_is_found() -> None:
    held, other = secrets.token_bytes(64), secrets.token_bytes(64)
    pieces = Pieces({("held", "bytes"): held, ("other", "bytes"): other})
    assert set(pieces.there.values()) == {4}
    with subprocess.Popen([sys.executable, "-c", HOLDS], text=True, stdin=-1, stdout=-1) as process:
        assert process.stdin is not None and process.stdout is not None
        print(held[:24].hex(), held[24:].hex(), file=process.stdin, flush=True)
        assert process.stdout.readline() == "held\n"
        found = pieces.in_chunks(memory_of(process.pid))
        process.stdin.close()
    assert found == {("held", "bytes"): 4, ("other", "bytes"): 0}


def test_what_a_folder_holds_is_found(tmp_path: Path) -> None:
    held, other = secrets.token_bytes(32), secrets.token_bytes(32)
    for name in ("a/b", "left out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x" + held + b"y")
    (tmp_path / "left out" / "file").write_bytes(other)
    pieces = Pieces({("held", ""): held, ("other", ""): other})
    assert pieces.in_chunks(files_of(tmp_path, skip="left out")) == {("held", ""): 2, ("other", ""): 0}
    assert pieces.in_chunks(files_of(tmp_path)) == {("held", ""): 2, ("other", ""): 2}


def test_a_piece_lies_at_any_byte_and_across_chunks() -> None:
    held = secrets.token_bytes(PIECE)
    pieces = Pieces({("held", ""): held})
    data = bytes(100) + held + bytes(100)
    for shift in range(16):
        assert pieces.in_chunks(iter([data[shift:]])) == {("held", ""): 1}
    for cut in range(100, 117):
        assert pieces.in_chunks(iter([data[:cut], data[max(0, cut - PIECE + 1) :]])) == {("held", ""): 1}
    assert pieces.in_chunks(iter([held[:-1], bytes(3)])) == {("held", ""): 0}


def test_what_says_nothing_of_its_owner_is_left_out() -> None:
    random, shared = secrets.token_bytes(32), secrets.token_bytes(16)
    same = np.full(8, 7, np.uint32).tobytes()
    pieces = Pieces(
        {("one", "a"): random + same + shared, ("one", "b"): random, ("two", "a"): shared, ("two", "b"): b""}
    )
    assert pieces.there == {("one", "a"): 2, ("one", "b"): 2, ("two", "a"): 0, ("two", "b"): 0}
    assert pieces.in_chunks(iter([shared + random[16:]])) == {
        ("one", "a"): 1, ("one", "b"): 1, ("two", "a"): 0, ("two", "b"): 0,
    }  # fmt: skip
