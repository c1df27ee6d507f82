"""Where the image files of a column lie: asked of the file system, in the data's folder and two levels below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from fs_fedmllm.data.image_paths import ImageFolder
from fs_fedmllm.data.images import is_image
from fs_fedmllm.errors import FedMLLMError

#: Values of a column that are looked for, and folders that are looked into.
_TRIED, _MOST_FOLDERS = 8, 200


def images_below(root: Path, values: Sequence[object], most: int = _MOST_FOLDERS) -> str | None:
    """The folder below the data root that image paths begin at; None if the images are nowhere there.

    Args:
        root: of the data.
        values: of the image column.
        most: folders that are looked into.
    """
    names = [value for value in values if isinstance(value, str) and "://" not in value][:_TRIED]
    if not names:
        return ""
    for folder in islice(_folders(root), most):
        if all(_is_file(folder, name) for name in names):
            return "" if folder == root else folder.relative_to(root).as_posix()
    return None


def are_images(root: Path, values: Sequence[str]) -> bool:
    """Whether values are paths of images, whatever their files are called: DICOM files often have no ending."""
    below = images_below(root, values) if values else None
    if below is None:
        return False
    try:
        return is_image(ImageFolder(root / below).resolve(values[0], "init"))
    except FedMLLMError:  # it leads out of the data's folder, or is no path
        return False


def _folders(root: Path) -> Iterator[Path]:
    """The data's folder, those in it and those in these; each level is listed when it is asked for."""
    yield root
    inner = _below(root)
    yield from inner
    for folder in inner:
        yield from _below(folder)


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:  # not for us
        return []


def _is_file(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file() or ("\\" in name and (folder / name.replace("\\", "/")).is_file())
    except (OSError, ValueError):  # a name that no file can have
        return False
