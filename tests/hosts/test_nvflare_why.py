"""Why a job does not run, from what an admin may ask of NVFlare's server; NVFlare itself is not run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fs_fedmllm.cli import main
from fs_fedmllm.distributed.protocol import NetworkError, TurnedAwayError
from fs_fedmllm.errors import ConfigError, DataError, HostError, LockedError, ModelError, StorageError
from fs_fedmllm.hosts.nvflare import admin
from fs_fedmllm.hosts.nvflare.follow import follow
from fs_fedmllm.hosts.nvflare.policy import CONTROLLER, EXECUTOR
from fs_fedmllm.hosts.nvflare.told import is_final, last_told, may_read, takes_no_part, tell
from fs_fedmllm.hosts.nvflare.why import Reason, reason

#: As NVFlare 2.9 writes it.
LINE = "2026-11-30 - FederatedServer - INFO - {} job 5ee due to reported failure from {}: {}\n"
ABORTED, BROKEN = "FINISHED:ABORTED", "FINISHED:EXECUTION_EXCEPTION"
EXCEPTION = LINE.format("Failing", "hospital-1", "exception")
ENDED, STOPPED = "hospital-1 has ended the job (exception)", "stopped after round 3"


class Kit:
    """An admin's session, to a server whose kit holds this."""

    def __init__(self, log: str = "", told: Any = None, job_log: str = "", site_log: str = "", **meta: Any):
        self._log, self._told, self._job_log, self._site_log = log, told, job_log, site_log
        self._meta = {"deploy_map": {"app": ["server", "a", "b", "c"]}, "min_clients": 2, **meta}
        self.submitted = 0

    def __enter__(self) -> Kit:
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit_job(self, path: str, submit_token: str = "") -> str:
        self.submitted += 1
        return "5ee"

    def get_job_meta(self, job_id: str) -> dict[str, Any]:
        return self._meta

    def get_connected_client_list(self) -> list[Any]:
        return [SimpleNamespace(name="a")]

    def grep_target(self, target: str, pattern: str, file: str) -> str:
        log = {("server", "log.txt"): self._log, ("hospital-2", "5ee/log.txt"): self._site_log}.get((target, file), "")
        found = [line for line in log.splitlines(keepends=True) if re.search(pattern.replace("(", r"\("), line)]
        if any("not authorized" in line for line in found):
            raise PermissionError("NVFlare's client takes that for an answer to the question")
        return "".join(found)

    def cat_target(self, target: str, file: str) -> str:
        assert (target, file) == ("server", "fedmllm.json")
        return "cat: fedmllm.json: No such file or directory" if self._told is None else json.dumps(self._told)

    def get_job_logs(self, job_id: str, target: str) -> dict[str, Any]:
        return {"logs": {"server": self._job_log}}


@pytest.mark.parametrize(
    ("word", "kit", "says", "final"),
    [
        (ABORTED, Kit(LINE.format("Aborting", "hospital-2", "unsafe component")),
         f"hospital-2 does not let our jobs in: class_allow_list in local/resources.json of its kit lacks {EXECUTOR}. "
         "Run fs-fedmllm nvflare site KIT there", True),
        ("FINISHED:ABNORMAL", Kit(LINE.format("Failing", "hospital-2", "infrastructure error"), site_log=(
            "    raise ComponentNotAuthorized(\nComponentNotAuthorized: not authorized: it is not in allow_list")),
         f"hospital-2 does not let our jobs in: class_allow_list in local/resources.json of its kit lacks {EXECUTOR}",
         True),
        (BROKEN, Kit(LINE.format("Failing", "hospital-2", "infrastructure error"), site_log="an allow_list was read"),
         "hospital-2 has ended the job (infrastructure error)", False),
        (BROKEN, Kit(job_log=f"Component {CONTROLLER!r} at config path 'workflows' is not in allow_list\n"),
         "The server does not let our jobs in: class_allow_list in local/resources.json of its kit lacks "
         f"{CONTROLLER}. Run fs-fedmllm nvflare site KIT there", True),
        (BROKEN, Kit(EXCEPTION), ENDED, False),
        (BROKEN, Kit(EXCEPTION, {"job": "5ee", "error": STOPPED}), ENDED, False),
        ("RUNNING", Kit("Error: connection C authenticated as 'hospital-3' but claimed endpoint 'hospital-2.5ee'\n"),
         "hospital-2 shows the certificate of 'hospital-3', so NVFlare takes nothing from it: startup/client", False),
        (BROKEN, Kit(told={"job": "5ee", "error": "the very sentence", "final": True}), "the very sentence", True),
        (BROKEN, Kit(told={"job": "5ee", "error": STOPPED, "final": False}), STOPPED, False),
        ("FINISHED:FAILED_TO_RUN", Kit(job_deploy_detail=["server: OK", "a: not authorized"]),
         "could not hand out the job: a: not authorized.", False),
        ("SUBMITTED", Kit(), "Not connected to the server: b, c; connected: a. The job waits for 2 of its 3 sites.",
         False),
    ],
)  # fmt: skip
def test_a_job_that_does_not_run_says_why(word: str, kit: Kit, says: str, final: bool) -> None:
    found = reason(kit, "5ee", word)
    assert found is not None
    assert says in found.says and found.final is final


@pytest.mark.parametrize(
    ("word", "kit"),
    [
        ("RUNNING", Kit(told={"job": "5ee", "error": "of a round"})),
        ("FINISHED:COMPLETED", Kit(EXCEPTION)),
        (BROKEN, Kit(told={"job": "another", "error": "of another job"})),
        (BROKEN, Kit(EXCEPTION.replace(" 5ee ", " another "))),
        (BROKEN, Kit(told=[])),
        ("SUBMITTED", Kit(deploy_map={"app": ["server", "a"]})),
        (BROKEN, object()),  # an admin who may ask nothing of this
        ("SUBMITTED", object()),
    ],
)
def test_nothing_is_said_where_nothing_is_known(word: str, kit: Any) -> None:
    assert reason(kit, "5ee", word) is None


def test_a_job_that_cannot_end_otherwise_is_submitted_once(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"deploy_map": {"app": ["server", "a"]}}))
    kit = Kit(LINE.format("Aborting", "a", "unsafe component"), status=ABORTED)
    with pytest.raises(HostError, match=r"The job 5ee has ended \(FINISHED:ABORTED\)\. a does not let our jobs in"):
        follow(lambda: kit, tmp_path, lambda line: None, lambda seconds: None)
    assert kit.submitted == 1


def test_whoever_follows_hears_why_a_job_waits(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"deploy_map": {"app": ["server", "a"]}}))
    kit, said, looks = Kit(status="SUBMITTED"), [], []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 9:
            kit._meta["status"] = "FINISHED:COMPLETED"

    assert follow(lambda: kit, tmp_path, said.append, pause) == "5ee"
    assert [line for line in said if "waits" in line] == [f"the job waits: {reason(Kit(), 'j', 'SUBMITTED').says}"]


def test_status_says_why_in_words_and_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = Kit(LINE.format("Aborting", "hospital-2", "unsafe component"), status=ABORTED)
    monkeypatch.setattr(admin, "session", lambda folder: kit)
    found = reason(kit, "5ee", ABORTED)
    assert isinstance(found, Reason)
    assert main(["nvflare", "status", "5ee", "--admin", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"NVFlare: {ABORTED}\nwhy: {found.says}\n"
    assert main(["nvflare", "status", "5ee", "--admin", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"nvflare": ABORTED, "why": found.says}


def test_what_another_site_may_read_of_an_error_has_nothing_of_this_one_in_it(tmp_path: Path) -> None:
    secret = "/ward/7: row 'Jane Doe, 1950'"
    for error, says in (
        (DataError(secret), "its rows or images (data.root) cannot be used"),
        (ModelError(secret), "its base model (model.fedmllm.path) cannot be used"),
        (LockedError(secret), "another process uses its run folder"),
        (StorageError(secret), "it cannot write its files"),
        (ConfigError(secret), "it has met a ConfigError"),
        (ValueError(secret), "it has met a ValueError"),
        (ConfigError(secret).telling("data.root is another client's folder"), "data.root is another client's folder"),
    ):
        assert may_read(error) == says
    assert takes_no_part("hospital-2", "it cannot write its files").startswith(
        "hospital-2 takes no part: it cannot write its files. Correct that there (fs-fedmllm doctor --nvflare KIT"
    )
    for content in (None, "[]", "no JSON"):
        if content is not None:
            (tmp_path / "fedmllm.json").write_text(content)
        assert last_told(tmp_path) == {}
    tell(tmp_path, {"job": "5ee", "error": secret})
    assert last_told(tmp_path)["error"] == secret
    assert (tmp_path / "fedmllm.json").stat().st_mode & 0o777 == 0o600


def test_errors_that_submitting_again_does_not_change() -> None:
    assert all(is_final(kind("")) for kind in (ConfigError, DataError, ModelError, TurnedAwayError))
    assert not any(is_final(kind("")) for kind in (HostError, NetworkError, StorageError, LockedError))
