"""Runs as they lie on the disk: found below a folder, and what can be told of each without a model.

Configurations are compared as they were written, so runs of older releases are listed too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fs_fedmllm.config import read_yaml
from fs_fedmllm.config.host_reading import leaves
from fs_fedmllm.config.places import RESOLVED
from fs_fedmllm.errors import ConfigError, FedMLLMError
from fs_fedmllm.files.locks import is_held
from fs_fedmllm.files.untrusted import RECORDED, object_if_any, read_regular
from fs_fedmllm.runs.best_round import best_of
from fs_fedmllm.runs.run_folder import LOCK, figures_of, is_finished

CONFIGURATION = RESOLVED
#: What a run that no client could go on with has in place of results, see ``tools.sweeps.files``.
_DIVERGED = "ended.json"
#: Where a run lies, which is no part of what it is.
_PLACES = ("outdir", "expname")
FINISHED, RUNNING, RESUMABLE, STOPPED, DIVERGED = "finished", "running", "resumable", "stopped", "diverged"


@dataclass(frozen=True)
class Listed:
    """A run.

    Attributes:
        folder: of the run.
        status: ``finished``; ``running`` (a process holds its folder); ``resumable`` (it was interrupted, and the same
            command goes on); ``stopped`` (before its first checkpoint: the same command begins again); ``diverged``.
        done: rounds done, as far as its files tell.
        rounds: rounds of its configuration; 0 where it does not say.
        metric: what picks the best round, ``""`` where no round was evaluated.
        best: its value.
        best_round: the round it is of.
        changed: when its files last changed, UTC.
        settings: its configuration by dotted key.
        differs: those settings that not all listed runs have alike.
    """

    folder: Path
    status: str
    done: int
    rounds: int
    metric: str
    best: float | None
    best_round: int | None
    changed: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    differs: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; the whole configuration is in the folder."""
        names = ("status", "done", "rounds", "metric", "best", "best_round", "changed")
        return {
            "folder": str(self.folder),
            **{name: getattr(self, name) for name in names},
            "differs": dict(self.differs),
        }


def run_folders(below: Path) -> Iterator[Path]:
    """Run folders in and below a folder, by name; links are not followed, and nothing is looked for inside a run."""
    for path, folders, files in os.walk(below):
        folders.sort()
        if CONFIGURATION in files:
            folders.clear()
            yield Path(path)


def run_folder_of(path: Path) -> Path:
    """The run folder that a path names: itself, or that of a file or folder in it; else the path as it is."""
    for place in (path, *list(path.absolute().parents)[:2]):
        if (place / CONFIGURATION).is_file():
            return place
    return path


def list_runs(below: Path) -> list[Listed]:
    """The runs in and below a folder, those that changed last first.

    Raises:
        ConfigError: there is no such folder.
    """
    if not below.is_dir():
        raise ConfigError(f"{below} is not a folder; name the one that run folders lie in (outdir, exp by default).")
    found = [_listed(folder) for folder in run_folders(below)]
    return sorted(with_differences(found), key=lambda run: run.changed, reverse=True)


def with_differences(runs: Sequence[Listed]) -> list[Listed]:
    """The runs, each with those of its settings that not all have alike."""
    names = {name for run in runs for name in run.settings if name not in _PLACES}
    marked = [{name: json.dumps(run.settings.get(name), default=str) for name in names} for run in runs]
    apart = sorted(name for name in names if len({own[name] for own in marked}) > 1)
    return [
        Listed(**{**vars(run), "differs": {name: run.settings[name] for name in apart if name in run.settings}})
        for run in runs
    ]


def _listed(folder: Path) -> Listed:
    try:
        raw = read_yaml(folder / CONFIGURATION)
    except FedMLLMError:
        raw = {}
    settings = dict(leaves(raw))
    lines = _lines(folder)
    results = object_if_any(folder / "results.json")
    evaluations = [{k: v for k, v in line.items() if k != "kind"} for line in lines if line["kind"] == "evaluation"]
    done = _whole(results.get("rounds")) or sum(line["kind"] == "round" for line in lines)
    status = _status(folder)
    if status == RESUMABLE:
        done = _whole(object_if_any(folder / "checkpoint" / "state.json").get("round"))
    metric = str(results.get("best_by") or settings.get("eval.best_res_update_round_wise_key") or "")
    best = results.get("best") or _best(evaluations, metric)
    best = best if isinstance(best, Mapping) else {}
    value = best.get(metric)
    rounds = settings.get("federate.total_round_num")
    return Listed(
        folder=folder,
        status=status,
        done=done,
        rounds=rounds if isinstance(rounds, int) else 0,
        metric=metric if isinstance(value, int | float) else "",
        best=float(value) if isinstance(value, int | float) else None,
        best_round=best.get("round") if isinstance(best.get("round"), int) else None,
        changed=_changed(folder),
        settings=settings,
    )


def _whole(value: Any) -> int:
    """A number of a file that anybody may have written; 0 where it is none."""
    return value if isinstance(value, int) else 0


def _status(folder: Path) -> str:
    if is_held(folder / LOCK):
        return RUNNING
    if is_finished(folder):
        return FINISHED
    if (folder / _DIVERGED).is_file():
        return DIVERGED
    return RESUMABLE if (folder / "checkpoint" / "state.json").is_file() else STOPPED


def _best(evaluations: Sequence[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    numbers = [{name: n for name, n in entry.items() if isinstance(n, int | float)} for entry in evaluations]
    return best_of([entry for entry in numbers if metric in entry], metric)


def _lines(folder: Path) -> list[Mapping[str, Any]]:
    """``metrics.jsonl``; a line that a run is just writing, or that is none, is passed over."""
    try:
        lines = read_regular(folder / "metrics.jsonl", RECORDED).split(b"\n")
    except OSError:
        return []
    return [found for line in lines if (found := figures_of(line))]


def _changed(folder: Path) -> str:
    times = [path.stat().st_mtime for path in (folder / "metrics.jsonl", folder / CONFIGURATION) if path.is_file()]
    return datetime.fromtimestamp(max(times, default=0), UTC).strftime("%Y-%m-%d %H:%M")
