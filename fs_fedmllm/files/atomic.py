"""Files that are either the old one or the new one, never half of one; who may read them; what a killed run left.

A file that is to be shared has the mode that the umask gives every new file. A private one (a key, a patient's rows, a
client's state) is its owner's alone whatever the umask is, and so is its folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fs_fedmllm.errors import StorageError
from fs_fedmllm.files.locks import try_lock

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Temporary files: ours end in .part; releases before wrote those of a run's state without an ending.
_TORN = re.compile(
    r"\..+\.[a-z0-9_]{8}\.part"
    r"|\.(state\.json|metrics\.jsonl|results\.json|(round|client|answer|adapter_model)[\w-]*\.safetensors)\.[a-z0-9_]{8}"
)
SHARED, PRIVATE = 0o666, 0o600


def write_atomically(path: Path, data: bytes, *, durable: bool = True, private: bool = False) -> None:
    """Write beside and rename, so that a reader or a crash never sees half a file.

    Args:
        path: the file.
        data: its new content.
        durable: also wait until the disk has it; without, the machine may lose the new file with its power.
        private: for its owner alone, as is a folder that is made for it; otherwise the umask decides.

    Raises:
        StorageError: there is no room for it (disk, quota, largest file); the older file is as it was.
        OSError: any other trouble with the path, such as a missing permission.
    """
    try:
        _write(path, data, durable, private)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StorageError(
            f"{path} ({len(data):,} bytes) cannot be written: {error.strerror}. What was there stands; make room and "
            "start the same command again."
        ) from error


def _write(path: Path, data: bytes, durable: bool, private: bool) -> None:
    if private:
        private_folder(path.parent)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path, private=private) as temporary, open(temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        if durable:
            os.fsync(stream.fileno())


@contextlib.contextmanager
def beside(path: Path, *, private: bool = False) -> Iterator[Path]:
    """An empty file beside ``path`` to write to; it takes the path's place when the block ends without an error.

    Args:
        path: where it ends up; its folder is there.
        private: as for :func:`write_atomically`.
    """
    # Open, and so locked, until it is in place: how others tell it from one that a killed process left.
    handle, temporary = _create(path, PRIVATE if private else SHARED)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _create(path: Path, mode: int) -> tuple[int, Path]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            # The system takes the umask off the mode, which no process can read without changing it.
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            continue
        with contextlib.suppress(OSError):  # no locks here: then nobody takes it for abandoned either
            try_lock(handle)
        if os.fstat(handle).st_nlink:
            return handle, temporary
        os.close(handle)  # somebody who tidies up was between the two


def private_folder(folder: Path) -> None:
    """Make a folder for its owner alone; one that is there is left as it is."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # another process was quicker
        folder.mkdir(mode=0o700)


def existing_part(folder: Path) -> Path:
    """What of a folder's path is there."""
    folder = folder.absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder


def unwritable(folder: Path) -> tuple[Path, str]:
    """What of a folder's path is there, and why nothing can be written there; empty where it can. Nothing is made."""
    existing = existing_part(folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return existing, ""
    except OSError as error:
        return existing, error.strerror or str(error)


def share(folder: Path) -> None:
    """Give every file in a folder the mode of a new one: libraries that write beside and rename keep others out."""
    handle, probe = _create(folder / "mode", SHARED)
    mode = os.fstat(handle).st_mode & 0o777
    os.close(handle)
    probe.unlink()
    for file in folder.iterdir():
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def remove_abandoned(folder: Path, name: str = "") -> int:
    """Remove temporary files of ours that no process holds any more; how many there were.

    For folders that others write to at the same time. Where there are no locks nothing is removed.

    Args:
        folder: only files directly in it are looked at.
        name: of the file whose temporary files are meant; empty means any.
    """
    wanted = re.compile(rf"\.{re.escape(name) if name else '.+'}\.[a-z0-9_]{{8}}\.part")
    removed = 0
    with contextlib.suppress(OSError):
        for file in [entry for entry in folder.iterdir() if wanted.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                handle = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if try_lock(handle):
                        file.unlink()
                        removed += 1
                finally:
                    os.close(handle)
    return removed


def remove_torn(*folders: Path) -> int:
    """Remove the temporary files that a killed process left; how many there were.

    Args:
        folders: of ours, which nobody else writes to at the moment; only files directly in them are looked at.
    """
    removed = 0
    for folder in folders:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for file in folder.iterdir():
                if _TORN.fullmatch(file.name) and file.is_file():
                    file.unlink(missing_ok=True)
                    removed += 1
    return removed
