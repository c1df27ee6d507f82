"""Exact save and restore of a run: tensors as safetensors, the rest as JSON, nothing pickled.

Draws are functions of the seed, the round and the client, so a checkpoint holds no generator state: the global
adapter, the server optimizer's state, what each client keeps, the best adapter, the round and the figures so far are
all there is.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fs_fedmllm.config import told_apart
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.files.sealing import check_seal, sealed
from fs_fedmllm.files.untrusted import open_regular, read_object
from fs_fedmllm.runs.belongings import other_parts

if TYPE_CHECKING:
    from fs_fedmllm.runs.run_folder import RunFolder

VERSION = 3
HEAD = "state.json"


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
        clients: what each client keeps between its updates (``ClientUpdate.client_state``); absent ids keep nothing.
        recent: the adapters of the last ``fedmllm.average_last`` rounds, oldest first.
        stored: what of ``clients`` is in the checkpoint's folder: client id -> the state and its file.
        versions: what was sent in earlier rounds to clients that are still training, by round; asynchronous runs only.
        stored_versions: files of ``versions`` in the checkpoint's folder, by round.
    """

    round: int
    params: dict[str, torch.Tensor]
    server: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    lines: int = 0
    clients: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    recent: list[dict[str, torch.Tensor]] = field(default_factory=list)
    stored: dict[int, tuple[dict[str, torch.Tensor], dict[str, str]]] = field(default_factory=dict)
    versions: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    stored_versions: dict[int, dict[str, str]] = field(default_factory=dict)

    def record(self, folder: RunFolder, kind: str, figures: Mapping[str, Any]) -> None:
        """Append a line of the current round to the folder's metrics.jsonl; see :meth:`RunFolder.record`."""
        folder.record(kind, self.round, figures)
        self.lines += 1


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Write tensors; what a header says of the file."""
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    write_atomically(path, data, private=True)  # what clients keep between their updates is in it
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}


def _read(folder: Path, entry: Any) -> dict[str, torch.Tensor]:
    with open_regular(folder / Path(entry["file"]).name) as stream:
        data = stream.read()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ConfigError(f"{folder / entry['file']} is damaged (its sha256 differs); remove {folder}.")
    return load(data)


def save_checkpoint(folder: Path, state: RunState, digest: str, belongs: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint; the older one stands until the new one is complete.

    Args:
        folder: ``checkpoint/`` of the run.
        state: what to save.
        digest: of the configuration and the split, so that another run's state is never continued.
        belongs: what else it belongs to, see :func:`fs_fedmllm.runs.belongings.belongings`.
    """
    tensors = {f"params/{k}": v for k, v in state.params.items()}
    tensors |= {f"server/{k}": v for k, v in state.server.items()}
    # The best adapter may be the current one; safetensors refuses tensors that share memory.
    tensors |= {f"best/{k}": v.clone() for k, v in state.best.items()}
    # The last of these is the current one.
    tensors |= {f"recent/{i}/{k}": v.clone() for i, kept in enumerate(state.recent) for k, v in kept.items()}
    entry = _write(folder / f"round-{state.round}.safetensors", tensors)
    # One file for each client, and only for those that took part: a round's cost depends on its clients alone.
    for client, kept in sorted(state.clients.items()):
        if client not in state.stored or state.stored[client][0] is not kept:
            file = folder / f"client-{client}-round-{state.round}.safetensors"
            state.stored[client] = (kept, _write(file, {name: tensor.clone() for name, tensor in kept.items()}))
    # What a round sent never changes, so that each is written once, for as long as a client in flight needs it.
    state.stored_versions = {
        index: state.stored_versions.get(index) or _write(folder / f"sent-round-{index}.safetensors", sent)
        for index, sent in sorted(state.versions.items())
    }
    header = {
        "version": VERSION,
        "round": state.round,
        "config": digest,
        "belongs": dict(belongs or {}),
        "tensors": entry,
        "clients": {str(client): stored for client, (_, stored) in sorted(state.stored.items())},
        "figures": state.figures,
        "lines": state.lines,
    }
    if state.versions:
        header["versions"] = {str(index): entry for index, entry in state.stored_versions.items()}
    write_atomically(folder / HEAD, sealed(header), private=True)
    _keep_only(folder, {e["file"] for e in (entry, *_entries(state.stored), *state.stored_versions.values())})


def _entries(stored: Mapping[int, tuple[dict[str, torch.Tensor], dict[str, str]]]) -> list[dict[str, str]]:
    return [entry for _, entry in stored.values()]


def _keep_only(folder: Path, names: set[str]) -> None:
    """Remove tensors that no header names: of earlier rounds, or of a process that was killed before its header."""
    for old in _files(folder):
        if old.name not in names:
            old.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    kinds = ("round-*.safetensors", "client-*-round-*.safetensors", "sent-round-*.safetensors")
    return [file for kind in kinds for file in folder.glob(kind)]


def read_head(folder: Path, digest: str, belongs: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Read the header of a run's checkpoint, without its tensors; None if there is none.

    Args:
        folder: ``checkpoint/`` of the run.
        digest: as it was saved with.
        belongs: what the run is made of; parts that either side does not know are not compared.

    Raises:
        ConfigError: the checkpoint is another run's, of an unknown version, damaged, or was changed.
    """
    path = folder / HEAD
    if not path.is_file():
        return None
    with _damage(folder):
        header = read_object(path)
        version = header["version"]
        if version != VERSION or type(version) is not int:
            raise ConfigError(
                f"{path} has version {str(version)[:20]}; this release reads version {VERSION}. Finish that run with "
                "the release that began it, or remove the folder to start anew."
            )
        check_seal(header, HEAD)
        saved = header["belongs"]
        if not isinstance(saved, dict) or not isinstance(saved.get("settings", {}), dict):
            raise ValueError("belongs is no mapping")
        _same_run(folder, header["config"] == digest, saved, belongs or {})
        for name in ("round", "lines"):
            if type(header[name]) is not int or header[name] < 0:
                raise ValueError(f"{name} is not a count")
        for name in ("figures", "clients"):
            if not isinstance(header[name], dict):
                raise ValueError(f"{name} is no mapping")
        return header


def _same_run(folder: Path, same: bool, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    advice = "Use another expname, or remove that folder to start anew."
    other = other_parts(there, here)
    if not same:
        known = "settings" in there and "settings" in here
        found = told_apart(there["settings"], here["settings"]) if known else ""
        unknown = "its rows were partitioned differently" if known else "its settings or rows differ"
        found = "; ".join(filter(None, [found, *other])) or unknown
        raise ConfigError(f"{folder} holds the checkpoint of a run with another configuration: {found}. {advice}")
    if other:
        raise ConfigError(f"{folder} holds the checkpoint of a run with {' and '.join(other)}. {advice}")


@contextlib.contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Whatever a damaged or hostile file does to a reader is one error, with what to do."""
    try:
        yield
    except ConfigError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OSError, OverflowError, RecursionError,
            SafetensorError) as error:  # fmt: skip
        told = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ConfigError(f"The checkpoint in {folder} is damaged ({told[:300]}); remove that folder.") from error


def load_checkpoint(folder: Path, digest: str, belongs: Mapping[str, Any] | None = None) -> RunState | None:
    """Read the checkpoint of a run, or None if there is none; arguments and errors as for :func:`read_head`."""
    header = read_head(folder, digest, belongs)
    if header is None:
        _keep_only(folder, set())
        return None
    with _damage(folder):
        parts: dict[str, dict[str, torch.Tensor]] = {"params": {}, "server": {}, "best": {}, "recent": {}}
        for name, tensor in _read(folder, header["tensors"]).items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        stored = {int(client): (_read(folder, entry), entry) for client, entry in header["clients"].items()}
        sent = {int(index): dict(entry) for index, entry in header.get("versions", {}).items()}
        versions = {index: _read(folder, entry) for index, entry in sent.items()}
        _keep_only(folder, {e["file"] for e in (header["tensors"], *_entries(stored), *sent.values())})
        return RunState(
            round=header["round"],
            params=parts["params"],
            server=parts["server"],
            best=parts["best"],
            figures=header["figures"],
            lines=header["lines"],
            recent=_numbered(parts["recent"]),
            clients={client: kept for client, (kept, _) in stored.items()},
            stored=stored,
            versions=versions,
            stored_versions=sent,
        )


def _numbered(tensors: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """``<index>/<name>`` as a list of states."""
    found: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, rest = name.partition("/")
        found.setdefault(int(index), {})[rest] = tensor
    if sorted(found) != list(range(len(found))):
        raise ValueError("recent has gaps")
    return [found[index] for index in range(len(found))]


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a finished run."""
    for file in (*_files(folder), folder / HEAD):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something of somebody else's is in it, or it never was
        folder.rmdir()
