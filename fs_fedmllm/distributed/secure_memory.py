"""What a site remembers of the rounds that it has masked an update for, on its own disk and before it sends.

Two sums over clients that differ by one tell that one's update. No lie is needed for it: a server that crashes after
it has opened a sum and takes the round again with a client less gets the second. So a site takes part in one sum per
round. Asked for the same round again (another session), it

- goes on only among the same clients, with the very numbers that it masked before, which it keeps;
- helps to open the sum over the same survivors only, once it has helped to open one;
- refuses everything else, and sits the round out.

A later round that starts from the very adapter from which it helped to open a sum is the same round under another
number, and is treated like it. The file outlives the run: a run that is started again in the same folder is the same
run. It says nothing of a folder that was removed: then the other sites' files are what protects this one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fs_fedmllm.errors import ConfigError, PrivacyError
from fs_fedmllm.files.atomic import remove_torn, write_atomically
from fs_fedmllm.files.sealing import check_seal, sealed
from fs_fedmllm.files.untrusted import open_regular, read_object

VERSION = 1
_HEAD, _VECTOR = "rounds.json", "update.bin"


@dataclass(frozen=True)
class Sent:
    """What was masked in a round.

    Attributes:
        cohort: the clients that masks were made among, ascending.
        start: digest of the adapter that the update was computed from.
        clients: what the numbers were scaled for.
        weight_bound: likewise.
        vector: sha256 of the numbers before they were masked.
        moved: whether the update changes anything.
        survivors: over whom this site helped to open the sum; None: over nobody so far.
    """

    cohort: tuple[int, ...]
    start: str
    clients: int
    weight_bound: int
    vector: str
    moved: bool
    survivors: tuple[int, ...] | None = None


class RoundMemory:
    """The rounds of one site in one run.

    Args:
        folder: made at the first round, for its owner alone.

    Raises:
        ConfigError: the file is damaged, so what was sent is not known.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._rounds: dict[int, Sent] = {}
        remove_torn(folder)
        if (folder / _HEAD).exists():
            self._read()

    def get(self, round_index: int) -> Sent | None:
        """What was masked in a round; None: nothing."""
        return self._rounds.get(round_index)

    def check_cohort(self, round_index: int, cohort: Iterable[int]) -> None:
        """Before any secret of a round is shared.

        Raises:
            PrivacyError: this site has masked its update of the round among other clients.
        """
        before, now = self.get(round_index), tuple(sorted(cohort))
        if before is not None and before.cohort != now:
            raise PrivacyError(
                f"it has sent its masked update of round {round_index} among the clients {_shown(before.cohort)}, and "
                f"is now asked for the same round among {_shown(now)}: the difference of the two sums could be one "
                "client's update. It sits the round out; bring the same clients back."
            )

    def kept(self, round_index: int, start: str, clients: int, weight_bound: int) -> np.ndarray | None:
        """The numbers that were masked in this round, if they are still here and were computed from the same.

        Returns:
            uint32, or None: they have to be computed again.
        """
        before = self.get(round_index)
        if before is None or (before.start, before.clients, before.weight_bound) != (start, clients, weight_bound):
            return None
        try:
            with open_regular(self._folder / _VECTOR) as stream:
                vector = np.frombuffer(stream.read(), dtype="<u4")
        except (OSError, ValueError):
            return None
        return vector if _digest(vector) == before.vector else None

    def sending(
        self, round_index: int, cohort: Iterable[int], start: str, clients: int, weight_bound: int, vector: np.ndarray
    ) -> None:
        """On disk before the update is masked and sent.

        Args:
            round_index: from 0.
            cohort: the clients that masks are made among, this site too.
            start: digest of the adapter that the update was computed from.
            clients: what the numbers are scaled for.
            weight_bound: likewise.
            vector: uint32, the numbers; the first is the weight.

        Raises:
            PrivacyError: something else was sent in this round, or a sum that started from here was opened.
            OSError: it could not be written; then nothing may be sent.
        """
        self.check_cohort(round_index, cohort)
        now = Sent(tuple(sorted(cohort)), start, clients, weight_bound, _digest(vector), bool(vector[1:].any()))
        before = self.get(round_index)
        if before is not None and replace(before, survivors=None) != now:
            raise PrivacyError(
                f"it has sent another update in round {round_index} than the one that it computed now: the server's "
                "adapter, the configuration or the data are not the same. It sits the round out."
            )
        for index in self._same_start(round_index, now):
            survivors = self._rounds[index].survivors
            if survivors is not None and not set(survivors) <= set(now.cohort):
                raise self._opened_before(index, survivors)
        if before is None:
            write_atomically(self._folder / _VECTOR, vector.astype("<u4").tobytes(), private=True)
            self._write({**self._rounds, round_index: now})

    def opening(self, round_index: int, survivors: Iterable[int]) -> None:
        """On disk before shares are given out.

        Raises:
            PrivacyError: shares were given out for another sum of this round, or from the same adapter.
            OSError: it could not be written; then nothing may be given out.
        """
        now, mine = tuple(sorted(survivors)), self.get(round_index)
        if mine is None:
            raise PrivacyError(f"it has sent no masked update in round {round_index}.")
        for index in (round_index, *self._same_start(round_index, mine)):
            before = self._rounds[index].survivors
            if before is not None and before != now:
                raise self._opened_before(index, before)
        if mine.survivors is None:
            self._write({**self._rounds, round_index: replace(mine, survivors=now)})

    def _same_start(self, round_index: int, mine: Sent) -> list[int]:
        """Other rounds from the very same adapter; none where nothing moves any more."""
        others = ((index, sent) for index, sent in self._rounds.items() if index != round_index)
        return [index for index, sent in others if sent.start == mine.start and mine.moved]

    def _opened_before(self, index: int, survivors: Iterable[int]) -> PrivacyError:
        return PrivacyError(
            f"it has helped to open the sum of the clients {_shown(survivors)} in round {index}, which began with the "
            "same adapter: a second sum over other clients could tell one client's update. It sits this out."
        )

    def _write(self, rounds: Mapping[int, Sent]) -> None:
        content = {"version": VERSION, "rounds": {str(index): asdict(sent) for index, sent in rounds.items()}}
        write_atomically(self._folder / _HEAD, sealed(content), private=True)
        self._rounds = dict(rounds)

    def _read(self) -> None:
        path = self._folder / _HEAD
        try:
            head = read_object(path)
            check_seal(head, _HEAD)
            if head["version"] != VERSION:
                raise ValueError(f"its version is {str(head['version'])[:20]}; this release reads {VERSION}")
            self._rounds = {int(index): _sent(found) for index, found in head["rounds"].items()}
        except (LookupError, TypeError, ValueError, OSError, AttributeError) as error:
            raise ConfigError(
                f"{path} is damaged ({error}), so it is not known what this site has sent under secure aggregation. "
                "Restore it from a backup, or start a new run under another expname on every site."
            ) from error


def _sent(found: Any) -> Sent:
    survivors = found["survivors"]
    sent = Sent(
        tuple(found["cohort"]), found["start"], found["clients"], found["weight_bound"], found["vector"],
        found["moved"], None if survivors is None else tuple(survivors),
    )  # fmt: skip
    whole = (*sent.cohort, sent.clients, sent.weight_bound, *(sent.survivors or ()))
    if not all(type(n) is int for n in whole) or not isinstance(sent.start, str) or not isinstance(sent.vector, str):
        raise ValueError("a round that no site has written")
    return sent


def _digest(vector: np.ndarray) -> str:
    return hashlib.sha256(vector.astype("<u4").tobytes()).hexdigest()


def _shown(clients: Iterable[int]) -> str:
    return ", ".join(str(client) for client in clients)
