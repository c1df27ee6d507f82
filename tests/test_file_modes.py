"""Who may read what is written: shared files follow the umask, private ones are their owner's alone."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fs_fedmllm.files.atomic import beside, private_folder, remove_abandoned, remove_torn, share, write_atomically


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_shared_files_follow_the_umask_and_private_ones_do_not(tmp_path, umask) -> None:
    write_atomically(tmp_path / "made" / "shared", b"1")
    write_atomically(tmp_path / "made" / "shared", b"2")  # written over, it has the same mode
    write_atomically(tmp_path / "private" / "secret", b"1", private=True)
    assert mode(tmp_path / "made" / "shared") == 0o666 & ~umask
    assert mode(tmp_path / "made") == 0o777 & ~umask
    assert mode(tmp_path / "private" / "secret") == 0o600 and mode(tmp_path / "private") == 0o700
    save_file({"a": torch.ones(2)}, tmp_path / "made" / "merged")  # the library's own way keeps others out
    share(tmp_path / "made")
    assert {mode(path) for path in (tmp_path / "made").iterdir()} == {0o666 & ~umask}
    private_folder(tmp_path / "made")
    assert mode(tmp_path / "made") == 0o777 & ~umask  # somebody else's choice


@pytest.mark.parametrize("umask", [0o002], indirect=True)
def test_a_runs_files_are_shared_and_its_checkpoint_is_not(short_config, monkeypatch, umask) -> None:
    from fs_fedmllm.runs.session import Session
    from fs_fedmllm.runs.simulation import run

    config = short_config("cross_i3t7", "federate.total_round_num", 2, "fedmllm.vision_cache.folder", "cache")
    monkeypatch.chdir(Path(config.outdir).parent)
    seen = {}
    checkpoint = Session.checkpoint

    def look(self) -> None:
        checkpoint(self)
        folder = self.folder.path / "checkpoint"
        seen.update({file.name: mode(file) for file in [folder, *folder.glob("*")]})

    monkeypatch.setattr(Session, "checkpoint", look)
    _, folder = run(config)
    assert seen.pop("checkpoint") == 0o700 and len(seen) == 2 and set(seen.values()) == {0o600}
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"adapter_model.safetensors", "results.json", "manifest.json", "predictions.jsonl", "fedmllm.json"} <= names
    assert {path.name: mode(path) for path in files} == {path.name: 0o666 & ~umask for path in files}
    features = [path for path in Path("cache").rglob("*") if path.is_file()]
    assert features and {mode(path) for path in features} == {0o600} and {mode(p.parent) for p in features} == {0o700}


@pytest.mark.parametrize("umask", [0o022], indirect=True)
def test_dealt_rows_and_keys_are_their_owners_alone(tmp_path, umask) -> None:
    pytest.importorskip("cryptography", reason="certificates need the package cryptography")
    from short_runs import CONFIGS

    from fs_fedmllm.cli import main

    for how in ("link", "copy"):
        out = tmp_path / how
        words = ["data", "split", str(CONFIGS / "cross_i3t7.yaml"), "--out", str(out)]
        words += ["data.root", str(tmp_path / "d")]
        assert main([*words, "--per-client-folders", "--images", how]) == 0
        (out / "client_3").chmod(0o755)  # of an earlier release
        assert main([*words, "--per-client-folders", "--images", how]) == 0
        files = [p for p in out.rglob("*") if p.is_file() and p.name != "manifest.json"]
        rows = [p for p in files if how == "copy" or p.parent.name != "images"]  # a link has its image's own mode
        assert rows and {mode(path) for path in rows} == {0o600}
        assert {mode(path) for path in [out, *out.rglob("*")] if path.is_dir()} == {0o700}
    assert main([*words[:4], str(tmp_path / "records"), *words[5:]]) == 0
    assert mode(tmp_path / "records") == 0o700
    assert {mode(p) for p in (tmp_path / "records").glob("client_*.json")} == {0o600}
    certificates = tmp_path / "authority"
    assert main(["certs", "init", "--folder", str(certificates), "--name", "us"]) == 0
    assert mode(certificates) == 0o700 and {mode(p) for p in certificates.glob("*.key")} == {0o600}


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path) -> None:
    ours = [".state.json.0f3a9c1e.part", ".round-3.safetensors.k2_9xx1a", ".adapter_model.safetensors.00000000.part"]
    theirs = ["state.json", ".notes.backup12", ".hidden", "x.part", ".state.json.part", ".a.0f3a9c1e.partly"]
    for name in (*ours, *theirs):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".folder.0f3a9c1e.part").mkdir()
    assert remove_torn(tmp_path, tmp_path / "absent") == len(ours)
    assert {path.name for path in tmp_path.iterdir()} == {*theirs, ".folder.0f3a9c1e.part"}
    with pytest.raises(KeyboardInterrupt), beside(tmp_path / "state.json") as part:
        part.write_bytes(b"half")
        assert remove_torn(tmp_path) == 1  # so it is called what a killed process's is called
        raise KeyboardInterrupt
    assert (tmp_path / "state.json").read_bytes() == b"x"


def test_in_a_shared_folder_only_what_nobody_holds_is_removed(tmp_path) -> None:
    left = tmp_path / ".adapter.safetensors.0f3a9c1e.part"
    other = tmp_path / ".other.safetensors.0f3a9c1e.part"
    for file in (left, other):
        file.write_bytes(b"half")
    (tmp_path / ".adapter.safetensors.11111111.part").symlink_to(other)
    os.mkfifo(tmp_path / ".adapter.safetensors.22222222.part")
    with beside(tmp_path / "adapter.safetensors") as held:
        held.write_bytes(b"whole")
        # As another process would see it: a lock belongs to the file as it was opened, not to the process.
        assert remove_abandoned(tmp_path, "adapter.safetensors") == 1
        assert held.is_file() and other.is_file() and not left.exists()
    assert (tmp_path / "adapter.safetensors").read_bytes() == b"whole"
    assert remove_abandoned(tmp_path) == 1 and not other.exists()
    assert remove_abandoned(tmp_path / "absent") == 0


def test_a_run_removes_what_one_left_beside_its_copy_and_in_the_cache(short_config, tmp_path) -> None:
    from fs_fedmllm.runs.simulation import run

    copy, cache = tmp_path / "out" / "copy.safetensors", tmp_path / "cache"
    torn = [copy.with_name(".copy.safetensors.0f3a9c1e.part"), cache / "0a" / ".x.safetensors.0f3a9c1e.part"]
    for file in torn:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
    theirs = copy.with_name(".theirs.0f3a9c1e.part")
    theirs.write_bytes(b"half")
    run(short_config("cross_i3t7", "federate.save_to", copy, "fedmllm.vision_cache.folder", cache))
    assert copy.is_file() and theirs.is_file() and not any(file.exists() for file in torn)


def test_a_copy_that_cannot_be_written_is_known_before_the_model_is_loaded(
    short_config, tmp_path, monkeypatch
) -> None:
    from fs_fedmllm.distributed.run_site import run_server
    from fs_fedmllm.errors import StorageError
    from fs_fedmllm.hosts.federatedscope import runtime
    from fs_fedmllm.rounds.federation import Federation
    from fs_fedmllm.runs.simulation import run

    monkeypatch.setattr(Federation, "build", None)
    monkeypatch.setattr(runtime, "_current", None)
    (tmp_path / "file").touch()
    for place, said in ((tmp_path, "which is a folder"), (tmp_path / "file" / "copy", "cannot be written")):
        config = short_config("cross_i3t7", "federate.save_to", place)
        with pytest.raises(StorageError, match=f"federate.save_to is .*{said}"):
            run(config)
        with pytest.raises(StorageError, match=f"federate.save_to is .*{said}"):
            runtime.start(config, str(tmp_path / "host"))
        federate = dataclasses.replace(config.federate, mode="distributed")
        with pytest.raises(StorageError, match=f"federate.save_to is .*{said}"):
            run_server(dataclasses.replace(config, federate=federate, expname="server"))
