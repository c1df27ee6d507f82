"""A copy of FederatedScope and a virtual environment to run it in, for the tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from forks import Forked, Forks


def copy_checkout(source: Path, target: Path) -> Path:
    """Copy what a run needs of a checkout, without compiled files and without our plug."""
    skip = shutil.ignore_patterns("__pycache__", "*.pyc", "fedmllm_plug.py")
    for folder in ("federatedscope", "scripts"):
        if (source / folder).is_dir():
            shutil.copytree(source / folder, target / folder, ignore=skip)
    if (source / "setup.py").is_file():
        shutil.copy2(source / "setup.py", target / "setup.py")
    return target


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees the packages of this one, so that nothing is written into this one."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return self.folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def run(self, *arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run this environment's Python; PYTHONPATH is what the test says and no more."""
        return subprocess.run(
            [self.python, *arguments],
            cwd=cwd,
            env=self._variables(variables),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    @staticmethod
    def _variables(variables: dict[str, str]) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
        return {**inherited, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", **variables}


@dataclass(frozen=True)
class ForkedEnvironment(Environment):
    """One for many tests, which leave it as it is: ``run`` forks, ``run_afresh`` starts its interpreter.

    The forks are those of this process's interpreter, so that one has to import the engine and not two; what path
    files of the environment name comes to them as PYTHONPATH.
    """

    forks: Forks

    def run(self, *arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """As :meth:`Environment.run`; what packages other than FederatedScope import is there already."""
        return self.forks.run(arguments, cwd, self.variables(variables))

    def start(self, *arguments: str | Path, cwd: Path, log: Path, **variables: str) -> Forked:
        """As :meth:`run`, without waiting for its end; its output goes to the file."""
        return self.forks.start(arguments, cwd, self.variables(variables), log)

    def run_afresh(self, *arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """In a process that begins with nothing."""
        return super().run(*arguments, cwd=cwd, **variables)

    def variables(self, given: dict[str, str]) -> dict[str, str]:
        """A fork's environment variables."""
        files = sorted(self.site_packages.glob("*.pth"))
        named = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        path = [given.get("PYTHONPATH", ""), *(line for line in named if line not in sys.path and os.path.isdir(line))]
        # What a job imports of the session's own copy is compiled once; another checkout is only ever read.
        compiled = {} if "PYTHONPATH" in given else {"PYTHONDONTWRITEBYTECODE": ""}
        return self._variables({**given, **compiled, "PYTHONPATH": os.pathsep.join(filter(None, path))})
