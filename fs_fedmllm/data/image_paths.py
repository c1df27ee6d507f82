"""Where a row's image lies: a path that it names, found inside the data root and nowhere else.

Readers ask an :class:`ImageFolder`; what is in the file is the business of :mod:`fs_fedmllm.data.images`.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from urllib.parse import unquote

from fs_fedmllm.data.findings import RowError

_LEAVES = "Put the file inside the data folder and name it relative to that folder."
_LINK = "Copy the file into the data folder, or point the root at the folder that holds both the link and its target."


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
        if kind is None and (there := self._with_slashes(relative, where)) is not None:
            return self.resolve(there, where)
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

    def _with_slashes(self, relative: object, where: str) -> str | None:
        """A path of Windows with slashes, where a file is there; None for any other."""
        if not isinstance(relative, str) or "\\" not in relative or _DRIVE.match(relative):
            return None
        there = relative.replace("\\", "/")
        folder, name = os.path.split(self._lexical(there, where))
        return there if name in self._list(folder, where) else None

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
_DRIVE = re.compile(r"^(?:[A-Za-z]:[\\/]*|[\\/]+)")
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
