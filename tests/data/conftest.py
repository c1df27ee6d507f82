"""Fixtures for the data tests; the real files are named by an environment variable and never committed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

Picture = Callable[..., Path]


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("FS_FEDMLLM_DATA")
    if not folder:
        pytest.skip("needs the real data sets: set FS_FEDMLLM_DATA to their folder")
    return Path(folder)


@pytest.fixture
def picture() -> Picture:
    """Writes a small image and returns its path."""

    def write(path: Path, size: tuple[int, int] = (8, 8), colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)
        return path

    return write


@pytest.fixture
def jsonl() -> Callable[[Path, Iterable[dict]], Path]:
    def write(path: Path, rows: Iterable[dict]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
