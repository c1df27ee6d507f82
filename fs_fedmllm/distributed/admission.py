"""How much one peer, and all of them together, may have going on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from fs_fedmllm.distributed.errors import BusyError


class Admission:
    """Counts exchanges and bytes that are being received."""

    def __init__(self, per_peer: int, total_bytes: int) -> None:
        self._per_peer = per_peer
        self._total_bytes = total_bytes
        self._exchanges: Counter[Hashable] = Counter()
        self._bytes: dict[object, tuple[Hashable, int]] = {}
        self._changed = threading.Condition()

    @contextmanager
    def exchange(self, peer: Hashable) -> Iterator[None]:
        """One exchange of a peer.

        Raises:
            BusyError: the peer has too many already.
        """
        with self._changed:
            if self._exchanges[peer] >= self._per_peer:
                raise BusyError(f"This client has {self._per_peer} exchanges open already.")
            self._exchanges[peer] += 1
        try:
            yield
        finally:
            with self._changed:
                self._exchanges[peer] -= 1
                if not self._exchanges[peer]:
                    del self._exchanges[peer]

    def reserve(self, token: object, peer: Hashable, size: int, seconds: float) -> None:
        """Wait until so many bytes may be received, one large message of a peer at a time.

        Args:
            token: what :meth:`release` is called with.
            peer: who sends them.
            size: bytes of tensors; a message without any never waits.
            seconds: longest wait.

        Raises:
            BusyError: there was no room in that time.
        """
        until = time.monotonic() + seconds
        with self._changed:
            while not self._fits(peer, size):
                if not self._changed.wait(until - time.monotonic()):
                    raise BusyError("The server is receiving as much as it has room for.")
            self._bytes[token] = (peer, size)

    def release(self, token: object) -> None:
        """The bytes were received, or never will be; twice is once."""
        with self._changed:
            if self._bytes.pop(token, None) is not None:
                self._changed.notify_all()

    def _fits(self, peer: Hashable, size: int) -> bool:
        if size <= _SMALL:
            return True
        taken = sum(other for _, other in self._bytes.values() if other > _SMALL)
        if any(who == peer and other > _SMALL for who, other in self._bytes.values()):
            return False
        return not taken or taken + size <= self._total_bytes


#: Messages up to this size are not counted: exchanges per peer bound them well enough.
_SMALL = 1 << 20
