"""Making ``import federatedscope`` find a checkout: one path file in this environment's site-packages.

``python federatedscope/main.py`` puts ``<checkout>/federatedscope`` on Python's path, not the checkout, so without an
installed FederatedScope it fails.  Its pins contradict today's packages, so installing it properly upsets pip; a path
file needs no metadata and leaves the checkout as it is.
"""

from __future__ import annotations

import locale
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from fs_fedmllm.hosts.federatedscope.checkout import PACKAGE

PATH_FILE = "fs_fedmllm_federatedscope.pth"
MARKER = "# fs-fedmllm plug: where FederatedScope is; removed by `fs-fedmllm unplug`."
#: Names the folder above the package that a fresh interpreter imports, leaving out the current directory.
_PROBE = f"""
import importlib.util, os, sys
spec = importlib.util.find_spec({PACKAGE!r})
found = os.path.dirname(os.path.dirname(os.path.realpath(spec.origin))) if spec and spec.origin else ''
sys.stdout.buffer.write(os.fsencode(found))
"""


def path_file() -> Path:
    """The path file of this environment, whether or not it exists."""
    return Path(sysconfig.get_path("purelib")) / PATH_FILE


def imported_from() -> Path | None:
    """The folder from which a fresh interpreter of this environment imports FederatedScope.

    Asked of a new process, because this one may have been started inside a checkout or before the path file.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        answer = subprocess.run([sys.executable, "-P", "-c", _PROBE], cwd=elsewhere, capture_output=True, check=False)
    return Path(os.fsdecode(answer.stdout)) if answer.stdout else None


def named_in_path_file() -> Path | None:
    """The checkout that our path file names; None if there is no such file or it is not ours."""
    try:
        lines = path_file().read_bytes().splitlines()
    except OSError:
        return None
    if len(lines) != 2 or lines[0] != MARKER.encode():
        return None
    return Path(lines[1].decode(_encoding(), errors="replace"))


def require_free() -> None:
    """Do nothing if our path file may be written.

    Raises:
        FileExistsError: there is a file of that name which is not ours.
    """
    if os.path.lexists(path_file()) and named_in_path_file() is None:
        raise FileExistsError("a file of that name exists which fs-fedmllm did not write")


def path_file_content(checkout: Path) -> bytes:
    """What the path file says about a checkout.

    Raises:
        ValueError: Python cannot read this path from a path file (a line break, or a letter that the locale lacks).
    """
    text = str(checkout)
    if text.splitlines() != [text] or text != text.strip():
        raise ValueError("a path file cannot hold a path with line breaks or with spaces at its ends")
    return f"{MARKER}\n{text}\n".encode(_encoding())


def _encoding() -> str:
    """Python reads path files in the locale's encoding, from 3.13 on as UTF-8 first."""
    return "utf-8" if sys.version_info >= (3, 13) else locale.getpreferredencoding(False)
