"""What a run reports to trackers beside its folder: ``fedmllm.report_to``.

A tracker is told what ``metrics.jsonl`` says, numbers by name, once it stands: lines that a resumed run would compute
again are held back until a checkpoint holds them. So the tracker's run goes on where the run does, and no step comes
twice. Which lines it has is kept in ``trackers.json`` of the run folder, with the name that the tracker gave the run.

No row, text, answer, file or client's name is sent; of the configuration, what decides the run's numbers and is no
path.
A tracker that fails is told once and left alone; the run goes on.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fs_fedmllm.config import Config, key_facts
from fs_fedmllm.config.identity import flat
from fs_fedmllm.config.metric_paths import metric_paths, named_metrics
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.files.untrusted import read_json, read_json_lines
from fs_fedmllm.keys import is_number

logger = logging.getLogger(__name__)

FILE = "trackers.json"
#: Keys that decide numbers and still are this machine's or these data's own affair.
_PRIVATE = ("data.root", "data.splitter_args", "federate.restore_from", "fedmllm.replay", "fedmllm.clients",
            "fedmllm.data", "fedmllm.test_sets", "fedmllm.template", "fedmllm.eval.metrics", "fedmllm.switches",
            "model.fedmllm.path")  # fmt: skip
#: Figures of an evaluation by name, after the split and the view. A kind of rows is a word of the data, but for these.
_KNOWN = ("acc", "macro_f1", "weighted_f1", "auc", "auc_hard", "loss", "total", "unparsable", "open_acc", "closed_acc")
_FIGURE = re.compile(r"(?:val|test)_(?:image_|text_)?(\w+)")


class Tracker(Protocol):
    """A place that a run reports to.

    Every method may raise anything; a tracker that has is not called again.
    """

    def open(self, name: str, known: str, settings: Mapping[str, Any]) -> str:
        """Begin a run, or go on with one.

        Args:
            name: of the run folder.
            known: what an earlier call returned for this run; empty for a new one.
            settings: of the configuration, by dotted key.

        Returns:
            By what the tracker knows the run.
        """

    def log(self, number: int, step: int, figures: Mapping[str, float]) -> None:
        """Report the figures of a line; numbers ascend, and ``step`` counts rounds as in ``metrics.jsonl``."""

    def close(self, status: str) -> None:
        """End; ``finished`` or ``stopped``, in which case the run may go on later."""


def named_figures(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of ``metrics.jsonl`` under the names that trackers have for them.

    Args:
        line: with its ``kind`` and ``round``.
    """
    kind = line["kind"]
    of = {"turn": f"client_{line.get('client')}", "test_set": f"test_set_{line.get('set')}"}
    prefix, found = of.get(kind, str(kind)), dict[str, float]()
    for name, value in line.items():
        if not is_number(value) or name in ("client", "round"):
            continue
        # A penalty of exactly 0 is switched off, and a panel of zeros says nothing.
        if name != "penalty" or value:
            found[f"{prefix}/{name}"] = float(value)
    return found


def public_figures(line: Mapping[str, Any], config: Config) -> dict[str, float]:
    """As :func:`named_figures`, without those that are called by a word of the rows.

    Args:
        line: as for :func:`named_figures`.
        config: of the run.
    """
    found = named_figures(line)
    if line["kind"] not in ("evaluation", "test_set"):
        return found
    return {name: value for name, value in found.items() if _is_public(name.partition("/")[2], config)}


def _is_public(name: str, config: Config) -> bool:
    found = _FIGURE.fullmatch(name)
    metrics = config.fedmllm.eval.metrics
    own = (*named_metrics(metrics), *(Path(path).stem for path in metric_paths(metrics)))
    return found is not None and (found[1] in _KNOWN or found[1].startswith(own))


def public_settings(config: Config) -> dict[str, Any]:
    """What a tracker is told of a configuration: keys that decide its numbers, and no path, row, name or secret."""
    facts, found = key_facts(), dict[str, Any]()
    for path, value in flat(config).items():
        plain = isinstance(value, bool | int | float | str)
        if not facts[path].numbers or path in _PRIVATE or not plain:
            continue
        if isinstance(value, str) and ("/" in value or "\\" in value or value.startswith("~")):
            continue
        found[path] = value
    found["model.fedmllm.path"] = Path(config.model.fedmllm.path).name
    return found


class Trackers:
    """The trackers of one run.

    Args:
        folder: of the run.
        config: of the run.
        makers: name -> how the tracker is made; each takes the run folder.
    """

    def __init__(self, folder: Path, config: Config, makers: Mapping[str, Callable[[Path], Tracker]]):
        self._folder = folder
        self._config = config
        self._makers = {name: make for name, make in makers.items() if name in config.fedmllm.report_to}
        self._open: dict[str, Tracker] = {}
        self._waiting: list[tuple[int, Mapping[str, Any]]] = []
        self._known: dict[str, dict[str, Any]] = {}
        self._next = 0

    def begin(self, lines: int) -> None:
        """Open every tracker, and tell it what the folder's metrics say already and it does not know.

        Args:
            lines: of ``metrics.jsonl`` that stand.
        """
        if not self._makers:
            return
        self._next = lines
        self._known = self._read() if lines else {}
        for name, make in self._makers.items():
            self._safely(name, self._opened, name, make)
        self._write()
        if lines:
            self._tell(list(enumerate(read_json_lines(self._folder / "metrics.jsonl")))[:lines])

    def _opened(self, name: str, make: Callable[[Path], Tracker]) -> None:
        tracker, known = make(self._folder), self._known.get(name, {})
        run = tracker.open(self._folder.name, str(known.get("run", "")), public_settings(self._config))
        self._known[name] = {"run": run, "lines": int(known.get("lines", 0))}
        self._open[name] = tracker

    def record(self, line: Mapping[str, Any]) -> None:
        """Keep a new line until it stands."""
        if self._open:
            self._waiting.append((self._next, line))
            self._next += 1

    def stands(self) -> None:
        """Tell what was kept: a checkpoint holds it, or there is none that could make it come again."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._tell(waiting)

    def close(self, status: str) -> None:
        """End every tracker: ``finished`` or ``stopped``."""
        for name, tracker in list(self._open.items()):
            self._safely(name, tracker.close, status)
        self._open = {}

    def _tell(self, lines: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        for name, tracker in list(self._open.items()):
            self._safely(name, self._told, name, tracker, lines)
        self._write()

    def _told(self, name: str, tracker: Tracker, lines: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        for number, line in lines:
            if number >= self._known[name]["lines"]:
                tracker.log(number, int(line["round"]), public_figures(line, self._config))
                self._known[name]["lines"] = number + 1

    def _safely(self, name: str, call: Callable[..., None], *args: Any) -> None:
        try:
            call(*args)
        except Exception as error:
            self._open.pop(name, None)
            said = " ".join(str(error).split())[:300] or type(error).__name__
            logger.warning("fedmllm.report_to: %s fails (%s); the run goes on without it.", name, _hidden(said))

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = read_json(self._folder / FILE)
            return {str(name): {"run": str(own["run"]), "lines": int(own["lines"])} for name, own in found.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}

    def _write(self) -> None:
        write_atomically(self._folder / FILE, (json.dumps(self._known, indent=2) + "\n").encode())


def _hidden(text: str) -> str:
    """An error's words without what an address says of its user."""
    return re.sub(r"(\w+://)[^\s/@]*@", r"\1", re.sub(r"(https?://[^\s?'\"]+)\?\S+", r"\1", text))


def _wandb(folder: Path) -> Tracker:
    from fs_fedmllm.runs.tracker_wandb import WandbTracker

    return WandbTracker(folder)


def _mlflow(folder: Path) -> Tracker:
    from fs_fedmllm.runs.tracker_mlflow import MlflowTracker

    return MlflowTracker(folder)


MAKERS: Mapping[str, Callable[[Path], Tracker]] = {"wandb": _wandb, "mlflow": _mlflow}
