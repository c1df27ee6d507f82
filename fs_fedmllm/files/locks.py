"""One process at a time in a folder: a lock that the system drops when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from fs_fedmllm.errors import LockedError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_held: set[int] = set()


def _forget() -> None:
    """In a forked process: it may outlive its parent, whose lock must go with the parent."""
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def try_lock(handle: int) -> bool:
    """Lock an open file for this process; False if another holds it.

    Raises:
        OSError: the file's system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


class Lock:
    """A folder's lock, held until :meth:`release` or the end of the process.

    Args:
        file: of the lock; made if it is not there, and removed with the lock. One that a killed process left is free.
        needed: why the run cannot do without a lock; empty if it can, with a warning where there are none.
        advice: what to do while another process has it.
        patience: seconds to wait for a process that is about to end.

    Raises:
        LockedError: another process holds it, or there are no locks and one is needed.
        OSError: the file cannot be made.
    """

    def __init__(self, file: Path, *, needed: str = "", advice: str = "", patience: float = 0.0):
        self.file = file
        self._handle = -1
        until = time.monotonic() + patience
        while self._handle < 0:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not try_lock(handle):
                    if time.monotonic() < until:
                        time.sleep(0.1)
                        continue
                    raise LockedError(f"{file.parent} is in use by {_holder(handle)}. {advice}".rstrip())
                if not _is(handle, file):  # whoever had it has removed the file meanwhile
                    continue
                self._handle, handle = handle, -1
            except OSError as error:
                if needed:
                    raise LockedError(
                        f"{file.parent} cannot be locked ({error.strerror}), and {needed} Put it on another disk."
                    ) from error
                logger.warning(
                    "%s cannot be locked (%s): make sure that no other process uses it.", file.parent, error.strerror
                )
                return
            finally:
                if handle >= 0:
                    os.close(handle)
        _held.add(self._handle)
        said = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, (json.dumps(said) + "\n").encode(), 0)

    def release(self) -> None:
        """Let go of the folder."""
        if self._handle < 0 or self._handle not in _held:  # a fork's copy has nothing to let go of
            return
        with contextlib.suppress(OSError):
            self.file.unlink()
        _held.discard(self._handle)
        os.close(self._handle)
        self._handle = -1


def is_held(file: Path) -> bool:
    """Whether another process holds a lock, or one that nobody can ask, on another machine, may do so.

    A lock whose process is gone is left alone, so that nobody who wants it now finds it taken by this question.

    Args:
        file: of the lock; it need not be there.
    """
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        said = json.loads(os.pread(handle, 1000, 0))
        if str(said["host"]) == socket.gethostname() and not _is_alive(int(said["pid"])):
            return False
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _TAKEN
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    finally:
        os.close(handle)
    return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def locked(file: Path, *, advice: str = "", patience: float = 0.0) -> Iterator[None]:
    """Hold a lock for the length of a block; arguments as for :class:`Lock`."""
    lock = Lock(file, advice=advice, patience=patience)
    try:
        yield
    finally:
        lock.release()


def _is(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    try:
        said = json.loads(os.pread(handle, 1000, 0))
        return f"another process ({int(said['pid'])} on {said['host']!s:.80}, since {said['since']!s:.40})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
