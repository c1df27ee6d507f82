"""Sites that are wrong, in a real federation: each is named with its file, key and remedy, and no job hangs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from waiting import wait_until

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

from nvflare_federation import JOB, SERVER, Hospitals, hospitals

from fs_fedmllm.cli import main
from fs_fedmllm.hosts.nvflare import admin
from fs_fedmllm.hosts.nvflare.policy import CONTROLLER, EXECUTOR, examined
from fs_fedmllm.models.loader import TINY

WORDS = ["train.local_update_steps", "1", "fedmllm.eval.limit", "2", "federate.total_round_num", "1", "eval.freq", "1"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    """Its processes die as they start where a test says so: see ``dying``."""
    dying = str(Path(__file__).resolve().parent / "dying")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [dying, os.environ.get("PYTHONPATH")])))
        with hospitals(tmp_path_factory.mktemp("hospitals"), *WORDS) as made:
            yield made


@contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    """A file of a kit, as somebody has it wrong."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def without(federation: Hospitals, name: str, entry: str) -> tuple[Path, bytes]:
    """``resources.json`` of a kit that does not list a class."""
    path = federation.kits[name] / "local" / "resources.json"
    found = json.loads(path.read_text())
    found["class_allow_list"].remove(entry)
    return path, json.dumps(found).encode()


def own(federation: Hospitals, name: str, **keys: Any) -> tuple[Path, bytes]:
    """``fedmllm.yaml`` of a kit with further keys."""
    path = federation.kits[name] / "local" / "fedmllm.yaml"
    return path, yaml.safe_dump({**yaml.safe_load(path.read_text()), **keys}).encode()


def followed(federation: Hospitals, job: Path, *words: str) -> tuple[int, str]:
    """Submit a job and stay with it; exit code, and all that was said."""
    command = [sys.executable, "-m", "fs_fedmllm", "nvflare", "submit", str(job), "--admin", str(federation.admin)]
    done = subprocess.run([*command, "--follow", *words], text=True, capture_output=True, timeout=JOB, check=False)
    return done.returncode, done.stdout + done.stderr


def submitted(said: str) -> str:
    """The id of the job that was submitted last."""
    return [line.split()[-1] for line in said.splitlines() if line.startswith("submitted")][-1]


def status(federation: Hospitals, said: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``nvflare status`` says of the job that was submitted last."""
    capsys.readouterr()
    assert main(["nvflare", "status", submitted(said), "--admin", str(federation.admin)]) == 0
    return capsys.readouterr().out


def doctor(federation: Hospitals, name: str) -> str:
    """What ``doctor --nvflare`` says of a kit."""
    return "\n".join(
        f"{subject}: {found}" for subject, right, found, _ in examined(federation.kits[name]) if not right
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "entry"), [("hospital-2", EXECUTOR), (SERVER, CONTROLLER)])
def test_a_kit_that_does_not_list_our_class(
    name: str, entry: str, federation: Hospitals, capsys: pytest.CaptureFixture[str]
) -> None:
    who = "The server" if name == SERVER else name
    with changed(*without(federation, name, entry)):
        code, said = followed(federation, federation.job(f"unlisted-{name}", *WORDS))
        assert (code, said.count("submitted")) == (2, 1), said  # the same job would end in the same way
        sentence = (
            f"{who} does not let our jobs in: class_allow_list in local/resources.json of its kit lacks {entry}."
        )
        assert sentence in " ".join(said.split())
        assert "Run fs-fedmllm nvflare site KIT there" in said
        assert sentence in status(federation, said, capsys)
        assert f"does not let {entry} in" in doctor(federation, name)


@pytest.mark.slow
def test_two_sites_with_a_wrong_file_and_a_wrong_folder_end_the_job_at_once(
    federation: Hospitals, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of three are no quorum; nobody waits hours for sites that cannot come."""
    folder = str(federation.kits["hospital-1"].parent / "data")
    with (
        changed(*own(federation, "hospital-2", train={"local_update_steps": 5})),
        changed(*own(federation, "hospital-3", data={"root": folder})),
    ):
        code, said = followed(federation, federation.job("two-wrong", *WORDS))
        assert (code, said.count("submitted")) == (2, 1), said
        words = " ".join(said.split())
        assert "Round 0 needs 2 of 3 clients, and 2 do not take part. hospital-2 takes no part: " in words
        assert "local/fedmllm.yaml sets 'train.local_update_steps', which is not a site's own affair" in words
        assert "hospital-3 takes no part: data.root is another client's folder, not client 3's" in words
        ends = words.rpartition("fs-fedmllm: The job ")[2]  # some of it may have been said before, as it was found
        assert ends.count("Correct that there (fs-fedmllm doctor --nvflare KIT says more on that machine)") == 2
        assert folder not in said  # where a site keeps its data stays there
        assert "hospital-3 takes no part: data.root is another client's folder" in status(federation, said, capsys)
        assert f"{folder} (data.root) is the folder of client 1, not of client 3" in doctor(federation, "hospital-3")
        assert "train.local_update_steps is not a site's own affair" in doctor(federation, "hospital-2")
        assert "hospital-3 takes no part" in doctor(federation, SERVER)


@pytest.mark.slow
def test_a_site_with_another_base_takes_no_part_and_the_others_go_on(federation: Hospitals, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(TINY, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with changed(*own(federation, "hospital-2", model={"fedmllm": {"path": str(other)}})):
        code, said = followed(federation, federation.job("other-base", *WORDS))
    assert code == 0, said
    assert federation.results("other-base")["participants"] == [[1, 3]]
    clients: list[Mapping[str, Any]] = json.loads((federation.folder("other-base") / "status.json").read_text())[
        "clients"
    ]
    assert "was refused: hospital-2 takes no part: The base weights of client 2 (fingerprint" in clients[1]["why"]
    assert "Compare model.fedmllm.path" in clients[1]["why"]


@contextmanager
def foreign(federation: Hospitals) -> Iterator[None]:
    """The kit of hospital-2 has the certificate of hospital-3."""
    mine, other = (federation.kits[name] / "startup" for name in ("hospital-2", "hospital-3"))
    with (
        changed(mine / "client.crt", (other / "client.crt").read_bytes()),
        changed(mine / "client.key", (other / "client.key").read_bytes()),
    ):
        yield


#: What NVFlare's server says of that site, and nobody of that site itself.
FOREIGN = (
    "A process that calls itself hospital-2 shows the certificate of 'hospital-3', so NVFlare takes nothing from it."
)
#: A site whose process has begun is not left behind before this, and one with that certificate is soon after.
BEGIN = ["fedmllm.network.begin_timeout", "60"]


@pytest.mark.slow
def test_a_certificate_of_another_site_and_a_site_that_nobody_has_end_the_job(
    federation: Hospitals, capsys: pytest.CaptureFixture[str]
) -> None:
    with foreign(federation):
        job = federation.job("whose", *WORDS, *BEGIN, sites=("hospital-1", "hospital-2", "hospital-9"))
        code, said = followed(federation, job)
        assert (code, said.count("submitted")) == (2, 1), said
        words = " ".join(said.split())
        assert "Round 0 needs 2 of 3 clients, and 2 do not take part." in words
        assert FOREIGN in words and FOREIGN in status(federation, said, capsys)
        assert "hospital-9 takes no part: it was not connected when NVFlare began the job" in words
        assert "is the certificate of 'hospital-3', and this site is 'hospital-2'" in doctor(federation, "hospital-2")


@pytest.mark.slow
def test_the_others_go_on_without_a_site_with_another_ones_certificate(federation: Hospitals) -> None:
    with foreign(federation):
        code, said = followed(federation, federation.job("without", *WORDS, *BEGIN))
        assert (code, said.count("submitted")) == (0, 1), said
    # What the site says of it itself may come, by way of its daemon, before nobody waits for that any more.
    own = "hospital-2 takes no part: startup/client.crt is the certificate of 'hospital-3', not of this site."
    assert any(says in " ".join(said.split()) for says in (FOREIGN, own)), said
    assert federation.results("without")["participants"] == [[1, 3]]


@contextmanager
def dying(federation: Hospitals, module: str) -> Iterator[None]:
    """Processes of this module die at hospital-2 as they start."""
    dies = federation.kits["hospital-2"] / "dies"
    dies.write_text(module)
    try:
        yield
    finally:
        dies.unlink()


@pytest.mark.slow
def test_a_training_process_that_dies_at_each_start_is_a_site_that_takes_no_part(federation: Hospitals) -> None:
    with dying(federation, "fs_fedmllm.hosts.nvflare.site_process"):
        code, said = followed(federation, federation.job("dies", *WORDS))
    assert (code, said.count("submitted")) == (0, 1), said
    assert "hospital-2 takes no part: the site's training process ended (signal 9, out of memory?)" in said
    assert federation.results("dies")["participants"] == [[1, 3]]


@pytest.mark.slow
def test_a_job_process_that_dies_at_each_start_ends_the_job_the_second_time(federation: Hospitals) -> None:
    with dying(federation, "nvflare.private.fed.app.client.worker_process"):
        code, said = followed(federation, federation.job("dies-first", *WORDS))
    assert (code, said.count("submitted")) == (2, 2), said
    words = " ".join(said.split())
    assert "The job broke off twice in the same way without a round more" in words
    assert "hospital-2 has ended the job" in words


@pytest.mark.slow
def test_a_job_for_sites_that_are_in_no_kit_is_withdrawn(federation: Hospitals) -> None:
    job = federation.job("nobody", *WORDS, sites=("hospital-1", "hospital-8", "hospital-9"))
    code, said = followed(federation, job, "--wait", "15")
    assert (code, said.count("submitted")) == (2, 1), said
    words = " ".join(said.split())
    assert "has waited 15 seconds for its sites, and was withdrawn. Not connected to the server: hospital-8, " in words
    with admin.session(federation.admin) as opened:
        assert admin.standing(opened, submitted(said))[0] == "FINISHED:ABORTED"


@pytest.mark.slow
def test_a_job_that_waits_for_sites_says_for_which(federation: Hospitals, capsys: pytest.CaptureFixture[str]) -> None:
    job = federation.job("waits", *WORDS, sites=("hospital-1", "hospital-8", "hospital-9"))
    with admin.session(federation.admin) as opened:
        job_id = admin.submit(opened, job)
        try:
            said = status(federation, f"submitted as {job_id}", capsys)
            assert "NVFlare: SUBMITTED\n" in said
            assert "Not connected to the server: hospital-8, hospital-9; connected: hospital-1, hospital-2" in said
            assert "The job waits for 2 of its 3 sites. Start NVFlare there" in said
        finally:
            opened.abort_job(job_id)
        wait_until(lambda: admin.standing(opened, job_id)[0].startswith("FINISHED"), JOB)
