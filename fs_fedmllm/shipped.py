"""Files that ship with the package, by path or by name."""

from __future__ import annotations

from pathlib import Path

from fs_fedmllm.errors import ConfigError


def find_shipped(name: str, folder: str, what: str) -> Path:
    """A .yaml by path, or one that ships with the package by name.

    Args:
        name: what the user wrote: a path, ``<folder>/<name>.yaml`` or a bare name.
        folder: ``configs`` or ``tables``.
        what: its kind, for the message.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return path
    package = Path(__file__).resolve().parent
    wanted = Path(*[part for part in path.parts if part != folder]).with_suffix(".yaml")
    for shipped in (package / folder, package.parent / folder):
        if (shipped / wanted).is_file():
            return shipped / wanted
    raise ConfigError(f"No {what} {name!r}: neither a file here nor one that ships with fs-fedmllm.")


def find_config(name: str) -> Path:
    """A configuration by path, or one that ships with the package by name (``configs/cross_i3t7.yaml``).

    Raises:
        ConfigError: there is no such file.
    """
    return find_shipped(name, "configs", "configuration")
