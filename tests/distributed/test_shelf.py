"""Updates that came before their turn wait on disk and come back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fs_fedmllm.distributed import shelf as module
from fs_fedmllm.distributed.shelf import Shelf
from fs_fedmllm.errors import StorageError
from fs_fedmllm.rounds.client_update import ClientUpdate, FailedUpdate
from fs_fedmllm.rounds.trainer import UpdateLog

STATE = {"z": torch.tensor([1.0, -0.0, torch.inf]), "a": torch.ones(2, 2, dtype=torch.int8), "b": torch.ones(4)[::2]}
UPDATE = ClientUpdate(3, 7, STATE, UpdateLog(1.0, 0.0, 2.0, 3, 4, 5.0))


def files(folder: Path) -> list[Path]:
    return list((folder / "arrived").glob("*"))


def test_an_update_comes_back_as_it_was(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    kept = shelf.put(3, UPDATE)
    (file,) = files(tmp_path)
    assert file.stat().st_mode & 0o077 == 0
    found = shelf.take(kept)
    assert (found.client, found.rows, found.log) == (3, 7, UPDATE.log)
    assert list(found.state) == ["z", "a", "b"]  # the order counts: it is the sum's
    for name, tensor in STATE.items():
        assert found.state[name].dtype == tensor.dtype and found.state[name].equal(tensor)
    assert files(tmp_path) == []
    shelf.close()
    assert not (tmp_path / "arrived").exists()


def test_what_is_small_is_not_written_and_what_nobody_wants_is_removed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    failed = FailedUpdate(3, "no")
    for answer in (failed, None, {"keys": b""}):
        assert shelf.put(3, answer) is answer and shelf.take(answer) is answer
        shelf.drop(answer)
    assert files(tmp_path) == []
    shelf.drop(shelf.put(3, UPDATE))
    assert files(tmp_path) == []
    shelf.put(3, UPDATE)
    Shelf(tmp_path)  # of a process that was killed
    assert files(tmp_path) == []


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x" * 20)])
def test_a_lost_file_costs_its_client_the_round(damage: Any, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    kept = shelf.put(3, UPDATE)
    damage(files(tmp_path)[0])
    assert shelf.take(kept) == FailedUpdate(3, "it was lost on the server's disk before its turn")


def test_a_full_disk_keeps_it_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageError("no room")

    monkeypatch.setattr(module, "write_atomically", full)
    shelf = Shelf(tmp_path)
    assert shelf.take(shelf.put(3, UPDATE)) is UPDATE
