"""The real FederatedScope, as a copy: the user's checkout is only ever read.

It is found as ``fs-fedmllm plug`` finds it: $FEDERATEDSCOPE_HOME, then an importable one, then ~/FederatedScope.
"""

from __future__ import annotations

import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from forks import Forks
from host_environment import Environment, ForkedEnvironment, copy_checkout

import fs_fedmllm
from fs_fedmllm.hosts.federatedscope.checkout import find_federatedscope

NOT_RUN = "NOT RUN: no FederatedScope checkout (set FEDERATEDSCOPE_HOME or clone it to ~/FederatedScope)"


@pytest.fixture(scope="session")
def fs_source() -> Path:
    """The user's checkout: read it, never write to it."""
    found = find_federatedscope()
    if found is None:
        pytest.skip(NOT_RUN)
    return found


@pytest.fixture(scope="session")
def fs_checkout(fs_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unplugged copy for the session; a test that changes it changes it back."""
    return copy_checkout(fs_source, tmp_path_factory.mktemp("federatedscope"))


@pytest.fixture
def fresh_checkout(fs_source: Path, tmp_path: Path) -> Path:
    """An unplugged copy that the test may do with as it likes."""
    return copy_checkout(fs_source, tmp_path / "checkout")


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An empty virtual environment over this one's packages and this fs_fedmllm."""
    return Environment(_made(tmp_path / "environment"))


@pytest.fixture(scope="session")
def host(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> ForkedEnvironment:
    """One such environment for the session: the copy ``plugged`` is plugged for it."""
    return ForkedEnvironment(_made(tmp_path_factory.mktemp("host") / "environment"), forks)


@pytest.fixture(scope="session")
def plugged(fs_source: Path, host: ForkedEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the checkout, plugged for ``host`` through the command line, and unplugged at the end."""
    copy = copy_checkout(fs_source, tmp_path_factory.mktemp("plugged"))
    done = host.run_afresh("-m", "fs_fedmllm", "plug", copy, cwd=copy)
    assert done.returncode == 0, done.stderr
    yield copy
    done = host.run_afresh("-m", "fs_fedmllm", "unplug", copy, cwd=copy)
    assert done.returncode == 0, done.stderr


def _made(folder: Path) -> Path:
    venv.create(folder, with_pip=False)
    made = Environment(folder)
    ours = Path(fs_fedmllm.__file__).resolve().parent.parent
    made.site_packages.joinpath("these.pth").write_text(f"{ours}\n{sysconfig.get_path('purelib')}\n")
    return folder
