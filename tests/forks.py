"""Processes without the seconds that imports take: forks of an interpreter that has imported and loaded what is heavy.

``Forks(folder).run(["-m", "fs_fedmllm", "run", ...], cwd, env)`` stands for ``subprocess.run`` of this interpreter
with these words, and ``start`` for ``Popen``: another process with another id, its own folder, environment, files and
signals. What an interpreter reads before it runs a program (``PYTHONHASHSEED``, path files) is that of the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

#: The engine, and what FederatedScope imports of others; none of FederatedScope itself.
HEAVY = ("fs_fedmllm.runs.simulation", "torch.utils.tensorboard", "transformers.models.llava.modeling_llava", "peft",
         "pandas", "sklearn.metrics", "sklearn.datasets", "scipy.stats", "grpc", "torchvision")  # fmt: skip


@dataclass
class Forked:
    """A started program; as much of ``subprocess.Popen`` as tests use."""

    pid: int
    _status: Path

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return int(self._status.read_text()) if self._status.exists() else None

    def wait(self, timeout: float = 600.0) -> int:
        """The exit code, once there is one; so long, only a program that hangs takes."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


class Forks:
    """Starts programs in one interpreter's forks; it is started with the first of them, and ends with the last user.

    Args:
        folder: where its users meet: the workers of a test run need one such interpreter together.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forks", ignore_cleanup_errors=True)
        self._place = folder / "forks"
        if len(os.fsencode(self._place)) > 100:  # more than an address may have
            self._folder = tempfile.TemporaryDirectory(prefix="forks", dir="/tmp", ignore_cleanup_errors=True)
            self._place = Path(self._folder.name) / "forks"
        self._line: socket.socket | None = None
        self._answers: TextIO | None = None
        self._count = 0

    def start(
        self, arguments: Sequence[object], cwd: Path, env: Mapping[str, str], out: Path | None = None,
        err: Path | None = None,
    ) -> Forked:  # fmt: skip
        """Start ``python ARGUMENTS``; its output is appended to the files, which may be one."""
        self._count += 1
        status = Path(self._folder.name) / str(self._count)
        told = {"words": list(map(str, arguments)), "cwd": str(cwd), "env": dict(env), "status": str(status),
                "out": str(out or os.devnull), "err": str(err or out or os.devnull)}  # fmt: skip
        line = (json.dumps(told) + "\n").encode()
        answer = ""
        for _ in range(3):  # one that another worker leaves as its last user is about to end
            if self._line is None:
                self._line = self._meet(env)
                self._answers = self._line.makefile("r")
            assert self._answers is not None
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._line.sendall(line)
                answer = self._answers.readline()
            if answer:
                return Forked(int(answer), status)
            self._part()
        raise RuntimeError("the interpreter whose forks are programs ended")

    def _meet(self, env: Mapping[str, str]) -> socket.socket:
        """Call the interpreter; whoever finds none starts it."""
        made = socket.socket(socket.AF_UNIX)
        with self._place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if made.connect_ex(str(self._place)):
                self._place.unlink(missing_ok=True)
                own = {**env, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
                command = [sys.executable, __file__, str(self._place)]
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=own, check=True)
                made.connect(str(self._place))
        return made

    def _part(self) -> None:
        if self._line is not None and self._answers is not None:
            self._answers.close()
            self._line.close()
        self._line = self._answers = None

    def run(
        self, arguments: Sequence[object], cwd: Path, env: Mapping[str, str], timeout: float = 600.0
    ) -> subprocess.CompletedProcess[str]:
        """Start it and wait for its end."""
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            code = self.start(arguments, cwd, env, out, err).wait(timeout)
            return subprocess.CompletedProcess(list(arguments), code, out.read_text(), err.read_text())

    def close(self) -> None:
        """Leave the interpreter; what it started goes on."""
        self._part()
        self._folder.cleanup()


def serve(place: str) -> None:
    """The interpreter: lines of JSON in, process ids out, until its last user has left.

    Args:
        place: address; whoever started this process can call there as soon as it ends.
    """
    import importlib

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(64)
    if os.fork():
        os._exit(0)
    own = sys.path.pop(0)  # the folder of this file
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # modules stay shared, and no fork's collections of garbage walk through them; the base is counted
    with contextlib.suppress(ImportError):
        _load_base()
    assert own not in sys.path
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    users: dict[socket.socket, TextIO] = {}
    while True:
        for ready in select.select([listener, *users], [], [])[0]:
            if ready is listener:
                user = listener.accept()[0]
                users[user] = user.makefile("r")
            elif line := users[ready].readline():  # an answer is awaited before the next line is sent
                if not os.fork():
                    for other in (listener, *(user for user in users if user is not ready)):
                        os.close(other.fileno())  # its file would keep it open
                    _watch(json.loads(line), ready)
            else:
                users.pop(ready).close()
                ready.close()
                if not users:
                    os._exit(0)


def _load_base() -> None:
    """The embedded model, as the presets have it: half of what a short run takes. A fork finds it loaded."""
    from fs_fedmllm.config import ModelOptions
    from fs_fedmllm.models.loader import load_mllm

    load_mllm(ModelOptions())


def _watch(told: dict, user: socket.socket) -> None:
    """Start the program, say its id, and write its exit code when it has one."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if not child:
        os.close(user.fileno())
        _become(told)
    user.sendall(f"{child}\n".encode())
    os.close(user.fileno())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    written = Path(told["status"] + ".tmp")
    with contextlib.suppress(FileNotFoundError):  # whoever would ask has left
        written.write_text(str(code))
        written.rename(told["status"])
    os._exit(0)


def _become(told: dict) -> None:
    """Be what ``python WORDS`` is."""
    import atexit
    import threading

    code = 1
    try:
        for name, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(told[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(told["cwd"])
        os.environ.clear()
        os.environ.update(told["env"])
        sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
        code = _program(told["words"])
    except BaseException as error:
        code = _told(error)
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _told(error: BaseException) -> int:
    """Say it as the interpreter does, with the program's own hook if it has set one; the exit code."""
    if isinstance(error, SystemExit):
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit as ended:
        return _told(ended)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _program(words: list[str]) -> int:
    import runpy
    import types

    safe = words[0] == "-P"
    words = words[safe:]
    first = words[1] if words[0] in ("-c", "-m") else words[0]
    folder = "" if words[0] == "-c" else os.getcwd() if words[0] == "-m" else str(Path(first).resolve().parent)
    named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = ([] if safe else [folder]) + named
    if words[0] in ("-c", "-m"):
        sys.argv = [words[0], *words[2:]]
        if words[0] == "-m":
            runpy.run_module(first, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(first, "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        sys.argv = list(words)
        runpy.run_path(first, run_name="__main__")
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
