"""Exact save and restore of a run: tensors as safetensors, the rest as JSON, nothing pickled.

Draws are functions of the seed, the round and the client, so a checkpoint holds no generator state: the global
adapter, the server optimizer's state, what each client keeps, the best adapter, the round and the figures so far are
all there is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fs_fedmllm.atomic import write_atomically
from fs_fedmllm.errors import ConfigError

VERSION = 2


@dataclass
class RunState:
    """Everything that a run carries from one round to the next.

    Attributes:
        round: rounds done.
        params: the global adapter.
        server: the server optimizer's state.
        best: the adapter of the best evaluated round; empty before the first evaluation.
        figures: evaluations, bytes, seconds and refusals so far; plain JSON values.
        lines: lines of metrics.jsonl that belong to this state.
        clients: what each client keeps between its turns (``Update.client_state``); absent ids keep nothing.
        stored: what of ``clients`` is in the checkpoint's folder: client id -> the state and its file.
    """

    round: int
    params: dict[str, torch.Tensor]
    server: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    lines: int = 0
    clients: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    stored: dict[int, tuple[dict[str, torch.Tensor], dict[str, str]]] = field(default_factory=dict)


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Write tensors; what a header says of the file."""
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    write_atomically(path, data, private=True)  # what clients keep between their turns is in it
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}


def _read(folder: Path, entry: dict[str, str]) -> dict[str, torch.Tensor]:
    data = (folder / Path(entry["file"]).name).read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ConfigError(f"{folder / entry['file']} is damaged (its sha256 differs); remove {folder}.")
    return load(data)


def save_checkpoint(folder: Path, state: RunState, digest: str) -> None:
    """Write a checkpoint; the older one stands until the new one is complete.

    Args:
        folder: ``checkpoint/`` of the run.
        state: what to save.
        digest: of the configuration, so that another run's state is never continued.
    """
    tensors = {f"params/{k}": v for k, v in state.params.items()}
    tensors |= {f"server/{k}": v for k, v in state.server.items()}
    # The best adapter may be the current one; safetensors refuses tensors that share memory.
    tensors |= {f"best/{k}": v.clone() for k, v in state.best.items()}
    entry = _write(folder / f"round-{state.round}.safetensors", tensors)
    # One file for each client, and only for those that took a turn: a round's cost depends on its clients alone.
    for client, kept in sorted(state.clients.items()):
        if client not in state.stored or state.stored[client][0] is not kept:
            file = folder / f"client-{client}-round-{state.round}.safetensors"
            state.stored[client] = (kept, _write(file, {name: tensor.clone() for name, tensor in kept.items()}))
    header = {
        "version": VERSION,
        "round": state.round,
        "config": digest,
        "tensors": entry,
        "clients": {str(client): stored for client, (_, stored) in sorted(state.stored.items())},
        "figures": state.figures,
        "lines": state.lines,
    }
    write_atomically(folder / "state.json", json.dumps(header).encode(), private=True)
    current = {entry["file"], *(stored["file"] for _, stored in state.stored.values())}
    for old in _files(folder):
        if old.name not in current:
            old.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return [*folder.glob("round-*.safetensors"), *folder.glob("client-*-round-*.safetensors")]


def load_checkpoint(folder: Path, digest: str) -> RunState | None:
    """Read the checkpoint of a run, or None if there is none.

    Raises:
        ConfigError: the checkpoint is another configuration's, of an unknown version, or damaged.
    """
    path = folder / "state.json"
    if not path.is_file():
        return None
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if header["version"] != VERSION:
            raise ConfigError(f"{path} has version {header['version']}; this release reads version {VERSION}.")
        if header["config"] != digest:
            raise ConfigError(
                f"{folder} holds the checkpoint of a run with another configuration. Use another expname, or remove "
                "that folder to start anew."
            )
        parts: dict[str, dict[str, torch.Tensor]] = {"params": {}, "server": {}, "best": {}}
        for name, tensor in _read(folder, header["tensors"]).items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        stored = {int(client): (_read(folder, entry), entry) for client, entry in header["clients"].items()}
        return RunState(
            round=header["round"],
            params=parts["params"],
            server=parts["server"],
            best=parts["best"],
            figures=header["figures"],
            lines=header["lines"],
            clients={client: kept for client, (kept, _) in stored.items()},
            stored=stored,
        )
    except (KeyError, ValueError, OSError, SafetensorError) as error:
        raise ConfigError(f"The checkpoint in {folder} is damaged ({error}); remove that folder.") from error


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished run."""
    for file in (*_files(folder), folder / "state.json"):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something of somebody else's is in it, or it never was
        folder.rmdir()
