"""Files that ship with the package, by path or by name."""

from __future__ import annotations

import importlib.metadata
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
    wanted = Path(*[part for part in path.parts if part != folder])
    for shipped in (package / folder, package.parent / folder) if wanted.name else ():
        wanted = wanted.with_suffix(".yaml")
        if (shipped / wanted).is_file():
            return shipped / wanted
    raise ConfigError(f"No {what} {name!r}: neither a file here nor one that ships with fs-fedmllm.")


def find_config(name: str) -> Path:
    """A configuration by path, or one that ships with the package by name (``configs/cross_i3t7.yaml``).

    Raises:
        ConfigError: there is no such file.
    """
    return find_shipped(name, "configs", "configuration")


def shipped_names(folder: str) -> list[str]:
    """Names, as :func:`find_shipped` takes them, of what ships in ``configs`` or ``tables``."""
    package = Path(__file__).resolve().parent
    found: set[str] = set()
    for shipped in (package / folder, package.parent / folder):
        found |= {f"{folder}/{path.relative_to(shipped).as_posix()}" for path in shipped.rglob("*.yaml")}
    return sorted(found)


def licence_text() -> str:
    """The text of the package's licence: of the installation, or of the checkout; empty where neither has it."""
    beside = Path(__file__).resolve().parent.parent / "LICENSE"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    try:
        files = importlib.metadata.files("fs-fedmllm") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    return next((file.read_text() for file in files if file.name == "LICENSE"), "")
