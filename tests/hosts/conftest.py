"""The real FederatedScope, as a copy: the user's checkout is only ever read.

It is found as ``fs-fedmllm plug`` finds it: $FEDERATEDSCOPE_HOME, then an importable one, then ~/FederatedScope.
"""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

import pytest
from host_environment import Environment, copy_checkout

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
    made = Environment(tmp_path / "environment")
    venv.create(made.folder, with_pip=False)
    ours = Path(fs_fedmllm.__file__).resolve().parent.parent
    made.site_packages.joinpath("these.pth").write_text(f"{ours}\n{sysconfig.get_path('purelib')}\n")
    return made
