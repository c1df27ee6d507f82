"""Twins are built once for all tests of the session."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import twins


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's twin: ``twin("smolvlm")``."""
    root = tmp_path_factory.mktemp("twins")
    return lambda name: twins.build(name, root / name)
