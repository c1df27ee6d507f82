"""A job's folder, a site's own settings and policy, and an admin who stays with a job; NVFlare itself is not run."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from short_runs import CONFIGS, REPOSITORY

from fs_fedmllm.cli import main
from fs_fedmllm.errors import ConfigError, HostError
from fs_fedmllm.hosts.nvflare import watch
from fs_fedmllm.hosts.nvflare.admin import AwayError, standing
from fs_fedmllm.hosts.nvflare.follow import follow
from fs_fedmllm.hosts.nvflare.policy import CONTROLLER, EXECUTOR, examined
from fs_fedmllm.hosts.nvflare.settings import RESERVED, site_config
from fs_fedmllm.hosts.nvflare.sites import check_sites, dealt
from fs_fedmllm.hosts.nvflare.told import tell

pytest.importorskip("nvflare", reason="NOT RUN: the extra nvflare is not installed")

from nvflare_kits import certified

HOSPITALS = str(REPOSITORY / "examples" / "hospitals" / "hospitals.yaml")


def kit(folder: Path, role: str = "client", **resources: Any) -> Path:
    """What ``nvflare provision`` gives a site, as far as we look at it."""
    (folder / "startup").mkdir(parents=True, exist_ok=True)
    (folder / "local").mkdir()
    own = folder / "startup" / f"fed_{role}.json"
    if not own.exists():  # a certified kit has one
        own.write_text("{}")
    found = {"class_allow_list": ["nvflare.app_common."], "allow_log_streaming": True} | resources
    (folder / "local" / "resources.json.default").write_text(json.dumps(found))
    return folder


def job(folder: Path, *words: str) -> Path:
    """A job's ``config`` folder as a site finds it."""
    assert main(["nvflare", "job", HOSPITALS, "--out", str(folder), *words]) == 0
    return folder / "app" / "config"


def test_a_job_is_a_configuration_and_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = job(tmp_path / "job", "--sites", "b,a", "seed", "5", "data.root", "/somewhere")
    assert "b: clients 1, 3\na: client 2\n" in (said := capsys.readouterr().out)
    assert "each site has its own (local/fedmllm.yaml): " in said and "data.root" in said and "outdir" in said
    files = sorted(str(path.relative_to(tmp_path / "job")) for path in (tmp_path / "job").rglob("*") if path.is_file())
    assert files == ["app/config/config_fed_client.json", "app/config/config_fed_server.json",
                     "app/config/fedmllm.yaml", "meta.json"]  # fmt: skip
    meta = json.loads((tmp_path / "job" / "meta.json").read_text())
    assert (meta["deploy_map"], meta["min_clients"]) == ({"app": ["server", "b", "a"]}, 1)
    for name in ("client", "server"):
        text = (place / f"config_fed_{name}.json").read_text()
        assert '"path": "fs_fedmllm.' in text and "nvflare." not in text.replace("hosts.nvflare.", "")
    client = json.loads((place / "config_fed_client.json").read_text())
    assert client["max_runner_sync_timeout"] > 60  # NVFlare's default, which is too short for a busy machine
    config = site_config(place, kit(tmp_path / "kit"))
    assert (config.seed, config.federate.mode) == (5, "distributed")
    assert config.data.root == str(tmp_path / "kit" / "data")
    assert config.outdir == str(tmp_path / "kit" / "exp")  # outside the job's own folder, which goes with the job
    assert main(["nvflare", "job", HOSPITALS, "--out", str(tmp_path / "job")]) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["federate.method", "local"], "federate.method local has no meaning"),
        (["fedmllm.checkpoint_every", "2"], "fedmllm.checkpoint_every"),
        (["fedmllm.eval.metrics", "[metrics/mine.py]"], "names the file metrics/mine.py, which is code"),
        (["federate.save_to", "/etc/adapter"], "federate.save_to"),
        (["--sites", "a,b,c,d"], "4 sites are named for 3 clients"),
        (["--sites", "server,b"], "'server' cannot be a site's name"),
        (["--sites", "a,../b"], "cannot be a site's name"),
    ],
)
def test_what_does_not_run_is_refused_before_anything_is_written(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nvflare", "job", HOSPITALS, "--out", str(tmp_path / "job"), *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(
    "line",
    ["outdir: /etc", "data: {root: /etc}", "model: {type: fedmllm, fedmllm: {trust_remote_code: True}}",
     "fedmllm: {vision_cache: {folder: /etc}}", "federate: {save_to: /etc/x}", "fedmllm: {eval: {metrics: [x/y.py]}}"],
)  # fmt: skip
def test_a_site_refuses_a_job_that_names_its_places_or_brings_code(line: str, tmp_path: Path) -> None:
    place = tmp_path / "config"
    place.mkdir()
    (place / "fedmllm.yaml").write_text(line + "\n")
    with pytest.raises(ConfigError):
        site_config(place, kit(tmp_path / "kit"))


def test_a_sites_own_file_holds_its_own_affair_and_nothing_else(tmp_path: Path) -> None:
    place, site = job(tmp_path / "job"), kit(tmp_path / "kit")
    own = site / "local" / "fedmllm.yaml"
    own.write_text("data: {root: here}\nfedmllm: {threads: 3, data: {title: ours}}\n")
    config = site_config(place, site)
    assert (config.data.root, config.fedmllm.threads) == (str(site / "here"), 3)
    assert config.fedmllm.data == {"title": "ours"}
    own.write_text("train: {local_update_steps: 50}\n")
    with pytest.raises(ConfigError, match=r"train\.local_update_steps is not a site's own affair"):
        site_config(place, site)


def test_a_site_is_made_ready_once_and_the_doctor_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fs_fedmllm.tools import doctor

    site, data = certified(tmp_path, ["hospital-1", "hospital-2"])["hospital-1"], tmp_path / "rows"
    startup = site / "startup" / "fed_client.json"
    kit(site)
    data.mkdir()

    def findings() -> dict[str, doctor.Finding]:
        return {finding.subject: finding for finding in doctor._nvflare(site)}

    before = findings()
    assert before["class_allow_list"].verdict == before["log streaming"].verdict == doctor.BAD
    assert f"fs-fedmllm nvflare site {site}" in before["class_allow_list"].remedy
    assert main(["nvflare", "site", str(site), "--data", str(data), "--own-rows"]) == 0
    assert "log_streaming is false now" in capsys.readouterr().out
    found = json.loads((site / "local" / "resources.json").read_text())
    assert found == {"class_allow_list": ["nvflare.app_common.", EXECUTOR], "allow_log_streaming": False}
    assert {finding.verdict for finding in findings().values()} == {doctor.GOOD}
    assert str(data) in findings()["local/fedmllm.yaml"].found
    assert main(["nvflare", "site", str(site)]) == 0  # again: nothing is left to change, and nothing is lost
    assert capsys.readouterr().out == f"{site} is ready.\n"
    assert str(data) in findings()["local/fedmllm.yaml"].found
    assert main(["nvflare", "site", str(tmp_path)]) == 2
    assert "is not an NVFlare workspace" in capsys.readouterr().err
    for text, says in (('{"require_signed_jobs": false}', "may change a job"), ("no JSON", "cannot be read")):
        startup.write_text(text)
        found = findings()["job signatures"]
        assert (found.verdict, says in found.found, bool(found.remedy)) == (doctor.BAD, True, True)
        found = findings()["certificate"]
        assert (found.verdict, "does not name the site" in found.found) == (doctor.BAD, True)
    assert main(["nvflare", "site", str(site), "--data", str(tmp_path / "none")]) == 2


def test_the_doctor_names_a_certificate_of_another_site_and_what_went_wrong_in_the_last_job(tmp_path: Path) -> None:
    kits = certified(tmp_path, ["hospital-1", "hospital-2"])
    site = kit(kits["hospital-1"])

    def found(subject: str) -> tuple[bool, str, str]:
        return next(entry[1:] for entry in examined(site) if entry[0] == subject)

    assert found("certificate") == (True, "of hospital-1", "")
    assert "last job" not in [entry[0] for entry in examined(site)]
    tell(site, {"job": "j", "error": ""})
    assert found("last job") == (True, "nothing went wrong here", "")
    tell(site, {"job": "j", "error": "row 3 of /ward/rows.csv is wrong"})
    assert found("last job") == (False, "row 3 of /ward/rows.csv is wrong", "Correct that, and submit the job again.")
    for name in ("client.crt", "client.key"):
        (site / "startup" / name).write_bytes((kits["hospital-2"] / "startup" / name).read_bytes())
    right, says, remedy = found("certificate")
    assert not right and "is the certificate of 'hospital-2', and this site is 'hospital-1'" in says
    assert "own kit" in remedy


@pytest.mark.parametrize(
    ("entry", "fine"),
    [("*", True), ("fs_fedmllm.", True), ("fs_fedmllm", True), (EXECUTOR, True), (CONTROLLER, False), ("fs_", False),
     (7, False), ("", False)],
)  # fmt: skip
def test_the_doctor_reads_the_list_as_nvflare_does(entry: object, fine: bool, tmp_path: Path) -> None:
    site = kit(tmp_path / "site", class_allow_list=[entry])
    assert next(found for found in examined(site) if found[0] == "class_allow_list")[1] is fine


def test_a_template_of_ones_own_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = (REPOSITORY / "data_templates" / "digits_triage.yaml").read_bytes()
    (tmp_path / "mine.yaml").write_bytes(shipped)
    place = job(tmp_path / "job", "fedmllm.template", str(tmp_path / "mine.yaml"))
    assert (place / "template.yaml").read_bytes() == shipped
    assert str(tmp_path) not in (place / "fedmllm.yaml").read_text()  # where it lay is nobody's business
    assert site_config(place, kit(tmp_path / "kit")).fedmllm.template == str(place / "template.yaml")
    text = (place / "fedmllm.yaml").read_text().replace("template: template.yaml", "template: /etc/mine.yaml")
    (place / "fedmllm.yaml").write_text(text)
    with pytest.raises(ConfigError, match="a file on somebody's machine"):
        site_config(place, tmp_path / "kit")


def test_a_servers_jobs_lie_in_its_own_workspace(tmp_path: Path) -> None:
    site = kit(tmp_path / "site", "server", components=[{"args": {"uri_root": "/tmp/nvflare/jobs-storage"}}])
    before = next(entry for entry in examined(site) if entry[0] == "job store")
    assert before[1] is False and f"fs-fedmllm nvflare site {site}" in before[3]
    assert main(["nvflare", "site", str(site)]) == 0
    assert ("job store", True, "not in a shared place", "") in examined(site)
    found = json.loads((site / "local" / "resources.json").read_text())
    assert found["components"][0]["args"]["uri_root"] == f"{site}/storage/jobs-storage"
    assert found["class_allow_list"][-1] == CONTROLLER
    assert found["allow_log_streaming"] is True  # what a server receives is not a site's log


def test_the_server_tells_nvflares_statistics_how_the_run_stands() -> None:
    """What ``fs-fedmllm nvflare status`` shows of a job that runs; a client without a name has its site's."""
    from nvflare.apis.fl_context import FLContext
    from nvflare.widgets.info_collector import GroupInfoCollector, InfoCollector

    from fs_fedmllm.hosts.nvflare.controller import FedMLLMController

    controller = FedMLLMController({"north": [1], "south": [2]})
    context, collector = FLContext(), GroupInfoCollector()
    context.set_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR, collector, private=True, sticky=False)
    controller.handle_event(InfoCollector.EVENT_TYPE_GET_STATS, context)  # before the run begins
    assert collector.info == {}
    clients = [{"client": 1, "name": ""}, {"client": 2, "name": "Ward 7"}]
    controller._server = SimpleNamespace(status=lambda: {"round": 2, "rounds": 5, "clients": clients})  # type: ignore
    controller.handle_event(InfoCollector.EVENT_TYPE_GET_STATS, context)
    told = collector.info["fs_fedmllm"]
    assert (told["round"], told["rounds"]) == (2, 5) and told["updated"]
    assert [entry["name"] for entry in told["clients"]] == ["north", "Ward 7"]


def test_the_page_says_how_long_it_waits_and_how_often_it_asks() -> None:
    from fs_fedmllm.hosts.nvflare import follow, simulate, watch
    from fs_fedmllm.hosts.nvflare import job as jobs

    page = " ".join((REPOSITORY / "docs" / "nvflare.md").read_text().split())
    assert f"Sites poll for tasks every {jobs.POLL:g} s in our jobs" in page
    assert simulate.SITES == 3 and "the server and three sites (fewer if there are fewer clients)" in page
    assert follow.WAIT == 120 and "withdraws a job that has never run after two minutes of that" in page
    assert follow._TRIES == 3 and "or three times in a row, without completing a further round" in page
    assert watch._LOOK * watch._IDLE <= 30 and "notices within half a minute that the site is there" in page
    assert watch._LOOK * watch._AWAY == watch._LOOK * watch._SILENT == 3600
    assert "waits for the server, up to an hour" in page and "process reports nothing for an hour counts" in page
    for name in RESERVED:
        assert f"`{name}`" in page.split("A job may not set ")[1].split("because they name places")[0]


def test_what_nvflares_filter_spends_by_its_own_ledger() -> None:
    """docs/privacy.md: 0.01 for every value."""
    from nvflare.app_common.filters.svt_privacy import SVTPrivacy, _compute_release_epsilon

    default = inspect.signature(SVTPrivacy).parameters
    assert (default["fraction"].default, default["noise_var"].default) == (0.1, 0.1)
    assert _compute_release_epsilon(1000, 0.1) == pytest.approx(10_000 * 0.01)


def test_every_client_has_one_site() -> None:
    assert dealt(["x", "y", "z"], 10) == {"x": [1, 4, 7, 10], "y": [2, 5, 8], "z": [3, 6, 9]}
    for sites in ({"x": [1], "y": [1]}, {"x": [1, 3]}, {"x": [1, 2, 3]}, {"x": [1, 2], "y": []}):
        with pytest.raises(ConfigError):
            check_sites(sites, 2)


class JobNotFound(Exception):
    """As NVFlare's, by name."""


class SessionClosed(Exception):
    """As NVFlare's, by name."""


class Server:
    """NVFlare's admin session: each job is what a list says of it, look by look."""

    def __init__(self, *jobs: list[tuple[str, int]]):
        self._jobs = list(jobs)
        self.submitted = 0
        self._now: list[tuple[str, int]] = []

    def submit_job(self, path: str, submit_token: str = "") -> str:
        self._now = self._jobs[self.submitted]
        self.submitted += 1
        return f"job-{self.submitted}"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None: ...

    def get_job_meta(self, job_id: str) -> dict[str, str]:
        if not self._now:
            raise JobNotFound("no such job")
        return {"status": self._now[0][0]}

    def show_stats(self, job_id: str, target: str) -> dict[str, Any]:
        done = self._now.pop(0)[1]
        return {"server": {"fs_fedmllm": {"round": done, "rounds": 3, "doing": "turn"}, "ServerRunner": {}}}


BROKEN, GOOD, RUNNING = "FINISHED:EXECUTION_EXCEPTION", "FINISHED:COMPLETED", "RUNNING"


@pytest.fixture
def job_folder(tmp_path: Path) -> Path:
    """What of a job's folder is looked at where it is followed."""
    (tmp_path / "meta.json").write_text(json.dumps({"deploy_map": {"app": ["server", "a", "b"]}}))
    return tmp_path


def test_a_job_that_breaks_off_is_submitted_again(job_folder: Path) -> None:
    said: list[str] = []
    jobs = [[(RUNNING, 1), (BROKEN, 0)], [("SUBMITTED", 0)], [(RUNNING, 2), (GOOD, 0)]]
    jobs[1] = [(RUNNING, 1), (RUNNING, 2), (BROKEN, 0)]
    server = Server(*jobs)
    assert follow(lambda: server, job_folder, said.append, lambda seconds: None) == "job-3"
    assert sum("goes on from its last round" in line for line in said) == 2
    assert "round 2 of 3 done, turn" in said
    assert standing(server, "job-3") == (GOOD, {})


def test_a_job_that_gets_no_further_is_given_up(job_folder: Path) -> None:
    server = Server([(RUNNING, 1), (BROKEN, 0)], *([(RUNNING, 1), (BROKEN, 0)] for _ in range(9)))
    with pytest.raises(HostError, match="3 times in a row without a round more"):
        follow(lambda: server, job_folder, lambda line: None, lambda seconds: None)
    assert server.submitted == 4
    with pytest.raises(HostError, match="was aborted"):
        follow(lambda: Server([("FINISHED:ABORTED", 0)]), job_folder, lambda line: None, lambda seconds: None)
    with pytest.raises(HostError, match=r"tells nothing of the job job-9 \(JobNotFound: no such job\)") as caught:
        standing(Server(), "job-9")
    assert not isinstance(caught.value, AwayError)


class ComesBack(Server):
    """A server that goes away while its jobs are submitted and looked at, and comes back."""

    def __init__(self, *jobs: list[tuple[str, int]]):
        super().__init__(*jobs)
        self.tokens: list[str] = []
        self._away = 0

    def submit_job(self, path: str, submit_token: str = "") -> str:
        self.tokens.append(submit_token)
        if len(self.tokens) == 1:
            raise ConnectionError("reset")  # it may have taken it, or not
        return super().submit_job(path)

    def get_job_meta(self, job_id: str) -> dict[str, str]:
        self._away += 1
        if self._away in (2, 3):
            raise SessionClosed("gone")
        return super().get_job_meta(job_id)


def test_whoever_follows_waits_for_a_server_that_is_away(job_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, said, opened = ComesBack([(RUNNING, 1), (RUNNING, 2), (GOOD, 0)]), [], []

    def connect() -> Server:
        opened.append(len(opened))
        if len(opened) == 2:
            raise AwayError("the server of the kit cannot be reached")
        return server

    assert follow(connect, job_folder, said.append, lambda seconds: None) == "job-1"
    assert len(server.tokens) == 2 and len(set(server.tokens)) == 1  # submitted twice, it is one job
    assert len(opened) == 5  # each time with a session of its own
    assert sum("waiting for the server" in line for line in said) == 2
    assert "round 2 of 3 done, turn" in said
    with pytest.raises(AwayError):  # there never was one: the kit is a wrong one, perhaps
        follow(lambda: (_ for _ in ()).throw(AwayError("none")), job_folder, said.append, lambda seconds: None)
    monkeypatch.setattr(watch, "_AWAY", 3)
    gone = ComesBack([(RUNNING, 1)])
    monkeypatch.setattr(gone, "get_job_meta", lambda job_id: (_ for _ in ()).throw(SessionClosed("for good")))
    with pytest.raises(AwayError, match="for good"):
        follow(lambda: gone, job_folder, said.append, lambda seconds: None)


class LosesSites(Server):
    """A server whose sites run the job, or do not, look by look: ``-`` does not, ``.`` is not connected."""

    def __init__(self, looks: list[str], *jobs: list[tuple[str, int]]):
        super().__init__(*jobs)
        self._looks = looks
        self.aborted: list[str] = []

    def get_client_job_status(self) -> list[dict[str, str]]:
        at = {"a": self._looks[0][0], "b": self._looks.pop(0)[1]}
        job = {"job_id": f"job-{self.submitted}"}
        return [{"client_name": name, **(job if how == "+" else {})} for name, how in at.items() if how != "."]

    def abort_job(self, job_id: str) -> None:
        self.aborted.append(job_id)
        self._now = [("FINISHED:ABORTED", 0)]


def test_a_site_that_was_away_is_given_the_job_again(job_folder: Path) -> None:
    """It is connected and idle three times in a row, and not only in a moment in which its process begins or ends."""
    said: list[str] = []
    going = [(RUNNING, 1)] * 9
    server = LosesSites(
        ["++", "+.", "+-", "+-", "++", "+-", "+-", "+-", *["++"] * 9], going, [(RUNNING, 2), (GOOD, 0)]
    )
    assert follow(lambda: server, job_folder, said.append, lambda seconds: None) == "job-2"
    assert server.aborted == ["job-1"]
    assert "b is there again and without the job; it goes on from its last round" in said


def test_a_job_that_died_with_its_server_is_submitted_again(job_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVFlare's server goes on saying that it runs."""
    said: list[str] = []
    server = Server([(RUNNING, 1), *[(RUNNING, -1)] * 9], [(RUNNING, 2), (GOOD, 0)])
    running = [[], ["job-1"], [], [], [], ["job-2"]]
    jobs = lambda: SimpleNamespace(job_info=[SimpleNamespace(job_id=name) for name in running.pop(0)])  # noqa: E731
    monkeypatch.setattr(server, "get_system_info", jobs, raising=False)
    stats = server.show_stats
    monkeypatch.setattr(server, "show_stats", lambda *about: found if (found := stats(*about))["server"]
                        ["fs_fedmllm"]["round"] >= 0 else {})  # fmt: skip
    assert follow(lambda: server, job_folder, said.append, lambda seconds: None) == "job-2"
    assert "the server was started again and does not run it" in said[2]
    assert running == [["job-2"]]


def test_a_site_that_never_runs_the_job_is_given_it_once_more_and_then_left_out(job_folder: Path) -> None:
    jobs = [[(RUNNING, 1)] * 9, [*[(RUNNING, 1)] * 9, (GOOD, 0)]]
    server = LosesSites(["-+"] * 20, *jobs)
    assert follow(lambda: server, job_folder, lambda line: None, lambda seconds: None) == "job-2"
    assert server.aborted == ["job-1"]


def test_a_folder_that_is_no_job_is_not_followed(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"deploy_map": 3}'):
        (tmp_path / "meta.json").write_text(text)
        with pytest.raises(ConfigError, match="is not a job made by fs-fedmllm"):
            follow(lambda: Server(), tmp_path, lambda line: None)


def test_what_is_no_job_or_no_kit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nvflare", "submit", str(tmp_path), "--admin", str(tmp_path)]) == 2
    assert "has no meta.json" in capsys.readouterr().err
    assert main(["nvflare", "status", "x", "--admin", str(tmp_path)]) == 2
    assert "fed_admin.json cannot be read" in capsys.readouterr().err


def test_presets_of_this_engine_are_refused_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(CONFIGS / "cross_i3t7.yaml")
    words = ["federate.method", "local", "outdir", str(tmp_path)]
    assert main(["run", path, "--engine", "nvflare", *words]) == 2
    assert "federate.method local has no meaning" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
