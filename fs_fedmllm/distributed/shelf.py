"""Updates that wait for their turn, on disk.

Updates are added up in ascending client order, so that the sum has the same bytes whoever is faster. All but the one
that is next wait here, and the server's memory does not grow with the number of clients.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from fs_fedmllm.errors import StorageError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.rounds.client_update import ClientUpdate, FailedUpdate

logger = logging.getLogger("fs_fedmllm.distributed")


@dataclass(frozen=True)
class _Shelved:
    """An update whose tensors are in a file."""

    update: ClientUpdate
    names: tuple[str, ...]
    path: Path


class Shelf:
    """Holds what clients have answered until it is used.

    Args:
        folder: of the run; files that an earlier process left there are removed.
    """

    def __init__(self, folder: Path):
        self._folder = folder / "arrived"
        self._clear()

    def put(self, client: int, answer: Any) -> Any:
        """What to keep in memory in an answer's place.

        Args:
            client: whose answer it is.
            answer: an update goes to disk, if there is room; anything else is small.
        """
        if not isinstance(answer, ClientUpdate) or not answer.state:
            return answer
        path = self._folder / f"client-{client}-{secrets.token_hex(4)}.safetensors"
        try:
            data = save({name: tensor.contiguous() for name, tensor in answer.state.items()})
            write_atomically(path, data, durable=False, private=True)
        except (OSError, StorageError) as error:
            logger.warning("An update that came early stays in memory: %s", error)
            return answer
        return _Shelved(dataclasses.replace(answer, state={}), tuple(answer.state), path)

    def take(self, kept: Any) -> Any:
        """The answer back, from what :meth:`put` gave; or why it is lost."""
        if not isinstance(kept, _Shelved):
            return kept
        try:
            found = load(kept.path.read_bytes())
            state = {name: found[name] for name in kept.names}
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            logger.error("%s, an update that waited for its turn, cannot be read: %s", kept.path, error)
            return FailedUpdate(kept.update.client, "it was lost on the server's disk before its turn")
        self.drop(kept)
        return dataclasses.replace(kept.update, state=state)

    def drop(self, kept: Any) -> None:
        """An answer that nobody wants."""
        if isinstance(kept, _Shelved):
            kept.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove what is left, and the folder."""
        self._clear()
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _clear(self) -> None:
        for left in self._folder.glob("client-*.safetensors"):
            left.unlink(missing_ok=True)
