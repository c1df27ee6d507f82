"""What was spent, on disk before it is spent.

A line per release is appended to ``privacy.jsonl`` and synced *before* the round's noise is drawn. A run that is
killed afterwards and takes the round again draws new noise, and whoever saw both means knows more than from one: the
ledger has two lines for that round and epsilon counts both. Checkpoints do not hold the count, so that going back to
an older one never forgets what was given away.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fs_fedmllm.errors import PrivacyError
from fs_fedmllm.files.untrusted import RECORDED, parse_json, read_regular
from fs_fedmllm.privacy.accountant import AUTO, PLD, RDP, Release


class Ledger:
    """The releases of a run folder.

    Args:
        path: ``privacy.jsonl``; made at the first release.
        delta: what epsilon holds for; a ledger with another one is not continued.
        accountant: that of the run. A ledger with another one is not continued either: its noise was chosen, and its
            epsilon told, by that one. Lines of releases that had no choice name none, and go on with any.

    Raises:
        PrivacyError: the file is damaged beyond a torn last line.
    """

    def __init__(self, path: Path, delta: float, accountant: str = AUTO):
        self._path = path
        self._delta = delta
        self._accountant = accountant
        self.releases: list[Release] = []
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            data = read_regular(self._path, RECORDED)
        except OSError as error:
            raise PrivacyError(f"{self._path} cannot be read: {error.strerror}.") from error
        complete, _, torn = data.rpartition(b"\n")
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                delta, accountant, release = _release(parse_json(line))
            except (ValueError, TypeError, KeyError) as error:
                raise PrivacyError(
                    f"{self._path}, line {number}, is damaged ({error}), so what this run has given away is not "
                    "known. Start a run with another expname."
                ) from error
            if delta != self._delta:
                raise PrivacyError(
                    f"{self._path} holds the releases of a run with delta {delta:g}, this one has {self._delta:g}. "
                    "Use another expname."
                )
            if accountant not in ("", self._accountant):
                raise PrivacyError(
                    f"{self._path} holds the releases of a run with fedmllm.privacy.dp.accountant {accountant}, this "
                    f"one has {self._accountant}. Set it to {accountant}, or use another expname."
                )
            self.releases.append(release)
        if torn:
            # The line was not synced, so the noise that it announces was never drawn.
            with self._path.open("r+b") as stream:
                stream.truncate(len(complete) + bool(complete))
                os.fsync(stream.fileno())

    def append(self, round_index: int, release: Release) -> None:
        """Record a release; it is on disk when this returns.

        Raises:
            OSError: it could not be written; then no noise may be drawn.
        """
        about = {"round": round_index, **asdict(release), "delta": self._delta, "accountant": self._accountant}
        line = json.dumps(about) + "\n"
        new = not self._path.exists()
        with self._path.open("ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        if new:
            _sync_folder(self._path.parent)
        self.releases.append(release)


#: How clients can have been drawn.
SAMPLINGS = ("fixed", "poisson")


def _release(entry: Any) -> tuple[float, str, Release]:
    """A line's delta, accountant (empty where it names none) and release.

    Raises:
        ValueError: it is not what :meth:`Ledger.append` writes (TypeError and KeyError likewise).
    """
    if not isinstance(entry, dict):
        raise ValueError("no mapping")
    delta, round_index, accountant = entry.pop("delta"), entry.pop("round"), entry.pop("accountant", "")
    release = Release(**entry)
    noise, expected, clients = release.noise_multiplier, release.expected, release.clients
    if not all(type(n) in (int, float) and 0 < n < 1e9 for n in (noise, expected, clients)):
        raise ValueError("a number that is not positive")
    if type(round_index) is not int or round_index < 0 or type(delta) is not float or not 0 < delta <= 1:
        raise ValueError("no round, or no delta")
    if expected > clients or release.sampling not in SAMPLINGS:
        raise ValueError("clients that cannot be drawn so")
    if accountant not in ("", AUTO, RDP, PLD):
        raise ValueError("an accountant that is none")
    return delta, accountant, release


def _sync_folder(folder: Path) -> None:
    """Make a new file's name last, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
