"""The folder of a run: everything needed to read, cite, load or repeat it.

resolved_config.yaml  the resolved configuration
manifest.json         which client got which rows and what they show
metrics.jsonl         one line per client turn, round and evaluation
results.json          the closing figures, with slices and intervals
predictions.jsonl     what the last evaluation predicted, a line per test row and view
adapter/              the final adapter in PEFT's format; adapter_best/ the best round's
events/               TensorBoard
checkpoint/           the state to resume from (removed when the run ends)
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.atomic import write_atomically
from fs_fedmllm.config import Config, config_digest, to_mapping
from fs_fedmllm.errors import ConfigError, StorageError


def run_path(config: Config, label: str = "") -> Path:
    """The run's folder: ``outdir/expname``, or a name from the label and the configuration's digest.

    A finished run is never written over: the next free ``-2``, ``-3``... is taken.
    """
    name = config.expname or f"{label or config.scenario}-{config.federate.method}-{config_digest(config)[:8]}"
    if not re.fullmatch(r"[\w+-][\w.+-]*", name):
        raise ConfigError(f"expname {name!r} may hold letters, digits and . _ + - only, no dot first.")
    folder = Path(config.outdir) / name
    attempt = 1
    while (folder / "results.json").is_file():
        attempt += 1
        folder = Path(config.outdir) / f"{name}-{attempt}"
    return folder


def check_output(outdir: str) -> None:
    """A run can write where it is to write; nothing is made yet.

    Args:
        outdir: of the configuration.

    Raises:
        StorageError: names the folder, and what stands in the way.
    """
    existing = Path(outdir).absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise StorageError(
            f"outdir is {outdir!r}, but {existing} cannot be written: {error.strerror}. Change its rights, make "
            "room, or name another folder."
        ) from error


class RunFolder:
    """Writes a run's files as it goes."""

    def __init__(self, path: Path, config: Config):
        self.path = path
        self.config = config
        path.mkdir(parents=True, exist_ok=True)
        self._events: Any = None

    def write_config(self) -> None:
        """Write the resolved configuration."""
        text = yaml.safe_dump(to_mapping(self.config), sort_keys=False)
        write_atomically(self.path / "resolved_config.yaml", text.encode())

    def keep_lines(self, count: int) -> None:
        """Cut metrics.jsonl to its first ``count`` lines: what came after the checkpoint is computed again."""
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        write_atomically(path, b"".join(lines[:count]))

    def record(self, kind: str, round_index: int, figures: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl, and its numbers to the TensorBoard events.

        Args:
            kind: ``turn``, ``round`` or ``evaluation``.
            round_index: the round, from 0; an evaluation's round is the number of rounds done.
            figures: numbers and names.
        """
        line = {"kind": kind, "round": round_index, **figures}
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        events = self._writer()
        prefix = f"client_{figures['client']}" if kind == "turn" else kind
        for name, value in figures.items():
            # A penalty of exactly 0 is switched off, and a panel of zeros says nothing.
            if isinstance(value, int | float) and name != "client" and (name != "penalty" or value):
                events.add_scalar(f"{prefix}/{name}", value, round_index)

    def _writer(self) -> Any:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.path / "events"))
        return self._events

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        write_atomically(self.path / name, (json.dumps(value, indent=2) + "\n").encode())

    def close(self) -> None:
        """Flush the events."""
        if self._events is not None:
            self._events.close()
            self._events = None
