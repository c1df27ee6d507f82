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

VERSION = 1


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
    """

    round: int
    params: dict[str, torch.Tensor]
    server: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    lines: int = 0
    clients: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)


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
    for client, kept in sorted(state.clients.items()):
        tensors |= {f"clients/{client}/{k}": v.clone() for k, v in kept.items()}
    data = save({name: t.contiguous() for name, t in tensors.items()})
    name = f"round-{state.round}.safetensors"
    write_atomically(folder / name, data)
    header = {
        "version": VERSION,
        "round": state.round,
        "config": digest,
        "tensors": name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "figures": state.figures,
        "lines": state.lines,
    }
    write_atomically(folder / "state.json", json.dumps(header).encode())
    for old in folder.glob("round-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


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
        data = (folder / Path(header["tensors"]).name).read_bytes()
        if hashlib.sha256(data).hexdigest() != header["sha256"]:
            raise ConfigError(f"{folder / header['tensors']} is damaged (its sha256 differs); remove {folder}.")
        tensors = load(data)
        parts: dict[str, dict[str, torch.Tensor]] = {"params": {}, "server": {}, "best": {}}
        clients: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            if part == "clients":
                client, _, rest = rest.partition("/")
                clients.setdefault(int(client), {})[rest] = tensor
            else:
                parts[part][rest] = tensor
        return RunState(
            round=header["round"],
            params=parts["params"],
            server=parts["server"],
            best=parts["best"],
            figures=header["figures"],
            lines=header["lines"],
            clients=clients,
        )
    except (KeyError, ValueError, OSError, SafetensorError) as error:
        raise ConfigError(f"The checkpoint in {folder} is damaged ({error}); remove that folder.") from error


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished run."""
    for file in (*folder.glob("round-*.safetensors"), folder / "state.json"):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something of somebody else's is in it, or it never was
        folder.rmdir()
