"""``fs-fedmllm server`` and ``client`` before a model is loaded: refusals, folders, locks, and the log."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from short_runs import CONFIGS, SHORT

from fs_fedmllm.cli import main
from fs_fedmllm.errors import ModelError
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs import log_file
from fs_fedmllm.runs.log_file import log_in

PRESET = str(CONFIGS / "aligned_a50.yaml")
WORDS = [*SHORT, "federate.client_num", "2", "federate.sample_client_num", "2", "fedmllm.network.insecure", "True"]


class LoadedError(Exception):
    """A model would have been loaded."""


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def loads(*_args: object) -> None:
        raise LoadedError

    monkeypatch.setattr(Federation, "build", loads)
    monkeypatch.setenv("FEDERATEDSCOPE_HOME", str(tmp_path / "nowhere"))  # looked at by nobody
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("role", "words", "says"),
    [
        ("client", ["--id", "0"], "--id is 0; client ids begin with 1."),
        ("client", ["--id", "3"], "There is no client 3: federate.client_num is 2."),
        ("client", ["distribute.data_idx", "-2"], "distribute.data_idx is -2; it is the client's id, or -1"),
        ("client", ["distribute.data_idx", "one"], "distribute.data_idx is 'one'; it is the client's id"),
        ("client", [], "it is not clear which client this is"),
        ("server", ["--data", "absent"], "--data absent: there is no such folder."),
        ("server", ["federate.method", "local"], "has no meaning with federate.mode distributed"),
        ("server", ["fedmllm.network.adress", "a:1"], "did you mean"),
        ("server", ["wandb.use", "True"], "which only FederatedScope's monitor writes to"),
        ("server", ["somebody.elses", "1"], "unknown key 'somebody'"),
        (
            "server",
            ["fedmllm.privacy.dp.clip_norm", "1", "fedmllm.privacy.dp.noise_multiplier", "1",
             "fedmllm.privacy.dp.sampling", "poisson", "federate.sample_client_num", "1"],
            "fedmllm.privacy.dp.sampling is poisson, but the rounds of a run with federate.mode distributed have a",
        ),
    ],
)  # fmt: skip
def test_refusals_are_a_paragraph_and_leave_nothing(role, words, says, capsys, tmp_path) -> None:
    assert main([role, PRESET, *WORDS, "outdir", "runs", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fs-fedmllm: ") and says in said and len(said.strip().splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_folder_has_one_name_on_every_site(tmp_path: Path) -> None:
    """Where a site's data lies does not count, so server and clients on one machine share a folder."""
    dealt = ["data", "split", PRESET, "--out", "dealt", "--per-client-folders", *WORDS]
    assert main(dealt) == 0
    for role, own in (("server", "server"), ("client", "client_1"), ("client", "client_2")):
        with pytest.raises(LoadedError):
            main([role, PRESET, *WORDS, "outdir", "runs", "--data", f"dealt/{own}"])
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("aligned_a50-fedavg-")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"run.log", "client_1/run.log", "client_2/run.log"}
    assert "LoadedError" in (folder / "run.log").read_text()  # how it ended, with the traceback of a fault of ours


def test_one_process_at_a_time_in_a_sites_folder(monkeypatch, capsys, tmp_path) -> None:
    second: dict[str, int] = {}
    server, client = (["server"], ["client", "--id", "1"])

    def meanwhile(*_args: object) -> None:
        if not second:
            for words in (server, client):
                second[words[0]] = main([*words, PRESET, *WORDS, "outdir", "runs", "expname", "ward"])
        raise LoadedError

    for words, codes in ((server, {"server": 2}), (client, {"client": 2})):
        second.clear()
        monkeypatch.setattr(Federation, "build", meanwhile)
        with pytest.raises(LoadedError):
            main([*words, PRESET, *WORDS, "outdir", "runs", "expname", "ward"])
        capsys.readouterr()
        assert codes.items() <= second.items()


def test_a_finished_run_is_left_alone_and_a_clients_folder_is_the_same(tmp_path, caplog) -> None:
    (tmp_path / "runs" / "ward").mkdir(parents=True)
    (tmp_path / "runs" / "ward" / "results.json").write_text("{}")
    words = [PRESET, *WORDS, "outdir", "runs", "expname", "ward"]
    with pytest.raises(LoadedError):
        main(["server", *words])
    assert "holds a finished run" in caplog.text and (tmp_path / "runs" / "ward-2" / "run.log").is_file()
    assert [path.name for path in (tmp_path / "runs" / "ward").iterdir()] == ["results.json"]
    with pytest.raises(LoadedError):
        main(["client", "--id", "2", *words])
    assert (tmp_path / "runs" / "ward" / "client_2" / "run.log").is_file()


def test_a_log_has_what_the_terminal_does_not_show(tmp_path, capsys, monkeypatch) -> None:
    logger = logging.getLogger("fs_fedmllm")
    monkeypatch.setattr(logger, "propagate", False)  # pytest's own handlers stand for nobody here
    for _ in range(2):
        with log_in(tmp_path):
            logging.getLogger("fs_fedmllm.distributed").info("joined")
            logger.warning("lost")
    with pytest.raises(ModelError), log_in(tmp_path):
        raise ModelError("There is no such model.")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split("+00:00 ")[1] for line in lines] == [
        *["INFO fs_fedmllm.distributed: joined", "WARNING fs_fedmllm: lost"] * 2,
        "ERROR fs_fedmllm: There is no such model.",
    ]
    assert capsys.readouterr().err == "lost\nlost\n"
    assert not logger.handlers and not logger.isEnabledFor(logging.INFO)


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path, capsys, monkeypatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_file._File, "flush", full)
    with log_in(tmp_path):
        for _ in range(3):
            logging.getLogger("fs_fedmllm").info("joined")
        monkeypatch.undo()
    assert capsys.readouterr().err.count("run.log cannot be written: [Errno 28] No space left on device") == 1


def test_status_reads_what_a_site_left(tmp_path, capsys) -> None:
    status = {"site": "client 1", "doing": "waiting", "round": 1, "rounds": 2, "updated": "now", "last_error": ""}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("client 1: waiting, round 1 of 2 done (as of now)")


@pytest.mark.parametrize("status", [{}, {"site": "client 1", "doing": "waiting", "round": 1, "rounds": 2}])
def test_a_status_of_something_else_is_refused(status, tmp_path, capsys) -> None:
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert main(["status", str(tmp_path)]) == 2
    assert "as every status of a run has. Name the run folder of a distributed run" in capsys.readouterr().err
