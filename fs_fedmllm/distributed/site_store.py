"""What a client keeps on its own disk: its last answer until the server has used it, and its state.

A client that is killed and started again sends the very answer that it had computed, or computes it anew from the same
state; a client whose answer came too late goes on from the state before it, as if it had not taken part.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.protocol import ProtocolError, whole
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.atomic import remove_torn, write_atomically
from fs_fedmllm.files.sealing import check_seal, sealed
from fs_fedmllm.files.untrusted import open_regular, read_object

VERSION = 2
_HEAD = "state.json"


@dataclass
class Pending:
    """An answer that the server may still want.

    Attributes:
        place: phase, round and start that it belongs to.
        answer: the message.
        client_state: what the client keeps once the server has used the answer.
    """

    place: dict[str, Any]
    answer: Message
    client_state: State = field(default_factory=dict)


class SiteStore:
    """The client's folder of state.

    Args:
        folder: made if it is not there.
        identity: of client, data and configuration, so that another run's state is never continued.
        needed: whether the server's own state is a sum over what clients keep, so that a client cannot go on without.

    Raises:
        ConfigError: the folder holds another run's state, or a damaged one.
    """

    def __init__(self, folder: Path, identity: str, *, needed: bool = False):
        self._folder = folder
        self._identity = identity
        self._needed = needed
        self.pending: Pending | None = None
        self.client_state: State = {}
        self._carried_from = -1  # the round whose answer gave what is carried
        remove_torn(folder)
        self._read()

    def keep(self, pending: Pending) -> None:
        """Keep an answer, before it is sent."""
        self.pending = pending
        self._write()

    def settle(self, taken: int) -> None:
        """The server asks for something new: drop the pending answer, and move on if it was used.

        Args:
            taken: the last round whose mean has an answer of ours, or -1.

        Raises:
            ConfigError: the server has used an answer of ours that is not here any more, and something is (or must
                be) carried from turn to turn, so what comes next could not be right.
        """
        pending, self.pending = self.pending, None
        if pending is not None and pending.place["round"] == taken:
            self.client_state, self._carried_from = pending.client_state, taken
        elif self._carried_from != taken:
            if (self.client_state or self._needed) and taken >= 0:
                raise ConfigError(
                    f"The server has used this client's answer of round {taken}, but {self._folder} holds what it "
                    f"carried along after round {self._carried_from}. Restore that folder, or start the run anew."
                )
            self.client_state, self._carried_from = {}, taken
        if self.client_state:  # without any state, what is on disk can stay until the next answer replaces it
            self._write()

    def clear(self) -> None:
        """Remove the state of a finished run."""
        for file in (*self._folder.glob("answer-*.safetensors"), self._folder / _HEAD):
            file.unlink(missing_ok=True)

    def _write(self) -> None:
        tensors = {f"carried/{name}": tensor.clone() for name, tensor in self.client_state.items()}
        head: dict[str, Any] = {"version": VERSION, "identity": self._identity, "pending": None}
        head["carried_from"] = self._carried_from
        if self.pending is not None:
            answer = self.pending.answer
            # Two may share memory (a client that returned what it got), which safetensors refuses.
            tensors |= {f"answer/{name}": tensor.clone() for name, tensor in answer.tensors.items()}
            tensors |= {f"next/{name}": tensor.clone() for name, tensor in self.pending.client_state.items()}
            head["pending"] = {"place": self.pending.place, "kind": answer.kind, "header": dict(answer.header)}
            head["order"] = list(answer.tensors)
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        digest = hashlib.sha256(data).hexdigest()
        # The older file stands until the head names the new one.
        name = f"answer-{digest[:16]}.safetensors"
        write_atomically(self._folder / name, data, private=True)
        content = {**head, "tensors": name, "sha256": digest}
        write_atomically(self._folder / _HEAD, sealed(content), private=True)
        for old in self._folder.glob("answer-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def _read(self) -> None:
        path = self._folder / _HEAD
        if not path.is_file():
            return
        try:
            head = read_object(path)
            if head["version"] != VERSION:
                raise ConfigError(
                    f"{path} has version {str(head['version'])[:20]}; this release reads version {VERSION}."
                )
            check_seal(head, _HEAD)
            if head["identity"] != self._identity:
                raise ConfigError(
                    f"{self._folder} holds the state of a client with another configuration, id or data. Use another "
                    "expname, or remove that folder to start anew."
                )
            with open_regular(self._folder / Path(head["tensors"]).name) as stream:
                data = stream.read()
            if hashlib.sha256(data).hexdigest() != head["sha256"]:
                raise ConfigError(
                    f"{self._folder / head['tensors']} is damaged (its sha256 differs); remove {self._folder}, and "
                    "the client computes its answer again."
                )
            parts: dict[str, dict[str, torch.Tensor]] = {"carried": {}, "answer": {}, "next": {}}
            for name, tensor in load(data).items():
                part, _, rest = name.partition("/")
                parts[part][rest] = tensor
            self.client_state, self._carried_from = parts["carried"], whole(head, "carried_from", low=-1)
            if head["pending"] is not None:
                self.pending = _pending(head["pending"], head["order"], parts["answer"], parts["next"])
        except (LookupError, TypeError, ValueError, OSError, AttributeError, ProtocolError, SafetensorError) as error:
            raise ConfigError(
                f"The client's state in {self._folder} is damaged ({error}); remove that folder, and the client "
                "computes its answer again."
            ) from error


def _pending(found: Any, order: Any, answer: State, client_state: State) -> Pending:
    """The kept answer, of what the head says of it.

    Raises:
        ValueError: it is not what :meth:`SiteStore.keep` writes (KeyError, TypeError and ProtocolError likewise).
    """
    place, kind, header = found["place"], found["kind"], found["header"]
    if not isinstance(place, dict) or not isinstance(header, dict) or not isinstance(kind, str):
        raise ValueError("the answer has no place, kind or header")
    whole(place, "round")
    if not isinstance(order, list) or sorted(order) != sorted(answer):
        raise ValueError("the answer's tensors are not those of its list")
    return Pending(place, Message(kind, header, {name: answer[name] for name in order}), client_state)
