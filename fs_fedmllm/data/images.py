"""The one way to an image file: only inside the data root, only real images, only of a sane size.

Every reader goes through this module. Nothing is unpickled or executed: only the raster formats
of ``FORMATS`` are tried (Pillow would hand PostScript to an external interpreter), and DICOM and HEIC by their extras.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from fs_fedmllm.data import pixels
from fs_fedmllm.data.dicom import SUFFIXES, DicomImage, is_dicom
from fs_fedmllm.data.findings import RowError
from fs_fedmllm.data.heif import is_heif, open_heif
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

_LEAVES = "Put the file inside the data folder and name it relative to that folder."
_LINK = "Copy the file into the data folder, or point the root at the folder that holds both the link and its target."


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that begins so is the stand-in that Git LFS leaves when the file was not downloaded."""
    return head.startswith(LFS_MARK)


def lfs_error(where: str, path: str) -> RowError:
    """The error for a file that Git LFS has not downloaded."""
    return RowError(
        where, f"{path} is a Git LFS pointer, not the file itself.", "Run 'git lfs pull' where it came from."
    )


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


class ImageFolder:
    """The images under one root.

    Each folder is listed once, so that thousands of rows cost a few listings and not thousands of
    file-system calls. Make a new object to see files that were added since.

    Args:
        root: the data root.
        required: whether a missing file is an error; if not, its path is still checked.
        follow: whether symbolic links may lead out of the root; None where the user cannot say so.
    """

    def __init__(self, root: str | os.PathLike[str], required: bool = True, follow: bool | None = None) -> None:
        self.root = os.path.abspath(root)
        self.required = required
        self._follow = follow
        self._real = os.path.realpath(self.root)
        self._listed: dict[str, dict[str, str]] = {}
        self._regular: dict[str, tuple[str, dict[str, str]]] = {}

    def resolve(self, relative: object, where: str) -> str:
        """The absolute path of an image that a row names.

        Raises:
            DataError: the path leaves the root, is a link out of it, or there is no such file.
        """
        if isinstance(relative, str):
            # A regular file in a folder that has been checked: the listing holds plain names only.
            name = relative.rpartition("/")[2]
            head = relative[: len(relative) - len(name)]
            folder, kinds = self._regular.get(head, ("", {}))
            if kinds.get(name) == "file":
                return folder + name
        full = self._lexical(relative, where)
        folder, name = os.path.split(full)
        kinds = self._list(folder, where)
        if isinstance(relative, str) and relative.endswith(name):
            self._regular[relative[: len(relative) - len(name)]] = (folder + os.sep, kinds)
        kind = kinds.get(name)
        if kind is None:
            if self.required:
                if isinstance(relative, str) and "\\" in relative:
                    there = _DRIVE.sub("", relative).replace("\\", "/")
                    remedy = f"Write it with slashes, {there}, relative to the data folder."
                    if there != relative.replace("\\", "/"):
                        remedy = f"Put the file inside the data folder and name it from there, with slashes ({there})."
                    raise RowError(where, f"the image path {relative!r} has backslashes (Windows).", remedy)
                raise RowError(where, f"the image {full} does not exist.", _missing_remedy(name, kinds))
        elif kind == "link":
            target = os.path.realpath(full)
            if not self._follow and not _inside(target, self._real):
                raise self._leads_out(f"the image {full}", where)
            if not os.path.isfile(target):
                raise RowError(where, f"the image {full} is a symbolic link to no file.", "Restore the file it names.")
        elif kind != "file":
            raise RowError(where, f"the image {full} is not a regular file.", "Name an image file.")
        return full

    def _leads_out(self, what: str, where: str) -> RowError:
        remedy = _LINK if self._follow is None else f"{_LINK[:-1]}, or say fedmllm.data: {{follow_links: true}}."
        return RowError(where, f"{what} is a symbolic link out of the data folder.", remedy)

    def _lexical(self, relative: object, where: str) -> str:
        if (foreign := _foreign(relative)) is not None:
            raise RowError(where, *foreign)
        if not isinstance(relative, str) or not relative.strip() or "\0" in relative:
            said = relative if isinstance(relative, str | int | float) else type(relative).__name__
            raise RowError(where, f"the image path {said!r} is not a path.", "Give a path relative to the root.")
        # '..' is taken out as text: what is returned holds none, so no link can change its meaning.
        full = os.path.normpath(os.path.join(self.root, relative))
        if os.path.isabs(relative) and _inside(full, self._real):
            full = os.path.join(self.root, os.path.relpath(full, self._real))
        if not _inside(full, self.root):
            raise RowError(where, f"the image path {relative!r} leaves the data folder {self.root}.", _LEAVES)
        return full

    def _list(self, folder: str, where: str) -> dict[str, str]:
        listed = self._listed.get(folder)
        if listed is None:
            real = os.path.realpath(folder)
            if not self._follow and real != self._real and not _inside(real, self._real):
                raise self._leads_out(f"the folder {folder}", where)
            try:
                with os.scandir(folder) as entries:
                    listed = {entry.name: _kind(entry) for entry in entries}
            except (FileNotFoundError, NotADirectoryError):
                listed = {}
            except OSError as error:
                raise RowError(where, f"the folder {folder} cannot be read: {error.strerror}.", "") from error
            self._listed[folder] = listed
        return listed


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{200,}={0,2}\s*")
#: How base64 of a PNG, JPEG, GIF, WebP, TIFF and BMP begins.
_ENCODED = re.compile(r"(iVBORw0KGgo|/9j/|R0lGOD|UklGR|SUkqA|TU0AK|Qk)[A-Za-z0-9+/_\-\s]{40,}={0,2}\s*")
_DRIVE = re.compile(r"^([A-Za-z]:)?[\\/]+")
_AS_FILE = "Write it to a file in the data folder, and give the file's path."


def _foreign(value: object) -> tuple[str, str] | None:
    """Problem and remedy of what people give in the place of a path; None for what may be one."""
    if isinstance(value, bytes | bytearray | memoryview):
        return "the image is raw bytes, where a path is expected.", _AS_FILE
    if not isinstance(value, str):
        return None
    short = value if len(value) <= 120 else value[:120] + "..."
    if _URL.match(value):
        remedy = "Nothing is downloaded while data is read: download it into the data folder, and give its path there."
        if value.lower().startswith("file:"):
            remedy = "Give the path alone, relative to the data folder."
        return f"the image {short!r} is a URL.", remedy
    if value[:5].lower() == "data:":
        return f"the image is a data: URI ({value[:30]}...).", f"Decode it. {_AS_FILE}"
    if _BASE64.fullmatch(value) or _ENCODED.fullmatch(value):
        return f"the image is text that looks like base64 ({value[:20]}...), not a path.", f"Decode it. {_AS_FILE}"
    if value.startswith("~"):
        return f"the image path {short!r} begins with ~, which is not expanded.", _LEAVES
    return None


@functools.lru_cache(maxsize=1 << 16)
def _plain(name: str) -> str:
    """A name without what often gets lost on its way: case, the composition of accents, blanks around it."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def _missing_remedy(name: str, kinds: dict[str, str]) -> str:
    wanted = {_plain(name), _plain(unquote(name))}  # a URL's name has %20 for a space
    stems = {os.path.splitext(plain)[0] for plain in wanted}
    for other in kinds:
        plain = _plain(other)
        if plain in wanted or os.path.splitext(plain)[0] in stems:
            spelt = ""
            if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name):
                spelt = " (its accents are written otherwise: Unicode NFC and NFD)"
            return f"There is {other!r} beside it{spelt}: give the name as it is written there."
    return "Unpack the images of the archive to where the row expects them, or correct the row."


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


def image_sha256(path: str) -> str:
    """The sha256 of the file's bytes, in hexadecimal."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def pixels_key(path: str) -> str:
    """What decides an image's pixels, as a key for what is computed from them: how files are read, and its bytes."""
    return f"{pixels.DECODING}:{image_sha256(path)}"
