"""Certificates for the tests of this folder; all of it needs the extra ``distributed``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("grpc")
pytest.importorskip("cryptography")

from fs_fedmllm.distributed.authority import create_authority, create_identity


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation with a server on loopback and the clients 3 and 4."""
    folder = tmp_path_factory.mktemp("certificates")
    create_authority(folder, "ward-study")
    create_identity(folder, 0, ["localhost", "127.0.0.1"])
    for client in (3, 4):
        create_identity(folder, client)
    return folder


@pytest.fixture(autouse=True)
def nobody_calls_on() -> Iterator[None]:
    """End what a test of the round loop leaves behind."""
    yield
    import sites

    while sites.Wire.made:
        sites.Wire.made.pop().end()
