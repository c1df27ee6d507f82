"""Files of rows as a stream of bytes, packed with gzip or not, within bounds."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from fs_fedmllm.data.findings import RowError
from fs_fedmllm.files.untrusted import open_regular

#: A file may be read into so many bytes in any case, and beyond that into so many times its size.
SWOLLEN, RATIO = 256 << 20, 100
GZIP = ".gz"
#: Lines of a file; blank ones unpack from next to nothing and would be walked for an hour.
MAX_LINES = 20_000_000


def kind_of(path: Path) -> str:
    """The ending that says what a file holds, in lower case, without that of gzip: ``.jsonl`` of ``A.JSONL.gz``."""
    name = path.name.lower().removesuffix(GZIP)
    return os.path.splitext(name)[1]


def is_packed(path: Path) -> bool:
    """Whether a file's name says that it is packed with gzip."""
    return path.name.lower().endswith(GZIP)


def too_many_lines(path: Path) -> RowError:
    """The error for a file of more than ``MAX_LINES``."""
    return RowError(str(path), f"the file has more than {MAX_LINES:,} lines.", "Split it.")


def open_rows(path: Path) -> BinaryIO:
    """A file's bytes, unpacked where its name ends in ``.gz``.

    Raises:
        DataError: it cannot be read; or, while it is read, that it is damaged or unpacks into far more than a file of
            its size can mean.
    """
    try:
        stream = open_regular(path)
    except OSError as error:
        raise RowError(str(path), f"the file cannot be read: {error.strerror}.", "Check the path.") from error
    return io.BufferedReader(_Unpacked(path, stream)) if is_packed(path) else stream


class _Unpacked(io.RawIOBase):
    """What a gzip file holds; all that can be wrong with it is a ``RowError``."""

    def __init__(self, path: Path, stream: BinaryIO):
        self._path, self._stream = path, stream
        self._size = os.fstat(stream.fileno()).st_size
        self._left = self._most = max(SWOLLEN, RATIO * self._size)
        self._gzip = gzip.GzipFile(fileobj=stream)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._gzip.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            problem = f"the file is not a complete gzip file ({type(error).__name__})."
            raise RowError(str(self._path), problem, "Pack or download it again.") from error
        self._left -= len(data)
        if self._left < 0:
            problem = (
                f"it unpacks into more than {self._most:,} bytes, where the file has {self._size:,} "
                "(decompression bomb)."
            )
            raise RowError(str(self._path), problem, "Unpack it yourself if it is genuine, or remove it.")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        try:
            self._gzip.close()
            self._stream.close()
        finally:
            super().close()
