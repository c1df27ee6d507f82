"""The hospitals of the example on NVFlare: provisioned, mutual TLS, every daemon and job a process of its own.

Both are marked ``slow``: four daemons, four job processes and three that train take a hundred seconds of a processor.
In the suite, ``test_nvflare_run.py`` has NVFlare's own server and client processes run a job to the embedded adapter,
``test_nvflare_rounds.py`` runs every algorithm over its tasks; jobs, kits, ``site``, ``submit`` and ``status`` are in
``tests/hosts/test_nvflare_job.py`` and ``test_nvflare_why.py``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import LONG, wait_until

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

from nvflare_federation import HOSPITALS, JOB, SERVER, SITES, Hospitals, children, hospitals

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.hosts.nvflare import admin
from fs_fedmllm.runs.simulation import run

#: The example with steps of no time.
WORDS = ["train.local_update_steps", "1", "fedmllm.eval.limit", "2", "eval.freq", "5"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    with hospitals(tmp_path_factory.mktemp("hospitals"), *WORDS) as made:
        yield made


def embedded_sha256(folder: Path, *words: str) -> str:
    results, _ = run(schema.load(HOSPITALS, [*WORDS, *words, "outdir", str(folder)]))
    return str(results["adapter_sha256"])


@pytest.mark.slow
def test_a_job_by_nvflares_own_client(
    federation: Hospitals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its smallest form: a round of a job that is submitted, listed, looked at and downloaded as any other."""
    one = ["federate.total_round_num", "1"]
    said = federation.nvflare("job", "submit", "-j", str(federation.job("smallest", *WORDS, *one)))
    job_id = said.split("job_id:")[1].split()[0]
    seen = []
    with admin.session(federation.admin) as opened:

        def ended() -> bool:
            word, ours = admin.standing(opened, job_id)
            if ours and not seen:
                seen.append(ours)
                capsys.readouterr()
                status = ["nvflare", "status", job_id, "--admin", str(federation.admin)]
                assert main([*status, "--json"]) == 0
                assert json.loads(capsys.readouterr().out)["nvflare"] == word
                assert main(status) == 0
                assert f"NVFlare: {word}\n" in capsys.readouterr().out
            return word.startswith("FINISHED")

        wait_until(ended, JOB, says=lambda: said)
        (listed,) = [entry for entry in opened.list_jobs() if entry["job_id"] == job_id]
        assert (listed["job_name"], listed["status"]) == ("smallest", "FINISHED:COMPLETED")
        assert seen and (seen[0]["site"], seen[0]["rounds"]) == ("server", 1)
        # A download has the job as it was signed; the adapter stays in the server's kit.
        downloaded = Path(opened.download_job_result(job_id))
        assert any(downloaded.rglob("meta.json"))
        assert not any(downloaded.rglob("*.safetensors"))
    results = federation.results("smallest")
    assert results["adapter_sha256"] == embedded_sha256(tmp_path, *one)
    assert (results["participants"], results["refused"]) == ([[1, 2, 3]], [])
    assert not (federation.folder("smallest") / "arriving").exists()


@pytest.mark.slow
def test_under_kills(federation: Hospitals, tmp_path: Path) -> None:
    """A training process, a site's job process, a site's machine and the server's machine are killed."""
    words = [*WORDS, "federate.total_round_num", "9"]
    submit = [sys.executable, "-m", "fs_fedmllm", "nvflare", "submit", str(federation.job("kills", *words))]
    follower = subprocess.Popen(
        [*submit, "--admin", str(federation.admin), "--follow"], stdout=subprocess.PIPE, text=True
    )

    def reach(number: int) -> None:
        """A round is under way, after so many."""
        wait_until(lambda: federation.rounds("kills") >= number or follower.poll() is not None, JOB)

    try:
        reach(1)
        (worker,) = federation.processes("hospital-2")
        for child in children(worker):  # training is killed: no round, no job is lost
            os.kill(child, signal.SIGKILL)
        reach(federation.rounds("kills") + 2)
        assert federation.processes("hospital-2") == [worker]
        (worker,) = federation.processes("hospital-1")
        os.kill(worker, signal.SIGKILL)  # NVFlare ends the job; ours goes on
        wait_until(lambda: not federation.processes(SERVER) or follower.poll() is not None, JOB)
        reach(federation.rounds("kills") + 1)
        for name in ("hospital-3", SERVER):
            federation.kill_daemon(name)
            federation.start(name)
            reach(federation.rounds("kills") + 2)
        said, _ = follower.communicate(timeout=JOB)
    finally:
        follower.kill()
    assert follower.returncode == 0, said
    results = federation.results("kills")
    assert results["adapter_sha256"] == embedded_sha256(tmp_path, *words), said
    assert (results["refused"], results["participants"]) == ([], [[1, 2, 3]] * 9)
    assert said.count("submitted") == 4, said
    wait_until(lambda: not any(federation.processes(name) for name in (SERVER, *SITES)), LONG)
