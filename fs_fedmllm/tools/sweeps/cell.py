"""A worker of a sweep, ``python -m fs_fedmllm.tools.sweeps.cell``: it forks a process for every cell that it is given.

Standard input names folders, a line each; the configuration lies there. With the word ``ahead`` the worker imports
what a run needs before it forks, so a cell starts at once. A sweep of which a cell uses an accelerator leaves it out:
libraries look at the accelerator when they are imported, and no fork of a process that has can use it. Progress goes
to standard output, a JSON object a line; what else is printed goes to the cell's log. A cell ends when standard input
closes, which the system does for a sweep that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from fs_fedmllm import config as schema
from fs_fedmllm.errors import FedMLLMError, UpdateError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.files.locks import locked
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.provenance import commit
from fs_fedmllm.tools.sweeps.files import CONFIG, ENDED, LOCK, LOG, MADE_BY, is_finished
from fs_fedmllm.version import VERSION

#: The word for a worker whose cells start at once.
AHEAD = "ahead"
#: Seconds that a predecessor, whose sweep was killed, has to end.
_PATIENCE = 60


class Told(Listener):
    """A run's listener that tells the sweep how far it is."""

    def __init__(self, stream: Any):
        self._stream = stream

    def _tell(self, **what: Any) -> None:
        self._stream.write(json.dumps(what) + "\n")
        self._stream.flush()

    def trained(self, round_index: int, update: Any) -> None:
        """One more update."""
        self._tell(updates=1)

    def resumed(self, updates: int) -> None:
        """Updates that a checkpoint holds."""
        self._tell(updates=updates)

    def refused(self, round_index: int, client: int, reason: str) -> None:
        """An update that came to nothing counts as one."""
        self._tell(updates=1)


def end_with_parent() -> None:
    """End this process as soon as standard input closes."""

    def watch() -> None:
        while os.read(0, 1):  # unbuffered: a buffer's lock would be held while the interpreter ends
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_cell(folder: Path, listener: Told) -> None:
    """Run the configuration in ``cell.yaml``, going on from a checkpoint that the same source has made.

    A run that diverges, so that no client sends a valid update any more, writes ``ended.json`` and is finished too.

    Raises:
        FedMLLMError: as ``fs-fedmllm run`` would say it.
    """
    from fs_fedmllm.runs.checkpoint import remove_checkpoint
    from fs_fedmllm.runs.simulation import run

    started = time.perf_counter()
    config = schema.load(folder / CONFIG)
    maker = {"version": VERSION, "commit": commit(), "config_sha256": schema.config_digest(config)}
    text = (json.dumps(maker, indent=2) + "\n").encode()
    record = folder / MADE_BY
    if not record.is_file() or record.read_bytes() != text:
        remove_checkpoint(folder / "checkpoint")  # a run is of one source, from its first round to its last
        write_atomically(record, text)
    try:
        run(config, listener=listener, started=started)
    except UpdateError as error:
        # No client had a finite loss or update: that is a result, and the same every time.
        ended = maker | {"profile": config.fedmllm.profile, "seed": config.seed, "reason": str(error)}
        write_atomically(folder / ENDED, (json.dumps(ended, indent=2) + "\n").encode())
        remove_checkpoint(folder / "checkpoint")


def serve() -> int:
    """Run the cells whose folders standard input names, one after the other; say how each ended."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if AHEAD in sys.argv[1:]:
        import_module("fs_fedmllm.runs.simulation")
    while folder := _line():
        process = os.fork()
        if not process:
            os._exit(_cell(Path(folder), told))
        _, status = os.waitpid(process, 0)
        told.write(json.dumps({"ended": os.waitstatus_to_exitcode(status)}) + "\n")
        told.flush()
    return 0


def _line() -> str:
    """A line of standard input, read without a buffer: cells watch the same pipe for its end."""
    read = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        read += byte
    return os.fsdecode(read)


def _cell(folder: Path, told: Any) -> int:
    """The life of a cell's own process; returns its exit status."""
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    end_with_parent()
    try:
        # A predecessor, whose sweep was killed, is about to end.
        with locked(folder / LOCK, advice="Another sweep runs this cell; wait for it.", patience=_PATIENCE):
            if not is_finished(folder):
                run_cell(folder, Told(told))
    except FedMLLMError as error:
        print(f"fs-fedmllm: {error}", file=sys.stderr, flush=True)
        return 2
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the sweep is gone
        sys.exit(serve())
    os._exit(1)
