"""The folder of a run: everything needed to read, cite, load or repeat it.

resolved_config.yaml  the resolved configuration
manifest.json         which client got which rows and what they show
metrics.jsonl         one line per client update, round and evaluation
results.json          the closing figures, with slices and intervals
predictions.jsonl     what the last evaluation predicted, a line per test row and view; predictions_<name>.jsonl for a
                      further test set
zero_shot/            answers before round 0, where they were written ones
adapter/              the final adapter in PEFT's format; adapter_best/ the best round's; adapter_average/ the mean of
                      the last rounds', where fedmllm.average_last keeps it
events/               TensorBoard
trackers.json         what other trackers (fedmllm.report_to) were told; wandb/ is wandb's own folder
checkpoint/           the state to resume from (removed when the run ends)
run.log               what a site of a distributed run said; the folder of client 3 there is client_3/
run.lock              who is writing (removed when the run ends; one that a killed run left does not matter)
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.config import Config, config_digest, load, settings, to_mapping, told_apart
from fs_fedmllm.config.places import RESOLVED
from fs_fedmllm.errors import ConfigError, FedMLLMError, StorageError
from fs_fedmllm.files.atomic import remove_abandoned, remove_torn, unwritable, write_atomically
from fs_fedmllm.files.locks import Lock
from fs_fedmllm.files.untrusted import parse_json
from fs_fedmllm.runs.tensorboard import Events
from fs_fedmllm.runs.tracking import MAKERS, Trackers, named_figures

logger = logging.getLogger(__name__)

LOCK = "run.lock"
#: Folder of the answers before round 0.
ZERO_SHOT = "zero_shot"
#: Bytes of a folder's name, 255 on most file systems; a number and the names of unfinished files are added.
_LONGEST_NAME = 200
_SAME = re.compile("this very configuration")


def _name(config: Config, label: str, digest: str) -> str:
    told = digest or config_digest(config)
    name = config.expname or f"{label or config.scenario}-{config.federate.method}-{told[:8]}"
    if not re.fullmatch(r"[\w+-][\w.+-]*", name):
        raise ConfigError(f"expname {name!r} may hold letters, digits and . _ + - only, no dot first.")
    if len(name.encode()) > _LONGEST_NAME:
        raise ConfigError(f"expname is longer than {_LONGEST_NAME} bytes. Shorten it; the folder is called so.")
    return name


def _candidates(config: Config, label: str, digest: str = "") -> Iterator[Path]:
    name = _name(config, label, digest)
    yield Path(config.outdir) / name
    for attempt in itertools.count(2):
        yield Path(config.outdir) / f"{name}-{attempt}"


def is_finished(folder: Path) -> bool:
    """Whether the folder holds the results of a run."""
    return (folder / "results.json").is_file()


def passed_over(folder: Path, config: Config) -> str:
    """What to say of a finished run whose name a new one was given."""
    try:
        found = told_apart(settings(load(folder / RESOLVED)), settings(config))
    except FedMLLMError:
        return f"{folder} holds a finished run of another release"
    if found:
        return f"{folder} holds a finished run with another configuration ({found})"
    return f"{folder} holds a finished run of this very configuration, whose results stand"


@contextlib.contextmanager
def claimed_by_client(config: Config, client: int, label: str = "", digest: str = "") -> Iterator[RunFolder]:
    """The folder of one client of a distributed run, held for this process alone for the length of a block.

    It is the same one at every start: ``client_3`` in the folder that the run has on this machine.

    Raises:
        LockedError: another process is at it.
        ConfigError: the name is no folder's name.
    """
    folder = RunFolder(Path(config.outdir) / _name(config, label, digest) / f"client_{client}", config)
    folder.lock()
    try:
        yield folder
    finally:
        folder.unlock()


@contextlib.contextmanager
def claimed(config: Config, label: str = "", digest: str = "") -> Iterator[RunFolder]:
    """The run's folder, held for this process alone for the length of a block.

    It is ``outdir/expname``, or a name from the label and the configuration's digest; a finished run is never written
    over: the next free ``-2``, ``-3``... is taken.

    Args:
        config: of the run.
        label: what the name begins with; empty takes the scenario's.
        digest: what stands for the configuration in the name; empty takes that of the whole configuration.

    Raises:
        LockedError: another process is at it.
        ConfigError: the name is no folder's name.
    """
    passed: list[str] = []
    for path in _candidates(config, label, digest):
        if not is_finished(path):
            new = not path.exists()
            folder = RunFolder(path, config)
            folder.lock()
            if not is_finished(path):
                break
            folder.unlock()  # it came to its end in this very moment
        passed.append(passed_over(path, config))
    try:
        if passed:
            logger.warning("%s. This one goes to %s.", next(filter(_SAME.search, passed), passed[-1]), path)
        yield folder
    finally:
        folder.unlock()
        if new:
            with contextlib.suppress(OSError):  # only if nothing came to be in it
                path.rmdir()


def next_folder(config: Config, label: str = "") -> tuple[Path, list[str]]:
    """The folder that :func:`claimed` would take, and what it would say of finished runs that it passes over.

    Nothing is made or locked.

    Raises:
        ConfigError: the name is no folder's name.
    """
    passed: list[str] = []
    for path in _candidates(config, label):
        if not is_finished(path):
            break
        passed.append(passed_over(path, config))
    return path, passed


def check_output(outdir: str) -> None:
    """A run can write where it is to write; nothing is made yet.

    Raises:
        StorageError: names the folder, and what stands in the way.
    """
    _check_folder(Path(outdir), f"outdir is {outdir!r}")


def check_copy(save_to: str) -> None:
    """The further copy of the adapter can be written; nothing is made yet.

    Args:
        save_to: ``federate.save_to``; empty for no copy.

    Raises:
        StorageError: names the file, and what stands in the way.
    """
    if not save_to:
        return
    said = f"federate.save_to is {save_to!r}"
    if Path(save_to).is_dir():
        raise StorageError(
            f"{said}, which is a folder. Name a file in it, such as {Path(save_to) / 'adapter.safetensors'}."
        )
    _check_folder(Path(save_to).parent, said)


def _check_folder(folder: Path, said: str) -> None:
    existing, why = unwritable(folder)
    if why:
        raise StorageError(
            f"{said}, but {existing} cannot be written: {why}. Change its rights, make room, or name another folder."
        )


def figures_of(line: bytes) -> dict[str, Any] | None:
    """What a line of metrics.jsonl says; None if no run wrote it so."""
    try:
        found = parse_json(line.decode("utf-8"))
    except ValueError:
        return None
    whole = isinstance(found, dict) and isinstance(found.get("round"), int) and isinstance(found.get("kind"), str)
    return found if whole else None


class RunFolder:
    """Writes a run's files as it goes."""

    def __init__(self, path: Path, config: Config):
        self.path = path
        self.config = config
        path.mkdir(parents=True, exist_ok=True)
        self._events = Events(path / "events", named_figures) if "tensorboard" in config.fedmllm.report_to else None
        self._trackers = Trackers(path, config, MAKERS)
        self._lock: Lock | None = None

    def lock(self) -> None:
        """Hold the folder for this process alone until :meth:`unlock`; remove what a killed process left half-written.

        Raises:
            LockedError: another process holds it; or, under differential privacy, it cannot be locked at all.
        """
        private = self.config.fedmllm.privacy.dp.enabled
        self._lock = Lock(
            self.path / LOCK,
            needed="two runs in it would spend more privacy than either reports." if private else "",
            advice="Wait until it has ended, or give this run another expname.",
        )
        adapters = ("adapter", "adapter_best", "adapter_average")
        inside = [self.path / name for name in ("checkpoint", *adapters, "clients", "state", ZERO_SHOT)]
        remove_torn(self.path, *inside, *(self.path / "clients").glob("*/"))
        if self.config.federate.save_to:  # among files that are not ours
            copy = Path(self.config.federate.save_to)
            remove_abandoned(copy.parent, copy.name)

    def unlock(self) -> None:
        """Let go of the folder; of a run that is not finished, what was recorded since its checkpoint is not told."""
        self._trackers.close("stopped")
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def write_config(self) -> None:
        """Write the resolved configuration."""
        text = yaml.safe_dump(to_mapping(self.config), sort_keys=False)
        write_atomically(self.path / RESOLVED, text.encode())

    def keep_lines(self, count: int) -> int:
        """Cut metrics.jsonl and the events to the first ``count`` lines: what came after them is computed again.

        Trackers begin, or go on there.

        Returns:
            How many there are: fewer where somebody has edited or removed the file, which is said.
        """
        path = self.path / "metrics.jsonl"
        lines = (path.read_bytes().splitlines(keepends=True) if path.is_file() else [])[:count]
        kept = [(line, found) for line in lines if line.endswith(b"\n") and (found := figures_of(line))]
        if len(kept) < count:
            logger.warning(
                "%s has %d of the %d lines that the run wrote to its checkpoint: curves and trackers lack the rest, "
                "and results.json does not. To have them, stop this run and put the file back.",
                path, len(kept), count,
            )  # fmt: skip
        write_atomically(path, b"".join(line for line, _ in kept))
        if self._events is not None:
            self._events.keep([found for _, found in kept])
        self._trackers.begin(len(kept))
        return len(kept)

    def record(self, kind: str, round_index: int, figures: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl; its numbers go to the TensorBoard events, and to trackers once they stand.

        Args:
            kind: ``turn``, ``round``, ``evaluation``, or ``test_set``, whose figures name the ``set``.
            round_index: the round, from 0; an evaluation's round is the number of rounds done.
            figures: numbers and names.
        """
        line = {"kind": kind, "round": round_index, **figures}
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        if self._events is not None:
            self._events.record(line)
        self._trackers.record(line)

    def stands(self) -> None:
        """What was recorded will not be computed again: a checkpoint holds it, or none will be made."""
        self._trackers.stands()

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        write_atomically(self.path / name, (json.dumps(value, indent=2) + "\n").encode())

    def close(self) -> None:
        """The run is finished: everything is told, to the events and the trackers."""
        if self._events is not None:
            self._events.close()
        self._trackers.stands()
        self._trackers.close("finished")
