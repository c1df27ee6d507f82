"""A round under secure aggregation on the server's disk, so that no crash makes it ask for a second sum.

Written before clients are asked for masked updates, before they are asked for shares, and when the sum is open. A
server that is started again goes on in the same session, with the same clients; a sum that was opened is not asked for
again. Nothing is in the file that the server does not see anyway.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fs_fedmllm.distributed.protocol import state_digest
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.atomic import remove_torn, write_atomically
from fs_fedmllm.files.untrusted import open_regular
from fs_fedmllm.runs.session import Session

VERSION = 1
FOLDER, _FILE = "secure", "round.safetensors"
#: How far a round has come: masked updates, shares, the open sum; or a session that came to nothing.
TURN, UNMASK, OPENED, OVER = "turn", "unmask", "opened", "over"


@dataclass(frozen=True)
class HeldRound:
    """A round that was begun.

    Attributes:
        stage: how far it has come.
        round: its index.
        start: digest of the adapter that it began with.
        cohort: clients that may have sent a masked update, ascending.
        survivors: over whom shares were asked for; empty: they were not.
        clients: what the numbers are scaled for.
        weight_bound: likewise.
        server: state of the protocol, see :meth:`SecureServer.state`.
        total: uint32, the sum so far.
    """

    stage: str
    round: int
    start: str
    cohort: tuple[int, ...]
    survivors: tuple[int, ...]
    clients: int
    weight_bound: int
    server: Mapping[str, Any]
    total: np.ndarray


class RoundStore:
    """The file."""

    def __init__(self, run_folder: Path):
        self._path = run_folder / FOLDER / _FILE

    def write(self, held: HeldRound) -> None:
        """Put a round's state in the place of what was there; it is on disk when this returns."""
        fields = {name: value for name, value in vars(held).items() if name != "total"}
        head = json.dumps({"version": VERSION, **fields})
        total = np.ascontiguousarray(held.total)
        seal = hashlib.sha256(head.encode() + total.tobytes()).hexdigest()
        data = save({"total": torch.from_numpy(total.view(np.int32))}, {"head": head, "seal": seal})
        write_atomically(self._path, data, private=True)

    def read(self, round_index: int, start: str) -> HeldRound | None:
        """What is held of a round that begins with this adapter; None: nothing.

        Raises:
            ConfigError: the file is damaged.
        """
        remove_torn(self._path.parent)
        if not self._path.exists():
            return None
        try:
            open_regular(self._path).close()
            with safe_open(self._path, framework="pt") as file:
                about, total = file.metadata(), file.get_tensor("total").numpy().view(np.uint32)
            if about["seal"] != hashlib.sha256(about["head"].encode() + total.tobytes()).hexdigest():
                raise ValueError("its digest is not that of its content")
            fields = json.loads(about["head"])
            if fields.pop("version") != VERSION:
                raise ValueError("another release wrote it")
            for name in ("cohort", "survivors"):
                fields[name] = tuple(fields[name])
            held = HeldRound(total=total, **fields)
        except (OSError, LookupError, TypeError, ValueError, SafetensorError) as error:
            raise ConfigError(
                f"{self._path} is damaged ({error}), so it is not known which sum was asked for. Restore it, or start "
                "a new run under another expname on every site."
            ) from error
        return held if (held.round, held.start) == (round_index, start) else None

    def clear(self) -> None:
        """Forget the round: a checkpoint holds what came of it."""
        self._path.unlink(missing_ok=True)


def held_round(session: Session) -> HeldRound | None:
    """What is held of the round that begins: the clients that it goes on with, or waits for.

    Raises:
        ConfigError: the file is damaged.
    """
    current = session.round
    assert current is not None
    return RoundStore(session.folder.path).read(current.index, state_digest(current.message))
