"""A small share of what ``tests/fuzz/fuzz_readers.py`` does in full, and the inputs that it once found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("grpc", reason="needs the extra distributed")
pytest.importorskip("cryptography", reason="needs the extra distributed")
pytest.importorskip("pyarrow", reason="needs pyarrow")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "fuzz"), str(HERE / "distributed")]

from fuzz_readers import fuzz  # noqa: E402
from readers import READERS  # noqa: E402


@pytest.mark.parametrize("reader", READERS)
def test_only_our_own_errors_come_out(reader: str, tmp_path: Path) -> None:
    found = fuzz(reader, 40, 1, tmp_path / "kept", tmp_path)
    assert not found["findings"]
    assert 0 < found["refused"] <= 40


def test_the_same_seed_gives_the_same_inputs(tmp_path: Path) -> None:
    refused = []
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        refused.append(fuzz("ledger", 50, 3, tmp_path / "kept", tmp_path / name)["refused"])
    assert refused[0] == refused[1]
