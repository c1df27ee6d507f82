"""A vision cache on a disk that cannot be written to or read: a warning, and the run goes on."""

from __future__ import annotations

import errno
import logging
import os

import pytest
import torch

from fs_fedmllm.models.vision import VisionEntry, VisionFeatures


class Model:
    identity = "m"
    device = torch.device("cpu")


def entry() -> VisionEntry:
    return VisionEntry(torch.ones(1, 2, 3), {})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_full_or_read_only_disk_switches_the_disk_part_off(tmp_path, monkeypatch, caplog, number) -> None:
    vision = VisionFeatures(Model(), 0, tmp_path / "cache")

    def fails(*_args, **_more) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fails)
    with caplog.at_level(logging.WARNING):
        for key in ("a", "b", "c"):
            vision._store(key, entry())
            vision._write(key, entry())
    (said,) = caplog.records  # once, not for every image
    assert "cannot be written to" in said.message and os.strerror(number) in said.message
    assert vision.get("c") is not None  # the memory's part goes on
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_cache_that_cannot_be_read_and_one_that_is_no_folder(tmp_path, monkeypatch, caplog) -> None:
    (tmp_path / "file").write_text("not a folder")
    vision = VisionFeatures(Model(), 0, tmp_path / "file" / "cache")
    with caplog.at_level(logging.WARNING):
        assert vision.get("a") is None
        vision._write("a", entry())
    assert len(caplog.records) == 1
    caplog.clear()
    good = VisionFeatures(Model(), 0, tmp_path / "cache")
    good._write("a", entry())
    assert VisionFeatures(Model(), 0, tmp_path / "cache").get("a") is not None
    bad = VisionFeatures(Model(), 0, tmp_path / "cache")
    target = bad._path("a")
    assert target is not None
    target.unlink()
    target.mkdir()  # as a file of another user's: reading it is an error, also for root
    with caplog.at_level(logging.WARNING):
        assert bad.get("a") is None and bad.get("b") is None
    assert len(caplog.records) == 1 and "cannot be read" in caplog.records[0].message


def test_features_of_an_older_reading_of_the_files_are_not_used(tmp_path, monkeypatch) -> None:
    from fs_fedmllm.data import images, pixels

    (tmp_path / "a.png").write_bytes(b"any bytes")
    key = images.pixels_key(str(tmp_path / "a.png"))
    monkeypatch.setattr(pixels, "DECODING", pixels.DECODING + 1)
    assert images.pixels_key(str(tmp_path / "a.png")) != key
