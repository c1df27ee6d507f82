"""What whoever captures a machine can read: a process's own memory, and the files of its folders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

_CHUNK = 16 * 2**20
_PAGE = 4096
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ")
#: Bytes of a piece.
PIECE = 16
#: So much of a chunk is at the beginning of the next one.
_OVERLAP = 1024
# A piece's two halves become one number; random and odd, so that pieces which are like one another do not meet.
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
_BITS = 22


class Pieces:
    """All pieces of some data: 16 bytes each, wherever they lie in what is looked through.

    Left out are pieces that say nothing of their owner: those that another owner has too, and those in which a word of
    four bytes is 0 or is there twice.

    Args:
        data: by (owner, name), each whole words of four bytes.
    """

    def __init__(self, data: Mapping[tuple[str, str], bytes]):
        self.names = list(data)
        owners = {owner: number for number, owner in enumerate(sorted({owner for owner, _ in self.names}))}
        keys, labels = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for label, content in enumerate(data.values()):
            words = np.frombuffer(content, np.uint32, len(content) // PIECE * 4).reshape(-1, 4)
            ordered = np.sort(words, axis=1)
            words = words[(ordered[:, 0] > 0) & (np.diff(ordered, axis=1) > 0).all(axis=1)]
            found = np.unique(_hashed(np.ascontiguousarray(words).view(np.uint64).reshape(-1)[: 2 * len(words)])[::2])
            keys.append(found)
            labels.append(np.full(len(found), label))
        key, label = np.concatenate(keys), np.concatenate(labels)
        owner = np.array([owners[who] for who, _ in self.names], np.int64)[label] if len(label) else label
        order = np.lexsort((owner, key))
        key, label, owner = key[order], label[order], owner[order]
        # A piece under two names of one owner counts for both.
        starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.zeros(0, np.int64)
        ends = np.r_[starts[1:], len(key)].astype(np.int64)
        alone = owner[starts] == owner[ends - 1] if len(key) else np.zeros(0, bool)
        self._keys = key[starts][alone]
        self._labels = [label[a:b] for a, b in zip(starts[alone], ends[alone], strict=True)]
        self._table = np.zeros(1 << _BITS, bool)
        self._table[self._keys >> np.uint64(64 - _BITS)] = True
        #: How many pieces there are to find, by (owner, name).
        self.there = self._counted(range(len(self._keys)))

    def _counted(self, indices: object) -> dict[tuple[str, str], int]:
        counts = np.zeros(len(self.names), np.int64)
        for index in indices:  # type: ignore[attr-defined]
            counts[self._labels[index]] += 1
        return dict(zip(self.names, counts.tolist(), strict=True))

    def in_chunks(self, chunks: Iterator[bytes]) -> dict[tuple[str, str], int]:
        """How many of the pieces lie in some bytes, by (owner, name).

        Args:
            chunks: each begins with the last ``PIECE - 1`` bytes of the one before or more, if it goes on from there.
        """
        found = np.zeros(len(self._keys), bool)
        for chunk in chunks:
            for shift in range(8):
                if len(chunk) < PIECE + shift:
                    break
                words = np.frombuffer(chunk, np.uint64, (len(chunk) - shift) // 8, shift)
                key = _hashed(words)
                key = key[self._table[key >> np.uint64(64 - _BITS)]]
                at = np.minimum(np.searchsorted(self._keys, key), max(0, len(self._keys) - 1))
                found[at[self._keys[at] == key]] = True
        return self._counted(np.flatnonzero(found))


def _hashed(words: np.ndarray) -> np.ndarray:
    """A number for every two neighbours of some words of eight bytes."""
    return words[:-1] * _FIRST + words[1:] * _SECOND


def memory_of(pid: int) -> Iterator[bytes]:
    """All that a process may write to: its heaps, stacks, maps and libraries' data.

    Args:
        pid: of a process of this user.
    """
    if not Path("/proc/self/pagemap").exists():
        pytest.skip("NOT RUN: this system shows no process's memory in /proc")
    try:
        memory = open(f"/proc/{pid}/mem", "rb", buffering=0)  # noqa: SIM115
        pages = open(f"/proc/{pid}/pagemap", "rb", buffering=0)  # noqa: SIM115
    except PermissionError:
        pytest.skip("NOT RUN: this machine lets no process read another's memory")
    with memory, pages:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            match = _LINE.match(line)
            if match is None or "w" not in match[3]:
                continue
            for first, last in _there(pages, int(match[1], 16), int(match[2], 16)):
                at = first
                while True:
                    try:
                        memory.seek(at)
                        data = memory.read(min(_CHUNK, last - at))
                    except OSError:  # the map has gone
                        break
                    yield data
                    if not data or at + len(data) >= last:
                        break
                    at += len(data) - _OVERLAP


def _there(pages: object, first: int, last: int) -> list[tuple[int, int]]:
    """Runs of a map's pages that hold something; a thread's stack, for example, is mostly not there."""
    pages.seek(first // _PAGE * 8)  # type: ignore[attr-defined]
    entries = np.frombuffer(pages.read((last - first) // _PAGE * 8), np.uint64)  # type: ignore[attr-defined]
    there = np.flatnonzero(entries >> np.uint64(62))  # in memory, or swapped
    runs = np.split(there, np.flatnonzero(np.diff(there) > 1) + 1)
    return [(first + int(run[0]) * _PAGE, first + (int(run[-1]) + 1) * _PAGE) for run in runs if len(run)]


def files_of(folder: Path, skip: str = "") -> Iterator[bytes]:
    """All files of a folder, each whole.

    Args:
        folder: looked through to its last one.
        skip: name of a folder in it that is left out.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and not (skip and path.is_relative_to(folder / skip)):
            try:
                yield path.read_bytes()
            except FileNotFoundError:  # it was a temporary one
                continue
