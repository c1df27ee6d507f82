"""Whether this installation can do its work: one finding per subject, with a remedy where something is wrong."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fs_fedmllm.extras import is_installed
from fs_fedmllm.files.atomic import unwritable
from fs_fedmllm.quoting import shell_word
from fs_fedmllm.tools.planner.packages import ABSENT, OUTSIDE, TESTED, check_packages, tested_versions

GOOD, WARNING, BAD = "ok", "warning", "PROBLEM"
#: Below this much room a run of a real model will not fit its caches and adapters.
LITTLE_SPACE = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One subject.

    Attributes:
        subject: what was looked at.
        verdict: ``ok``, ``warning`` or ``PROBLEM``.
        found: what is there.
        remedy: what to do; empty if nothing is to be done.
    """

    subject: str
    verdict: str
    found: str
    remedy: str = ""


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    if sys.version_info[:2] != (3, 11):
        yield Finding("Python", WARNING, version, "The tests run with Python 3.11.")
    else:
        yield Finding("Python", GOOD, version)


def _packages() -> Iterator[Finding]:
    if not tested_versions():
        yield Finding("constraints", WARNING, "constraints.txt is not there", "Reinstall fs-fedmllm.")
    packages = check_packages()
    differing = [p for p in packages if p.verdict != TESTED]
    for package in differing:
        bad = package.verdict in (ABSENT, OUTSIDE) and not package.optional
        yield Finding(
            package.name,
            BAD if bad else WARNING,
            f"{package.installed or 'not installed'} ({package.verdict})",
            f"pip install '{package.name}=={package.tested}'" if package.tested else
            f"pip install '{package.name}{package.bounds}'",
        )  # fmt: skip
    yield Finding("packages", GOOD, f"{len(packages) - len(differing)} as tested, {len(differing)} not")


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", BAD, f"does not import: {error}", "pip install torch, then the rest.")
        return
    cuda = torch.version.cuda
    build = f"{torch.__version__}, {'CPU build' if cuda is None else f'CUDA {cuda}'}"
    if cuda is not None and not torch.cuda.is_available():
        yield Finding("torch", WARNING, f"{build}, but no accelerator is seen",
                      "A CPU build of the same version is far smaller.")  # fmt: skip
    else:
        devices = f", {torch.cuda.device_count()} accelerators" if cuda is not None else ""
        yield Finding("torch", GOOD, build + devices)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    yield Finding("threads", GOOD, f"{torch.get_num_threads()} of torch, {os.cpu_count()} cores"
                  + (f", OMP_NUM_THREADS={limit}" if limit else ""))  # fmt: skip


def _imports(name: str, *, timeout: int = 120) -> str:
    """Why a package does not import in a fresh process; empty if it does."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"], capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return f"the import took longer than {timeout} s"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


def _optional() -> Iterator[Finding]:
    for name, use, remedy in (
        ("torchvision", "not needed",
         "Remove it (pip uninstall torchvision) or install the build for your torch: transformers believes that it "
         "works."),
        ("bitsandbytes", "needed for int8 and 4-bit bases only", "pip install bitsandbytes"),
        ("openai", "needed for the judge of open answers only", "pip install -c constraints.txt -e '.[judge]'"),
    ):  # fmt: skip
        if not is_installed(name):
            yield Finding(name, GOOD, f"not installed; {use}")
            continue
        failure = _imports(name)
        if failure:
            yield Finding(name, BAD if name == "torchvision" else WARNING, f"installed, and broken: {failure}", remedy)
        else:
            yield Finding(name, GOOD, "imports")


def _writing(folder: Path) -> Iterator[Finding]:
    from fs_fedmllm.data.registry import cache_dir

    places = {"output folder": folder, "cache": cache_dir(), "temporary": Path(tempfile.gettempdir())}
    for subject, place in places.items():
        existing, why = unwritable(place)
        if why:
            yield Finding(subject, BAD, f"{existing} cannot be written: {why}",
                          "Change its rights, or choose another (outdir; FS_FEDMLLM_CACHE; TMPDIR).")  # fmt: skip
            continue
        free = shutil.disk_usage(existing).free
        text = f"{existing} can be written, {free / 1e9:.1f} GB free"
        if free < LITTLE_SPACE:
            yield Finding(subject, WARNING, text, "Make room before a run of a real model.")
        else:
            yield Finding(subject, GOOD, text)


def _federatedscope(named: str) -> Iterator[Finding]:
    from fs_fedmllm.errors import HostError
    from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope, require_checkout
    from fs_fedmllm.hosts.federatedscope.examine import TESTED_COMMIT, examine
    from fs_fedmllm.hosts.federatedscope.plug import status

    try:
        checkout = require_checkout(named) if named else find_federatedscope()
    except HostError as error:
        yield Finding("FederatedScope", BAD, str(error), "Name a checkout, or unset FEDERATEDSCOPE_HOME.")
        return
    if checkout is None:
        yield Finding("FederatedScope", GOOD, "no checkout found; only run --engine federatedscope needs one")
        return
    found = examine(checkout)
    if not found.commit:
        yield Finding("checkout", WARNING, f"{checkout}, commit unknown (no git history)")
    elif not found.commit.startswith(TESTED_COMMIT):
        command = f"git -C {shell_word(checkout)} checkout {TESTED_COMMIT}"
        yield Finding("checkout", WARNING, f"{checkout} at {found.commit}",
                      f"The tests run with {TESTED_COMMIT}: {command}")  # fmt: skip
    else:
        changed = "" if found.clean else ", with changed files"
        yield Finding("checkout", GOOD, f"{checkout} at {found.commit}{changed}")
    if found.failure:
        yield Finding("import", BAD, f"federatedscope does not import: {found.failure}",
                      "pip install -c constraints.txt -e '.[fs]' in this environment.")  # fmt: skip
    else:
        yield Finding("import", GOOD, f"federatedscope {found.version} imports, with our fixes")
    plugged = status(checkout)
    if plugged.plugged and not plugged.current:
        yield Finding("plug", WARNING, "of another version", f"fs-fedmllm plug {shell_word(checkout)}")
    else:
        yield Finding("plug", GOOD, "present" if plugged.plugged else "absent (fs-fedmllm plug <checkout>)")


def _nvflare(kit: Path) -> Iterator[Finding]:
    """NVFlare, and a site's workspace of it."""
    from fs_fedmllm.hosts.nvflare.policy import examined

    if is_installed("nvflare"):  # its version is among the packages
        yield Finding("nvflare", GOOD, "installed")
    else:
        yield Finding("nvflare", BAD, "not installed", "pip install 'fs-fedmllm[nvflare]'")
    for subject, right, found, remedy in examined(kit):
        yield Finding(subject, GOOD if right else BAD, found, remedy)


def examine_installation(checkout: str = "", outdir: str = "exp", nvflare: str = "") -> list[Finding]:
    """Look at everything; nothing is changed.

    Args:
        checkout: folder of FederatedScope; empty looks where a run would look.
        outdir: folder that runs would write into.
        nvflare: a site's workspace of NVFlare; empty for none.
    """
    parts: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _torch,
        _optional,
        lambda: _federatedscope(checkout),
        lambda: _writing(Path(outdir)),
    ]
    if nvflare:
        parts.append(lambda: _nvflare(Path(nvflare)))
    return [finding for part in parts for finding in part()]
