"""The plug into FederatedScope: one marked file that it imports when it starts, and its removal.

FederatedScope imports every file of ``federatedscope/contrib/configs/`` before it builds its global config and before
it loads its protobuf messages: early enough to register everything.  Nothing else in the checkout is touched.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fs_fedmllm.errors import HostError
from fs_fedmllm.files.atomic import beside
from fs_fedmllm.hosts.federatedscope import import_path
from fs_fedmllm.hosts.federatedscope.checkout import PACKAGE, find_federatedscope, require_checkout

__all__ = ["PlugStatus", "find_federatedscope", "plug", "status", "unplug"]

PLUG_FILE = "fedmllm_plug.py"
#: The start of the first line of every plug file that this or another version of fs-fedmllm wrote.
MARKER = "# fs-fedmllm plug"
#: FederatedScope imports its configs outside any ``try``: an error here would end every job, ours or not.
PLUG_SOURCE = f'''{MARKER}: written by `fs-fedmllm plug`, removed by `fs-fedmllm unplug`; do not edit.
"""Registers fs-fedmllm with FederatedScope."""
import logging

try:
    from fs_fedmllm.hosts.federatedscope.register import register_all
except ImportError as error:
    logging.getLogger(__name__).warning(
        "fs-fedmllm is plugged into this checkout but cannot be imported (%s). FederatedScope goes on without it;"
        " delete %s if fs-fedmllm is gone for good.", error, __file__)
else:
    register_all()
'''


@dataclass(frozen=True)
class PlugStatus:
    """How a checkout stands.

    Attributes:
        checkout: its absolute path.
        plugged: whether our plug file is there.
        current: whether that file is what this version writes.
        imported_from: the folder from which this environment imports FederatedScope; None if it cannot.
        path_file: our path file in site-packages, if it names this checkout.
        changed: whether this call wrote or removed anything.
        warnings: paragraphs for the user.
    """

    checkout: Path
    plugged: bool
    current: bool
    imported_from: Path | None
    path_file: Path | None
    changed: bool
    warnings: tuple[str, ...]

    def summary(self) -> str:
        """One fact a line, warnings last."""
        here = self.imported_from == self.checkout
        found = "this checkout" if here else str(self.imported_from or "nowhere: `import federatedscope` fails")
        lines = [
            f"checkout       {self.checkout}",
            f"plug           {'present' if self.plugged else 'absent'}"
            + (", of another version: plug again" if self.plugged and not self.current else ""),
            f"imported from  {found}" + (f" (through {self.path_file})" if here and self.path_file else ""),
        ]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def plug(checkout: str | Path) -> PlugStatus:
    """Plug fs-fedmllm into a checkout; doing it twice changes nothing.

    Raises:
        HostError: the folder is not FederatedScope, has a file of somebody else under our file's name, or cannot be
            written.
    """
    root = require_checkout(checkout)
    file = _plug_file(root)
    _refuse_foreign(file)
    changed = False
    if not file.is_file() or file.read_text(encoding="utf-8") != PLUG_SOURCE:
        with _host_error(f"{file} cannot be written", "Give yourself the right to write there, or copy the checkout."):
            _write(file, PLUG_SOURCE.encode())
        changed = True
    notes = []
    if import_path.imported_from() is None:
        try:
            import_path.require_free()
            _write(import_path.path_file(), import_path.path_file_content(root))
            changed = True
        except (OSError, ValueError) as error:
            notes.append(
                f"The path file {import_path.path_file()} was not written ({error}). Start FederatedScope with the"
                f" environment variable PYTHONPATH={root}."
            )
    return _status(root, changed, notes)


def unplug(checkout: str | Path) -> PlugStatus:
    """Remove exactly what ``plug`` wrote, and its compiled form; doing it twice changes nothing.

    Raises:
        HostError: the folder is not FederatedScope, the file under our file's name is not ours, or it cannot be
            removed.
    """
    root = require_checkout(checkout)
    file = _plug_file(root)
    _refuse_foreign(file)
    changed = False
    if file.is_file():
        with _host_error(f"{file} cannot be removed", "Give yourself the right to write there."):
            _remove_compiled(file)
            file.unlink()
        changed = True
    if import_path.named_in_path_file() == root:
        path_file = import_path.path_file()
        with _host_error(f"{path_file} cannot be removed", "Give yourself the right to write there."):
            path_file.unlink()
        changed = True
    return _status(root, changed, [])


def status(checkout: str | Path) -> PlugStatus:
    """How a checkout stands; changes nothing.

    Raises:
        HostError: the folder is not FederatedScope.
    """
    return _status(require_checkout(checkout), False, [])


def _status(root: Path, changed: bool, notes: list[str]) -> PlugStatus:
    file = _plug_file(root)
    plugged = _is_ours(file)
    found = import_path.imported_from()
    if plugged and found is not None and found != root:
        notes.append(
            f"`import federatedscope` finds {found}, not {root}: even `python federatedscope/main.py` inside {root}"
            " runs the former. Plug that one, or uninstall it or take it off Python's path and plug again."
        )
    if plugged and found is None and not notes:
        notes.append(f"`import federatedscope` fails in this environment: plug again, or set PYTHONPATH={root}.")
    if not plugged and os.path.lexists(file):
        notes.append(f"{file} exists but fs-fedmllm did not write it.")
    return PlugStatus(
        checkout=root,
        plugged=plugged,
        current=plugged and file.read_text(encoding="utf-8") == PLUG_SOURCE,
        imported_from=found,
        path_file=import_path.path_file() if import_path.named_in_path_file() == root else None,
        changed=changed,
        warnings=tuple(notes),
    )


def _plug_file(root: Path) -> Path:
    return root / PACKAGE / "contrib" / "configs" / PLUG_FILE


def _is_ours(file: Path) -> bool:
    """A regular file with our marker: a link may lead anywhere, so it is never ours."""
    if file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.readline().startswith(MARKER.encode())


def _refuse_foreign(file: Path) -> None:
    if os.path.lexists(file) and not _is_ours(file):
        raise HostError(
            f"{file} exists and fs-fedmllm did not write it (its first line does not start with {MARKER!r}). Move it"
            " away, then try again."
        )


def _remove_compiled(file: Path) -> None:
    """Delete the compiled forms of our file, and the cache folder if only they were in it."""
    cache = Path(importlib.util.cache_from_source(str(file))).parent
    for compiled in cache.glob(f"{file.stem}.*.pyc"):
        compiled.unlink()
    with contextlib.suppress(OSError):  # other files are in it, or it is not there
        cache.rmdir()


def _write(file: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or none.

    The temporary name must not end in .py or .pth: FederatedScope or Python would read it.
    """
    with beside(file) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def _host_error(what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"{what}: {error.strerror or error}. {advice}") from error
