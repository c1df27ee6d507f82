"""Metrics by path, ``fedmllm.eval.metrics: [metrics/overlap]``: local modules of the ``evaluate`` library.

Nothing is looked up by name and nothing is downloaded: an entry with a slash, or one that ends in ``.py``, is a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.config.open_names import METRICS, OUTSIDE_METRICS
from fs_fedmllm.errors import ConfigError

#: What a metric's name is made of, so that ``test_<name>_<figure>`` can be asked for in tables and plots.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
#: Names that a figure of rows with one modality, test_image_acc, begins with.
_VIEWS = ("image", "text")


def is_metric_path(entry: object) -> bool:
    """Whether an entry of ``fedmllm.eval.metrics`` is a path, not a name."""
    return isinstance(entry, str) and ("/" in entry or os.sep in entry or entry.endswith(".py"))


def named_metrics(entries: Iterable[str]) -> list[str]:
    """The entries that are names of registered metrics."""
    return [entry for entry in entries if not is_metric_path(entry)]


def metric_paths(entries: Iterable[str]) -> list[str]:
    """The entries that are paths."""
    return [entry for entry in entries if is_metric_path(entry)]


def script_of(path: str) -> Path:
    """The file that a path means: itself, or in a folder the script of the folder's name, as ``evaluate`` has it."""
    whole = Path(os.path.abspath(path))
    return whole if path.endswith(".py") else whole / f"{whole.name}.py"


def check_metric_files(entries: Iterable[str]) -> None:
    """Every metric by path is there.

    Args:
        entries: ``fedmllm.eval.metrics``.

    Raises:
        ConfigError: a file is missing.
    """
    for path in metric_paths(entries):
        script = script_of(path)
        if not script.is_file():
            raise ConfigError(
                f"fedmllm.eval.metrics names the path {path!r}, and there is no file {script}. Give a .py file, or a "
                "folder that holds a script of its own name; a relative path begins where the command is started, and "
                "nothing is downloaded."
            )


def metric_faults(entries: Iterable[object]) -> Iterator[str]:
    """A message for every entry of ``fedmllm.eval.metrics`` that is no metric, or takes another's name."""
    taken: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, str) and is_metric_path(entry):
            name = script_of(entry).stem
            if not NAME.fullmatch(name):
                yield (
                    f"fedmllm.eval.metrics: the figures of {entry!r} would be called {name!r}, and a metric's name is "
                    "made of letters, digits, _ and -, with a letter first. Rename the file."
                )
            elif name in (*METRICS, "unparsable", *OUTSIDE_METRICS) or name in taken:
                owner = repr(taken[name]) if name in taken else "an evaluation"
                yield (
                    f"fedmllm.eval.metrics: the figures of {entry!r} would be called {name!r}, which {owner} already "
                    "has. Rename the file."
                )
            elif name.startswith(tuple(f"{view}_" for view in _VIEWS)) or name in _VIEWS:
                yield (
                    f"fedmllm.eval.metrics: the figures of {entry!r} would be called {name!r}, as those of rows that "
                    "are shown with one modality. Rename the file."
                )
            taken[name] = entry
        elif entry not in OUTSIDE_METRICS:
            yield (
                f"fedmllm.eval.metrics names {entry!r}, which is not a metric that another package added"
                + (f"{nearest(str(entry), OUTSIDE_METRICS)} " if OUTSIDE_METRICS else ". ")
                + (
                    f"There are {', '.join(OUTSIDE_METRICS)}; "
                    if OUTSIDE_METRICS
                    else "There is none; leave it empty, "
                )
                + "or give a path, as ./mine.py."
            )
