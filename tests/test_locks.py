"""One process at a time: a run folder, a site's, a sweep's."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

import pytest

from fs_fedmllm.cli import main
from fs_fedmllm.errors import LockedError
from fs_fedmllm.files import locks
from fs_fedmllm.files.locks import Lock
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.run_folder import LOCK, RunFolder, claimed


def test_a_second_lock_is_refused_by_the_holders_name_and_a_dead_ones_file_is_free(tmp_path) -> None:
    first = Lock(tmp_path / "lock")
    with pytest.raises(LockedError, match=rf"{tmp_path} is in use by another process \({os.getpid()} on .*Go away\."):
        Lock(tmp_path / "lock", advice="Go away.")
    first.release()
    assert not list(tmp_path.iterdir())
    for left in (b"", b"{}", b"[1]", b'{"pid": 1}', b"\xff", b'{"pid": 999999, "host": "h", "since": "then"}'):
        (tmp_path / "lock").write_bytes(left)  # of a killed process
        lock = Lock(tmp_path / "lock")
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
        lock.release()
        lock.release()


def test_a_holder_that_says_nothing_is_refused_too(tmp_path) -> None:
    lock = Lock(tmp_path / "lock")
    (tmp_path / "lock").write_bytes(b"[" * 2000)
    with pytest.raises(LockedError, match="is in use by another process"):
        Lock(tmp_path / "lock")
    lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_worker_does_not_hold_its_dead_parents_lock(tmp_path) -> None:
    lock = Lock(tmp_path / "lock")
    (read, write), (began, begins) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.write(begins, b"x")
        os.read(read, 1)  # until the parent lets go
        os._exit(0)
    os.read(began, 1)
    os.close(lock._handle)  # as the system does it for a killed process
    again = Lock(tmp_path / "lock")
    os.close(write)
    os.waitpid(child, 0)
    again.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_is_a_warning_and_no_place_for_a_privacy_ledger(
    tmp_path, monkeypatch, caplog, short_config, number
) -> None:
    def none(*_args) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with caplog.at_level(logging.WARNING):
        Lock(tmp_path / "lock").release()
    assert "make sure that no other process uses it" in caplog.text
    private = short_config("cross_i3t7", "fedmllm.privacy.dp.clip_norm", 1, "fedmllm.privacy.dp.noise_multiplier", 1)
    with pytest.raises(LockedError, match=r"cannot be locked .* spend more privacy than either reports"):
        RunFolder(tmp_path / "private", private).lock()


def test_the_second_run_in_a_folder_ends_with_2_before_anything_is_loaded(
    short_config, monkeypatch, capsys, tmp_path
) -> None:
    from short_runs import CONFIGS, SHORT

    def loads(*_args, **_more) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Federation, "build", loads)
    config = short_config("cross_i3t7", "expname", "one")
    words = ["run", str(CONFIGS / "cross_i3t7.yaml"), "--engine", "embedded", *SHORT, "outdir", config.outdir]
    with claimed(config) as folder:
        before = sorted(path.name for path in folder.path.iterdir())
        assert main([*words, "expname", "one", "seed", "5"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("fs-fedmllm: ") and str(folder.path) in said and str(os.getpid()) in said
        assert "another expname" in said and len(said.strip().splitlines()) == 1
        assert sorted(path.name for path in folder.path.iterdir()) == before
        with pytest.raises(AssertionError, match="a model was loaded"):
            main([*words, "expname", "two"])  # another folder is free
    assert not folder.path.exists() and not (folder.path.parent / "two").exists()  # nothing came to be in them
    with pytest.raises(AssertionError, match="a model was loaded"):
        main([*words, "expname", "one"])


def test_torn_files_of_a_killed_run_go_when_its_folder_is_opened(short_config) -> None:
    config = short_config("cross_i3t7", "expname", "torn")
    path = Path(config.outdir) / "torn"
    torn = ["adapter/.adapter_model.safetensors.12345678.part", "checkpoint/.round-2.safetensors.abcdefgh.part",
            ".results.json.00000000.part", "clients/client_1/.adapter_model.safetensors.12345678.part",
            "checkpoint/.state.json.x1y2z3_4"]  # fmt: skip
    kept = ["adapter/adapter_model.safetensors", "notes/.adapter_model.safetensors.12345678.part", ".mine"]
    for name in (*torn, *kept):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x" * 9)
    with claimed(config):
        found = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert found == {*kept, LOCK}


def test_on_federatedscope_a_run_that_goes_on_is_in_the_way_and_a_killed_one_is_resumed(
    short_config, tmp_path, monkeypatch, caplog
) -> None:
    from fs_fedmllm.hosts.federatedscope import runtime
    from fs_fedmllm.runs import opening

    monkeypatch.setattr(opening, "announce", lambda *_: False)
    config = short_config("cross_i3t7")

    def starts(outdir: Path) -> runtime.Runtime:
        outdir.mkdir(parents=True)  # FederatedScope has
        return runtime.Runtime(config, None)

    first = starts(tmp_path / "job")
    assert first.claim(str(tmp_path / "job")).path == tmp_path / "job"
    second = starts(tmp_path / "job" / "sub_exp_1")
    with pytest.raises(LockedError, match="in use by another process"):
        second.claim(str(tmp_path / "job" / "sub_exp_1"))
    first.leave()
    (tmp_path / "job" / LOCK).write_text("")  # as if it had been killed
    third = starts(tmp_path / "job" / "sub_exp_2")
    assert third.claim(str(tmp_path / "job" / "sub_exp_2")).path == tmp_path / "job"
    third.leave()
    (tmp_path / "job" / "results.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        fourth = starts(tmp_path / "job" / "sub_exp_3")
        assert fourth.claim(str(tmp_path / "job" / "sub_exp_3")).path == tmp_path / "job" / "sub_exp_3"
    assert "holds a finished run" in caplog.text
    fourth.leave()


def test_a_clients_folder_is_one_clients(short_config, tmp_path, monkeypatch) -> None:
    import dataclasses

    from fs_fedmllm.hosts.federatedscope import runtime
    from fs_fedmllm.runs import opening

    monkeypatch.setattr(opening, "announce", lambda *_: False)
    config = short_config("cross_i3t7")
    config = dataclasses.replace(config, federate=dataclasses.replace(config.federate, mode="distributed"))
    sites = [runtime.Runtime(config, None, client=client) for client in (0, 3, 4, 3)]
    held = [site.claim(str(tmp_path / "job")).path for site in sites[:3]]
    assert held == [tmp_path / "job", tmp_path / "job" / "client_3", tmp_path / "job" / "client_4"]
    with pytest.raises(LockedError):
        sites[3].claim(str(tmp_path / "job" / "sub_exp_9"))
    for site in sites:
        site.leave()


def test_a_sweep_is_one_processs_and_one_in_which_no_cell_ran_says_so(tmp_path, monkeypatch, capsys) -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parent / "sweeps"))
    import short_table

    from fs_fedmllm.tools.sweeps import runner
    from fs_fedmllm.tools.sweeps.files import LOCK as SWEEP_LOCK

    table = short_table.write(tmp_path)
    out = tmp_path / "out"
    words = ["sweep", str(table), "--out", str(out), "--workers", "2"]
    out.mkdir()
    lock = Lock(out / SWEEP_LOCK)
    assert main(words) == 2
    assert "name another folder with --out" in capsys.readouterr().err and not (out / "sweep.json").exists()
    lock.release()
    monkeypatch.setattr(runner._Sweep, "_start", lambda self: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space")))
    assert main(words) == 1  # no cell could be started
    said = capsys.readouterr().out
    assert "0 of 4 cells finished" in said and said.count("failed: ") == 4
    empty = tmp_path / "empty.yaml"
    text = table.read_text()
    empty.write_text(text + "\nskip: [{method: fedavg}, {method: fedprox}]\n" if "skip:" not in text else text)
    assert main(["sweep", str(empty), "--out", str(tmp_path / "e")]) == 2
    assert "no cell to run" in capsys.readouterr().err
