"""Tensors that NVFlare puts on the server's disk are read one update at a time, and only where they may be large."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

from nvflare.apis.shareable import Shareable
from nvflare.app_opt.pt import lazy_tensor_dict
from nvflare.app_opt.pt.lazy_tensor_dict import LazyTensorDict

from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.distributed.contracts import ANY_TENSORS, Contract, FrameLimits
from fs_fedmllm.distributed.errors import ContractError, FrameError
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.hosts.nvflare.dispatch import Dispatch
from fs_fedmllm.hosts.nvflare.payload import arriving_on_disk, pack, unpack

UPDATE = {"a": torch.randn(3, 4), "b": torch.arange(5, dtype=torch.int32), "c": torch.randn(0)}


def on_disk(tensors: dict[str, torch.Tensor], folder: Path, header: dict[str, Any] | None = None) -> Shareable:
    """A message as the server has it from NVFlare: a file for each tensor, under names of NVFlare's own."""
    folder.mkdir()
    found = {}
    for index, tensor in enumerate(tensors.values()):
        save_file({f"T{index}": tensor}, folder / f"chunk_{index}.safetensors")
        found[f"T{index}"] = (str(folder / f"chunk_{index}.safetensors"), f"T{index}")
    files = LazyTensorDict(found, str(folder))
    made = pack(Message("answer", header or {}, tensors))
    made["DXO"]["data"] = {name: files.make_lazy_ref(f"T{index}") for index, name in enumerate(tensors)}
    return made


def never(self: object) -> torch.Tensor:
    raise AssertionError("it was read")


def test_they_come_back_as_they_were_sent_and_their_files_go(tmp_path: Path) -> None:
    result = on_disk(UPDATE, tmp_path / "arrived", {"round": 3})
    message = unpack(result, lambda kind, header: Contract.like(UPDATE))
    assert (message.kind, message.header) == ("answer", {"round": 3})
    assert list(message.tensors) == list(UPDATE)
    for name, tensor in UPDATE.items():
        assert message.tensors[name].dtype == tensor.dtype and torch.equal(message.tensors[name], tensor)
    assert any(isinstance(kept, lazy_tensor_dict._LazyRef) for kept in result["DXO"]["data"].values())  # as it was
    del result
    assert not (tmp_path / "arrived").exists()


def test_what_cannot_be_right_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_tensor_dict._LazyRef, "materialize", never)
    small = Contract.like({"a": torch.zeros(2)})
    with pytest.raises(ContractError, match="are announced, where 8 are expected"):
        unpack(on_disk({"a": torch.zeros(4096)}, tmp_path / "large"), lambda kind, header: small)
    result = on_disk({"a": torch.zeros(4096)}, tmp_path / "many")
    one = result["DXO"]["data"]["a"]
    result["DXO"]["data"] = {f"t{index}": one for index in range(100)}  # 16 KiB on disk, 1.6 MiB in memory
    with pytest.raises(FrameError, match="the limit is 1,000,000"):
        unpack(result, lambda kind, header: ANY_TENSORS, FrameLimits(message_bytes=1_000_000))
    with pytest.raises(FrameError, match=r"100 tensors; the limit is 9\."):
        unpack(result, lambda kind, header: ANY_TENSORS, FrameLimits(tensors=9))


def test_a_file_that_is_gone_or_none_is_an_answer_that_cannot_be_used(tmp_path: Path) -> None:
    result = on_disk(UPDATE, tmp_path / "gone")
    (tmp_path / "gone" / "chunk_0.safetensors").unlink()
    with pytest.raises(FrameError, match="cannot be read from the disk"):
        unpack(result, lambda kind, header: ANY_TENSORS)
    result = on_disk(UPDATE, tmp_path / "damaged")
    (tmp_path / "damaged" / "chunk_1.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(FrameError, match="cannot be read from the disk"):
        unpack(result, lambda kind, header: ANY_TENSORS)


def test_nvflare_is_told_to_put_them_in_the_runs_folder_while_it_lasts(tmp_path: Path) -> None:
    contexts: list[dict[str, Any]] = [{}, {}]
    real, simulated = (SimpleNamespace(update_fobs_context=context.update) for context in contexts)
    engine = SimpleNamespace(run_manager=SimpleNamespace(cell=real), server=SimpleNamespace(job_cell=simulated))
    (tmp_path / "arriving" / "nvflare_tensors_of_a_process_that_was_killed").mkdir(parents=True)
    with arriving_on_disk(engine, tmp_path):
        place = tmp_path / "arriving"
        assert list(place.iterdir()) == [] and place.stat().st_mode & 0o777 == 0o700
        for context in contexts:
            assert sorted(context.values(), key=str) == [str(place), True]
    assert not place.exists() and not any(value for context in contexts for value in context.values())


def test_one_update_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the desk has it, and with it the disk, where it comes before its turn."""
    seen = []

    class Desk:
        def contract(self, kind: str, header: object) -> Contract:
            seen.append(("read", dispatch._one.locked()))
            return Contract.like(UPDATE)

        def handle(self, client: int, message: Message) -> Message:
            seen.append(("handed over", dispatch._one.locked()))
            assert torch.equal(message.tensors["a"], UPDATE["a"])
            return Message("accepted")

    place = {"phase": "turn", "round": 0, "start": "x"}
    dispatch = Dispatch(Desk(), {"site-1": [1]}, None, FrameLimits(), NetworkConfig())  # type: ignore[arg-type]
    dispatch._answered(1, Message("task", place))("site-1", on_disk(UPDATE, tmp_path / "arrived", place))
    assert seen == [("read", True), ("handed over", True)]
    assert not dispatch._one.locked()
