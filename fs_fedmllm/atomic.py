"""Files that are either the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from fs_fedmllm.errors import StorageError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write beside and rename, so that a reader or a crash never sees half a file.

    Args:
        path: the file.
        data: its new content.
        durable: also wait until the disk has it; without, the machine may lose the new file with its power.

    Raises:
        StorageError: there is no room for it (disk, quota, largest file); the older file is as it was.
        OSError: any other trouble with the path, such as a missing permission.
    """
    try:
        _write(path, data, durable)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StorageError(
            f"{path} ({len(data):,} bytes) cannot be written: {error.strerror}. What was there stands; make room and "
            "start the same command again."
        ) from error


def _write(path: Path, data: bytes, durable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
