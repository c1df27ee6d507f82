"""A client's state on its own disk: complete, whole, and never another run's."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.site_store import Pending, SiteStore
from fs_fedmllm.errors import ConfigError, StorageError
from fs_fedmllm.runs.checkpoint import RunState, load_checkpoint, save_checkpoint


def pending(round_index: int, value: float = 1.0) -> Pending:
    place = {"phase": "turn", "round": round_index, "start": "a" * 64}
    tensors = {"w": torch.full((2, 3), value), "b": torch.ones(2)}
    answer = Message("answer", {"rows": 3, "log": {"loss": 0.1 + 0.2}}, tensors)
    return Pending(place, answer, {"count/turns": torch.tensor([value])})


def test_an_answer_is_read_back_to_the_bit_and_what_is_carried_follows_the_server(tmp_path: Path) -> None:
    store = SiteStore(tmp_path, "me")
    store.keep(pending(0))
    found = SiteStore(tmp_path, "me")
    assert found.pending is not None and found.pending.place == pending(0).place
    assert found.pending.answer.header == pending(0).answer.header
    assert list(found.pending.answer.tensors) == ["w", "b"]
    assert torch.equal(found.pending.answer.tensors["w"], pending(0).answer.tensors["w"])
    assert found.client_state == {}
    found.settle(0)  # the server used it
    found.keep(pending(1, 2.0))
    again = SiteStore(tmp_path, "me")
    assert again.client_state["count/turns"].tolist() == [1.0]
    again.settle(0)  # the answer of round 1 came too late
    assert SiteStore(tmp_path, "me").client_state["count/turns"].tolist() == [1.0]
    with pytest.raises(ConfigError, match="used this client's answer of round 3"):
        again.settle(3)
    lost = SiteStore(tmp_path / "elsewhere", "me", needed=True)  # its folder is gone, and the server counts on it
    lost.settle(-1)
    with pytest.raises(ConfigError, match="used this client's answer of round 0"):
        lost.settle(0)
    again.settle(-1)  # the server starts anew
    assert again.client_state == {}
    again.clear()
    assert not list(tmp_path.iterdir())


def test_another_runs_state_and_torn_files_are_refused_by_name(tmp_path: Path) -> None:
    SiteStore(tmp_path, "me").keep(pending(0))
    with pytest.raises(ConfigError, match="another configuration, id or data"):
        SiteStore(tmp_path, "you")
    tensors = next(tmp_path.glob("answer-*.safetensors"))
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-5])
    with pytest.raises(ConfigError, match="is damaged"):
        SiteStore(tmp_path, "me")
    tensors.write_bytes(whole)
    head = tmp_path / "state.json"
    text = head.read_text()
    for torn in (text[: len(text) // 2], "[]", json.dumps(json.loads(text) | {"version": 9})):
        head.write_text(torn)
        with pytest.raises(ConfigError, match=r"damaged|version 9"):
            SiteStore(tmp_path, "me")
    head.write_text(text)
    assert SiteStore(tmp_path, "me").pending is not None


@pytest.mark.parametrize("number", [1, 2])
def test_a_full_disk_is_named_and_the_older_state_stands(tmp_path: Path, monkeypatch, number: int) -> None:
    """The disk is full at the first or the second file that is written."""
    store = SiteStore(tmp_path / "site", "me")
    store.keep(pending(0))
    state = RunState(1, {"w": torch.ones(3)}, {}, figures={"a": 1})
    save_checkpoint(tmp_path / "checkpoint", state, "digest")
    written = []
    fsync = os.fsync

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot be written: No space left on device\. What was there stands"):
        store.keep(pending(1, 2.0))
    written.clear()
    with pytest.raises(StorageError, match="cannot be written"):
        save_checkpoint(tmp_path / "checkpoint", RunState(2, {"w": torch.zeros(3)}, {}), "digest")
    monkeypatch.undo()
    kept = SiteStore(tmp_path / "site", "me").pending
    assert kept is not None and kept.place["round"] == 0
    assert torch.equal(kept.answer.tensors["w"], torch.ones(2, 3))
    loaded = load_checkpoint(tmp_path / "checkpoint", "digest")
    assert loaded is not None and loaded.round == 1 and torch.equal(loaded.params["w"], torch.ones(3))
    assert not list(tmp_path.rglob(".*"))  # nothing half-written is left behind


@pytest.mark.parametrize(
    "change",
    [
        {"pending": []}, {"pending": {}}, {"pending": 3}, {"carried_from": "0"}, {"carried_from": None},
        {"tensors": 1.5}, {"order": ["w"]}, {"order": None}, {"place": [1]}, {"place": {}}, {"place": {"round": "0"}},
        {"header": []}, {"kind": None},
    ],
)  # fmt: skip
def test_a_head_that_somebody_wrote_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    SiteStore(tmp_path, "me").keep(pending(0))
    path = tmp_path / "state.json"
    head = json.loads(path.read_text())
    inner = head["pending"] if next(iter(change)) in head["pending"] else head
    inner.update(change)
    path.write_text(json.dumps(head))
    with pytest.raises(ConfigError, match="is damaged"):
        SiteStore(tmp_path, "me").settle(0)
