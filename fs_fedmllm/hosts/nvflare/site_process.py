"""A site's clients in a process of their own, and the pipe to it.

``python -m fs_fedmllm.hosts.nvflare.site_process FD`` is started by NVFlare's client process (:class:`SiteProcess`). A
request is a message in our own frames; its answer is another. The pipe closes with the process that made it, and the
site ends after the update that it is at. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fs_fedmllm.distributed.contracts import Contract
from fs_fedmllm.distributed.frames import decode, encode
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.errors import FedMLLMError, HostError
from fs_fedmllm.hosts.nvflare.told import last_told, may_read, tell

logger = logging.getLogger("fs_fedmllm.nvflare")

#: The other end is ours: an update that is not finite gets through, to be refused by name where it is used.
_OURS = Contract(finite=False)
#: What a request begins with: the configuration, once.
_BEGIN = "begin"


def _write(pipe: Connection, message: Message) -> None:
    for chunk in encode(message):
        pipe.send_bytes(chunk)
    pipe.send_bytes(b"")  # the end of a message


def _read(pipe: Connection) -> Message:
    return decode(iter(pipe.recv_bytes, b""), lambda kind, header: _OURS)


class SiteDied(HostError):
    """The process ended in the middle; the message says how."""


@dataclass(frozen=True)
class Spawned:
    """A process that has been told nothing yet, and the pipe to it; it ends when the pipe is closed."""

    process: subprocess.Popen[bytes]
    pipe: Connection

    def close(self) -> None:
        """End it; it is at nothing."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()


def spawn() -> Spawned:
    """Start a process: it imports what it needs, and then waits to hear of which site it is."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
        )
    return Spawned(process, Connection(ours.detach()))


class SiteProcess:
    """The parent's end. A process is started at the first request, and again after one has died.

    Args:
        settings: the site's configuration, nested.
        workspace: of the site, with its startup kit.
        site: its name.
        sites: site -> ids of its clients.
        label: name of the configuration.
        spawned: a process that is there already, to be the first.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        workspace: Path,
        site: str,
        sites: Mapping[str, Sequence[int]],
        label: str,
        spawned: Spawned | None = None,
    ):
        header = {
            "settings": dict(settings),
            "workspace": str(workspace),
            "site": site,
            "sites": sites,
            "label": label,
        }
        self._begin = Message(_BEGIN, header)
        self._spawned = spawned
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def start(self) -> None:
        """Start the process, if it does not run; it loads while the caller does something else."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        spawned, self._spawned = self._spawned or spawn(), None
        self._process, self._pipe = spawned.process, spawned.pipe
        with self._telling():
            _write(self._pipe, self._begin)

    def exchange(self, message: Message, stopped: Callable[[], bool] = lambda: False) -> Message:
        """Ask, and wait for the answer.

        Args:
            message: the request.
            stopped: asked twice a second whether nobody wants the answer any more.

        Raises:
            SiteDied: the process ended before it answered, or nobody wants the answer.
        """
        self.start()
        assert self._pipe is not None
        with self._telling():
            _write(self._pipe, message)
            while not self._pipe.poll(0.5):
                if stopped():
                    self.close(at_once=True)
                    raise SiteDied("the job was aborted")
            return _read(self._pipe)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            assert self._process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            code = self._process.returncode
            self.close(at_once=True)
            how = f"signal {-code}, out of memory?" if code and code < 0 else f"exit code {code}"
            raise SiteDied(f"the site's training process ended ({how})") from error

    def close(self, *, at_once: bool = False) -> None:
        """End the process.

        Args:
            at_once: do not let it finish its update.
        """
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            if at_once:
                self._process.kill()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


# In the process -----------------------------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """A site's life: an answer to every request, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which closes the pipe
    pipe = Connection(descriptor)
    # torch, transformers, PEFT: most of what a start takes. What fails is met again below, where it is told.
    with contextlib.suppress(Exception):
        importlib.import_module("fs_fedmllm.hosts.nvflare.site")
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        begin = _read(pipe)
        try:
            _serve(pipe, begin)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            logger.error("%s", error, exc_info=not isinstance(error, FedMLLMError))
            workspace = Path(begin.header["workspace"])
            with contextlib.suppress(FedMLLMError, OSError):
                tell(workspace, {**last_told(workspace), "error": str(error) or type(error).__name__})
            while True:  # whatever is asked, there is one answer
                _read(pipe)
                _write(pipe, failure(may_read(error)))


def _serve(pipe: Connection, begin: Message) -> None:
    from fs_fedmllm.config import from_mapping
    from fs_fedmllm.hosts.nvflare.certificates import identity_of
    from fs_fedmllm.hosts.nvflare.site import opened

    header = begin.header
    workspace, name, sites = Path(header["workspace"]), header["site"], header["sites"]
    identities = {client: identity_of(workspace, client, name, sites) for client in sites[name]}
    with opened(from_mapping(header["settings"]), identities, header["label"]) as site:
        while True:
            message = _read(pipe)
            try:
                answer = site.answer(message)
            except Exception as error:
                logger.error("%s", error, exc_info=not isinstance(error, FedMLLMError))
                answer = failure(f"{may_read(error)}; the site's own run.log says more")
            _write(pipe, answer)


def failure(says: str) -> Message:
    """That there is no answer, and what of the reason may leave the site."""
    return Message("failed", {"failed": says})


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(int(sys.argv[1]))
