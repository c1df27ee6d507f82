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
from fs_fedmllm.hosts.nvflare.server_log import foreign_certificates, last_lines
from fs_fedmllm.hosts.nvflare.told import is_final, last_told, may_read, takes_no_part, tell
from fs_fedmllm.hosts.nvflare.why import Reason, reason

#: As NVFlare 2.9 writes it.
LINE = "2026-11-30 - FederatedServer - INFO - {} job 5ee due to reported failure from {}: {}\n"
FOREIGN = (
    "2026-11-30 07:38:29,218 - conn_manager - ERROR - Error processing frame: CommError: Code: BAD_DATA Error: "
    "connection CN00020 authenticated as 'hospital-3' but claimed endpoint '{}' requires identity 'b'\n"
)
ABORTED, BROKEN = "FINISHED:ABORTED", "FINISHED:EXECUTION_EXCEPTION"
EXCEPTION = LINE.format("Failing", "hospital-1", "exception")
ENDED, STOPPED = "hospital-1 has ended the job (exception)", "stopped after round 3"


class Kit:
    """An admin's session, to a server whose kit holds this."""

    def __init__(
        self,
        log: str = "",
        told: Any = None,
        job_log: str = "",
        site_log: str = "",
        ours: Any = None,
        at_server: bool = True,
        **meta: Any,
    ):
        self._ours, self._at_server = ours, at_server
        self._log, self._told, self._job_log, self._site_log = log, told, job_log, site_log
        self._meta = {"deploy_map": {"app": ["server", "a", "b", "c"]}, "min_clients": 2, **meta}
        self.submitted = self.aborted = 0

    def __enter__(self) -> Kit:
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit_job(self, path: str, submit_token: str = "") -> str:
        self.submitted += 1
        return "5ee"

    def get_job_meta(self, job_id: str) -> dict[str, Any]:
        return self._meta

    def abort_job(self, job_id: str) -> None:
        self.aborted += 1

    def show_stats(self, job_id: str, target: str) -> dict[str, Any]:
        return {"server": {"fs_fedmllm": self._ours} if self._ours else {}}

    def get_client_job_status(self) -> list[Any]:
        return []

    def get_system_info(self) -> Any:
        return SimpleNamespace(job_info=[SimpleNamespace(job_id="5ee")] if self._at_server else [])

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
         "A process that calls itself hospital-2 shows the certificate of 'hospital-3', so NVFlare", False),
        (BROKEN, Kit(told={"job": "5ee", "error": "the very sentence", "final": True}), "the very sentence", True),
        (BROKEN, Kit(told={"job": "5ee", "error": STOPPED, "final": False}), STOPPED, False),
        ("FINISHED:FAILED_TO_RUN", Kit(job_deploy_detail=["server: OK", "a: not authorized"]),
         "could not hand out the job: a: not authorized.", False),
        ("RUNNING", Kit(FOREIGN.format("b.5ee"), {"job": "5ee", "error": "", "done": True}),
         "The run is done, and its results are in its folder in the server's kit. NVFlare calls the job running until",
         False),
        (BROKEN, Kit(FOREIGN.format("b.5ee"), {"job": "5ee", "error": "too few", "final": True}),
         "too few A process that calls itself b shows the certificate of 'hospital-3'", True),
        ("FINISHED:CAN_NOT_SCHEDULE", Kit(), "Not connected to the server: b, c; connected: a.", False),
        ("SUBMITTED", Kit(FOREIGN.format("b")),
         "certificates. At 2026-11-30 07:38:29: A process that calls itself b shows the certificate of 'hospital-3'",
         False),
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
        ("SUBMITTED", Kit(FOREIGN.format("a"), deploy_map={"app": ["server", "a"]})),  # it is connected now
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


def follows(kit: Kit, folder: Path, **given: Any) -> tuple[str, list[str], int]:
    """What following a job ends with (its id, or an error's text), what was said, and how often it was looked at."""
    (folder / "meta.json").write_text(json.dumps({"deploy_map": {"app": ["server", "a", "b"]}}))
    said: list[str] = []
    looks: list[float] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        assert len(looks) < 3000, "it hangs"

    try:
        return follow(lambda: kit, folder, said.append, pause, **given), said, len(looks)
    except HostError as error:
        return str(error), said, len(looks)


def test_a_job_that_breaks_off_twice_in_the_same_way_without_a_round_is_not_submitted_again(tmp_path: Path) -> None:
    kit = Kit(EXCEPTION, status=BROKEN)
    ends, said, _ = follows(kit, tmp_path)
    assert ends.startswith(f"The job broke off twice in the same way without a round more ({BROKEN}). {ENDED}")
    assert (kit.submitted, len([line for line in said if "it goes on from its last round" in line])) == (2, 1)
    moves = {"round": 3, "rounds": 9, "doing": "turn"}  # where it had come to when it was looked at
    later = Kit(EXCEPTION, ours=moves, status="RUNNING")
    states = iter(["RUNNING", BROKEN] * 9)
    later.get_job_meta = lambda job_id: {"status": next(states)}  # type: ignore[method-assign]
    assert "twice in the same way without a round more" in follows(later, tmp_path)[0]
    assert later.submitted == 3  # the first time there were rounds
    unknown = Kit(status=BROKEN)
    assert "3 times in a row without a round more" in follows(unknown, tmp_path)[0]
    assert unknown.submitted == 3


def test_a_job_that_has_never_run_waits_for_its_sites_as_long_as_it_is_told_to(tmp_path: Path) -> None:
    kit = Kit(status="SUBMITTED")
    ends, said, looks = follows(kit, tmp_path)
    assert ends.startswith(
        "The job 5ee has waited 120 seconds for its sites, and was withdrawn. Not connected to the "
    )
    assert "b, c; connected: a." in ends and ends.endswith("with --wait 0 it waits as long as it takes.")
    assert (kit.submitted, kit.aborted, looks, len(said)) == (1, 1, 24, 2)
    assert follows(kit, tmp_path, wait=30.0)[2] == 6
    queued = Kit(
        status="SUBMITTED", deploy_map={"app": ["server", "a"]}
    )  # its sites are there: others have their turn
    with pytest.raises(AssertionError, match="it hangs"):
        follows(queued, tmp_path)
    with pytest.raises(AssertionError, match="it hangs"):
        follows(kit, tmp_path, wait=0.0)
    assert (kit.aborted, queued.aborted) == (2, 0)


def test_a_run_that_is_done_has_ended_although_nvflare_waits_for_a_site(tmp_path: Path) -> None:
    """It does so for 15 minutes where a site's process does not end by itself."""
    kit = Kit(told={"job": "5ee", "error": "", "done": True}, at_server=False, status="RUNNING")
    assert follows(kit, tmp_path)[0] == "5ee"
    assert (kit.submitted, kit.aborted) == (1, 1)
    late = Kit(LINE.format("Failing", "b", "exception"), {"job": "5ee", "error": "", "done": True}, status=BROKEN)
    assert follows(late, tmp_path)[0] == "5ee"
    assert late.submitted == 1


def test_a_server_process_that_tells_nothing_is_ended(tmp_path: Path) -> None:
    kit = Kit(status="RUNNING")
    ends, _, looks = follows(kit, tmp_path)
    assert "3 times in a row without a round more" in ends
    assert "the server's process tells nothing for 3600 seconds" in ends
    assert (kit.submitted, kit.aborted, looks) == (3, 3, 2160)


def test_whoever_follows_hears_once_which_sites_take_no_part_and_which_are_waited_for(tmp_path: Path) -> None:
    wrong = {"client": 1, "name": "a", "state": "not joined", "why": "was refused: a takes no part: its rows."}
    late = {"client": 2, "name": "b", "state": "not joined", "why": "has not joined since the server started"}
    ours = {"round": 0, "rounds": 3, "doing": "waiting for clients", "clients": [wrong, {**wrong, "client": 3}, late]}
    kit = Kit(ours=ours, status="RUNNING")
    (tmp_path / "meta.json").write_text(json.dumps({"deploy_map": {"app": ["server", "a", "b"]}}))
    said, looks = [], []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 9:
            kit._meta["status"] = "FINISHED:COMPLETED"

    follow(lambda: kit, tmp_path, said.append, pause)
    assert said[1:] == [
        "round 0 of 3 done, waiting for clients",
        "a takes no part: its rows.",
        "the job waits: its server waits for a, b",
    ]


def test_the_servers_own_log_names_sites_with_another_ones_certificate(tmp_path: Path) -> None:
    lines = [
        FOREIGN.format("b.5ee"),
        FOREIGN.format("b.old"),
        FOREIGN.format("c.5ee").replace("38:29", "39:30"),
        "5ee\n",
    ]
    assert last_lines(tmp_path, "5ee") == []  # NVFlare writes it elsewhere
    (tmp_path / "log.txt").write_bytes(b"\xff" * (1 << 18) + b"\n" + "".join(lines).encode())
    found = last_lines(tmp_path, "5ee")
    assert len(found) == 3
    assert foreign_certificates(found) == {
        "b": ("hospital-3", "2026-11-30 07:38:29"),
        "c": ("hospital-3", "2026-11-30 07:39:30"),
    }
    (tmp_path / "log.txt").write_text(FOREIGN.format("b.5ee") + "." * (1 << 18))
    assert last_lines(tmp_path, "5ee") == []  # it is long ago: only the end is read


def test_a_server_that_is_not_there_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nvflare.fuel.flare_api import flare_api

    class NoConnection(Exception): ...

    class AuthenticationError(Exception): ...

    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "fed_admin.json").write_text('{"admin": {"username": "a@b", "host": "h", "port": 8002}}')
    for kind, remedy in ((NoConnection, True), (AuthenticationError, False)):

        def fails(*given: object, kind: type[Exception] = kind, **more: object) -> None:
            raise kind("for 60.0 seconds")

        monkeypatch.setattr(flare_api, "new_secure_session", fails)
        with pytest.raises(HostError) as caught, admin.session(tmp_path):
            pass
        says = str(caught.value)
        assert says.startswith(
            f"The server of {tmp_path} cannot be reached as a@b at h:8002, as its startup/fed_admin.json says "
            f"({kind.__name__}: for 60.0 seconds)."
        )
        assert says.endswith("says so where another program has the port.") is remedy


def test_wait_belongs_to_follow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "meta.json").write_text("{}")
    submit = ["nvflare", "submit", str(tmp_path), "--admin", str(tmp_path)]
    for more, says in (
        (["--wait", "5"], "--wait says how long --follow lets the job wait for its sites; add --follow."),
        (["--follow", "--wait=-1"], "--wait -1 must be a number of seconds, or 0 for as long as it takes."),
        (["--follow", "--wait", "nan"], "--wait nan must be a number of seconds"),
    ):
        assert main([*submit, *more]) == 2
        assert says in " ".join(capsys.readouterr().err.split())


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
