"""Each extra in an environment that has it and nothing else: what it is for works, and what is absent is named.

    python scripts/check_extras.py             # before a release: pip makes an environment for every extra
    python scripts/check_extras.py fs plot     # these only; "base" is the installation without extras
    python scripts/check_extras.py --linked    # environments of links to the packages installed here: no download

An environment of links is real: its Python finds the extra's distributions, what those require, and nothing else.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent
PROOF = REPOSITORY / "scripts" / "extra_works.py"
BASE = "base"


def packaging() -> dict[str, Any]:
    """What pyproject.toml states of the project."""
    stated: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return stated


def requirements(extras: Iterable[str]) -> list[str]:
    """Direct requirements of an installation with these extras."""
    stated = packaging()
    return [*stated["dependencies"], *(line for extra in extras for line in stated["optional-dependencies"][extra])]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(lines: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions that requirements bring along, by plain name.

    Raises:
        PackageNotFoundError: one of ``lines`` is not installed here.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    asked: set[tuple[str, frozenset[str]]] = set()
    waiting = [(Requirement(line), True) for line in lines]
    while waiting:
        wanted, direct = waiting.pop()
        key = (_plain(wanted.name), frozenset(wanted.extras))
        if key in asked:
            continue
        asked.add(key)
        try:
            distribution = importlib.metadata.distribution(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            if direct:
                raise
            continue  # for another platform, or a build of torch that needs less
        found[key[0]] = distribution
        for line in distribution.requires or []:
            further = Requirement(line)
            places = [{"extra": extra} for extra in (*wanted.extras, "")]
            if further.marker is None or any(further.marker.evaluate(place) for place in places):
                waiting.append((further, False))
    return found


def _places(distribution: importlib.metadata.Distribution) -> set[tuple[str, str]]:
    """The first two parts of the names of a distribution's files; the second is empty for a file on top."""
    # Not ``distribution.files``: that makes an object for each of torch's ten thousand.
    names = [line.split(",")[0] for line in (distribution.read_text("RECORD") or "").splitlines()]
    places = {tuple(name.split("/")[:2]) for name in names}
    pairs = {(place[0], place[1] if len(place) > 1 else "") for place in places}
    return {(top, below) for top, below in pairs if top not in ("", "..", "__pycache__") and not top.endswith(".pth")}


def linked(folder: Path, extras: Sequence[str]) -> Path:
    """Make an environment of links to what is installed here.

    Returns:
        Its Python.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    ours = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    here = Path(sysconfig.get_path("purelib"))
    wanted = closure([*requirements(extras), "setuptools"])
    owners: dict[str, set[str]] = {}
    for distribution in importlib.metadata.distributions(path=[str(here)]):
        name = _plain(distribution.metadata["Name"])
        for top, _ in _places(distribution):
            owners.setdefault(top, set()).add(name)
    for distribution in wanted.values():
        for top, below in _places(distribution):
            # A folder that several distributions share (google/, ...) is linked a level lower.
            place = f"{top}/{below}" if below and not owners[top] <= set(wanted) else top
            link = ours / place
            if not link.is_symlink():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(here / place)
    (ours / "fs_fedmllm.pth").write_text(f"{REPOSITORY}\n")
    return folder / "bin" / "python"


def installed(folder: Path, extras: Sequence[str], torch: str) -> Path:
    """Make an environment with pip, as the README says.

    Args:
        folder: of the environment.
        extras: names.
        torch: what ``pip install`` gets first.

    Returns:
        Its Python.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-qq", "install"]
    subprocess.run([*pip, *torch.split()], check=True)
    what = f".[{','.join(extras)}]" if extras else "."
    subprocess.run([*pip, "-c", "constraints.txt", "-e", what], cwd=REPOSITORY, check=True)
    return python


def prove(python: Path, extra: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Let an extra do its work, in its own environment and an empty folder."""
    work = folder / "work"
    work.mkdir()
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH", "VIRTUAL_ENV")}
    # Two threads are one too many for a machine that does something else too; nothing is fetched.
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [python, PROOF, extra], cwd=work, env={**inherited, **quiet, "HF_HOME": str(folder / "hf")},
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip


def main() -> int:
    """Check what the command line names; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [BASE, *packaging()["optional-dependencies"]]
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"default: {' '.join(known)}")
    parser.add_argument("--linked", action="store_true", help="links to what is installed here in place of pip")
    parser.add_argument("--torch", default="torch==2.13.0", help="what pip installs first, options included")
    args = parser.parse_args()
    failed = False
    for extra in args.extras or known:
        if extra not in known:
            parser.error(f"{extra} is none of {', '.join(known)}")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            extras = [] if extra == BASE else [extra]
            python = linked(folder / "v", extras) if args.linked else installed(folder / "v", extras, args.torch)
            done = prove(python, extra, folder)
        said = (done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip()
        print(f"{'works' if done.returncode == 0 else 'FAILED'}: {extra}\n    " + said.replace("\n", "\n    "))
        failed |= done.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
