"""The one way into an image file: only real images, only of a sane size; :class:`ImageFolder` says which file.

Every reader goes through this module. Nothing is unpickled or executed: only the raster formats
of ``FORMATS`` are tried (Pillow would hand PostScript to an external interpreter), and DICOM and HEIC by their extras.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fs_fedmllm.data import pixels
from fs_fedmllm.data.dicom import SUFFIXES, DicomImage, is_dicom
from fs_fedmllm.data.findings import RowError
from fs_fedmllm.data.heif import is_heif, open_heif
from fs_fedmllm.data.image_paths import ImageFolder as ImageFolder  # readers of other packages find it here
from fs_fedmllm.data.pixels import UnusablePixels, has_more_frames, to_rgb
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.untrusted import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

#: Largest image in pixels (8192 x 8192; 192 MiB as RGB). A file of a few kB can declare far more.
MAX_PIXELS = 2**26
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
#: Bytes of a file's beginning that tell what it is.
HEAD = 256
LFS_MARK = b"version https://git-lfs.github.com/spec/"


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that begins so is the stand-in that Git LFS leaves when the file was not downloaded."""
    return head.startswith(LFS_MARK)


def lfs_error(where: str, path: str) -> RowError:
    """The error for a file that Git LFS has not downloaded."""
    return RowError(
        where, f"{path} is a Git LFS pointer, not the file itself.", "Run 'git lfs pull' where it came from."
    )


@contextmanager
def _opened(path: str, where: str) -> Iterator[Any]:
    """The image with its header read and checked, its pixels not yet decoded."""
    from PIL import Image as pil
    from PIL import UnidentifiedImageError

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise RowError(where, f"the image {path} is not a regular file.", "Name an image file.")
        stream = open_regular(path)
    except FileNotFoundError as error:
        raise RowError(where, f"the image {path} does not exist.", "Restore it, or correct the row.") from error
    except OSError as error:
        raise RowError(
            where, f"the image {path} cannot be read: {error.strerror}.", "Check its permissions."
        ) from error
    with stream:
        head = stream.read(HEAD)
        if is_lfs_pointer(head):
            raise lfs_error(where, path)
        stream.seek(0)
        try:
            if is_dicom(head):
                image: Any = DicomImage(stream, path)
            else:
                image = open_heif(stream, path) if is_heif(head) else pil.open(stream, formats=FORMATS)
        except ConfigError as error:  # an extra is missing
            said, _, remedy = str(error).partition(": ")
            raise RowError(where, f"{said}.", remedy) from error
        except pil.DecompressionBombError as error:
            raise _bomb(where, path, "more") from error
        except UnidentifiedImageError as error:
            if path.lower().endswith(SUFFIXES):
                problem = f"{path} is called as DICOM files are, and does not begin as they do."
                remedy = "Write it with its preamble and file meta information, such as with dcmtk's dcmconv."
                raise RowError(where, problem, remedy) from error
            known = ", ".join((*FORMATS, "DICOM (extra dicom)", "HEIC (extra heif)"))
            raise RowError(where, f"{path} is not an image.", f"Replace it; formats are {known}.") from error
        except Exception as error:  # a parser that is fed a hostile file may raise anything
            raise _broken(where, path, error) from error
        with contextlib.nullcontext() if isinstance(image, DicomImage) else image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _bomb(where, path, f"{width:,} x {height:,}")
            yield image


def _bomb(where: str, path: str, size: str) -> RowError:
    problem = f"the image {path} declares {size} pixels; at most {MAX_PIXELS:,} are opened (decompression bomb)."
    return RowError(where, problem, "Scale it down if it is genuine, or remove the row.")


def _broken(where: str, path: str, error: Exception) -> RowError:
    if isinstance(error, UnusablePixels):
        return RowError(where, f"the image {path} cannot be used: {error.problem}.", error.remedy)
    problem = f"the image {path} is truncated or damaged ({type(error).__name__}: {error})."
    return RowError(where, problem, "Download or copy the file again.")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an image file.

    Attributes:
        size: width and height in pixels, as the file's header says.
        more_frames: whether it holds frames or pages after the first, which are not used.
    """

    size: tuple[int, int]
    more_frames: bool


def open_image(path: str, where: str = "") -> Image:
    """Decode an image to the RGB picture that a person sees (see :mod:`fs_fedmllm.data.pixels`), its first frame.

    Args:
        path: as ``ImageFolder.resolve`` gave it.
        where: ``file:line`` of the row, for the message.

    Raises:
        DataError: a Git LFS pointer, not an image, damaged, or larger than ``MAX_PIXELS``.
    """
    where = where or path
    with _opened(path, where) as image:
        if has_more_frames(image):
            _say_frames(path)
        return _decoded(image, path, where)


def _decoded(image: Any, path: str, where: str) -> Image:
    try:
        return image.picture() if isinstance(image, DicomImage) else to_rgb(image)
    except Exception as error:  # as above
        raise _broken(where, path, error) from error


#: Empty until the first file of several frames was opened, so that a run says it once.
_said: list[str] = []


def _say_frames(path: str) -> None:
    if not _said:
        _said.append(path)
        logger.warning(
            "%s holds several frames; the first is used, and so for every such file (data check counts them).", path
        )


def image_bytes(path: str, where: str = "") -> bytes:
    """The file of an image for a reader that knows no more than Pillow: what it decodes there is what we see here.

    A plain RGB picture is its own file; any other (turned by EXIF, transparent, deep, grey, of several frames) is
    written as PNG.

    Args:
        path: as ``ImageFolder.resolve`` gave it.
        where: ``file:line`` of the row, for the message.

    Raises:
        DataError: as ``open_image``.
    """
    where = where or path
    with _opened(path, where) as image:
        plain = (
            image.format in ("JPEG", "PNG", "WEBP")
            and image.mode == "RGB"
            and "transparency" not in image.info
            and not has_more_frames(image)
        )
        picture = _decoded(image, path, where)
        if plain and picture.size == image.size and picture.tobytes() == image.tobytes():
            with open_regular(path) as stream:
                return stream.read()
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def look_at_image(path: str, where: str = "", *, decode: bool = True) -> Facts:
    """Read an image, whole or its header only.

    Raises:
        DataError: as ``open_image``; without ``decode`` damaged pixels go unseen.
    """
    where = where or path
    with _opened(path, where) as image:
        facts = Facts(image.size, has_more_frames(image))
        if decode:
            _decoded(image, path, where)
        return facts


def check_image(path: str, where: str = "") -> tuple[int, int]:
    """Read the header only: width and height in pixels.

    Raises:
        DataError: as ``open_image``, except that damaged pixels go unseen.
    """
    with _opened(path, where or path) as image:
        return image.size


def is_image(path: str) -> bool:
    """Whether a file begins as images do that are read, some of them with an extra.

    Args:
        path: as ``ImageFolder.resolve`` gave it.
    """
    try:
        with open_regular(path) as stream:
            head = stream.read(HEAD)
        if not (is_dicom(head) or is_heif(head)):
            check_image(path)
    except (OSError, RowError):
        return False
    return True


def image_sha256(path: str) -> str:
    """The sha256 of the file's bytes, in hexadecimal."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def pixels_key(path: str) -> str:
    """What decides an image's pixels, as a key for what is computed from them: how files are read, and its bytes."""
    return f"{pixels.DECODING}:{image_sha256(path)}"
