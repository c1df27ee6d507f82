"""One client per hospital, from rows to a run, its folders, pictures and report."""

from __future__ import annotations

import io
import json

import pytest
import yaml
from PIL import Image
from rich.console import Console
from short_runs import SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.commands.data_split import federated
from fs_fedmllm.data.client_folders import read_client
from fs_fedmllm.distributed.roles import client_data, introduction, server_data, site_config
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.hosts.nvflare.sites import dealt
from fs_fedmllm.hub.release import release_of_folder
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.rounds.trainer import UpdateLog
from fs_fedmllm.runs.progress import ConsoleProgress

SITES = {"Klinik Nord": 4, "Ost & <West>": 9, "$\\x^Süd": 14}


@pytest.fixture
def hospitals(tmp_path):
    """A folder of rows with the hospital that each comes from; test rows come from nowhere."""
    root = tmp_path / "wards"
    (root / "img").mkdir(parents=True)
    rows = []
    for site, count in SITES.items():
        for i in range(count):
            Image.new("RGB", (20, 20), (200, 30, 30) if i % 2 else (30, 30, 200)).save(root / f"img/{len(rows)}.png")
            row = {"id": f"r{len(rows)}", "image": f"img/{len(rows)}.png", "text": f"note {i}", "hospital": site}
            rows.append(row | {"label": "red" if i % 2 else "blue", "split": "train"})
    for i in range(6):
        rows.append({"id": f"t{i}", "text": f"note {i}", "label": "red" if i % 2 else "blue", "split": "test"})
    rows = rows[::2] + rows[1::2]
    (root / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    case = {"basis": "the note", "question": "Which colour"}
    cases = dict.fromkeys(("both", "text", "image", "neither"), case)
    template = {"task": "choice", "metric": "accuracy", "options": ["red", "blue"], "instruction": "Look at "}
    (root / "colour.yaml").write_text(yaml.safe_dump({**template, "original": cases, "augmented": cases}))
    return root


@pytest.fixture
def wards(hospitals, tmp_path):
    """The configuration of a short run; ``wards(beta=0.5, scenario="missing")`` writes another."""

    def make(**args):
        raw = {
            "data": {"type": "own", "root": str(hospitals), "splitter": "fedmllm_given"},
            "fedmllm": {"data": {"template": "colour.yaml", "file": "data.jsonl"}},
            "eval": {"best_res_update_round_wise_key": "test_acc"},
            "outdir": str(tmp_path / "exp"),
        }
        raw["data"]["splitter_args"] = [{"client": "hospital", **args}]
        path = tmp_path / "wards.yaml"
        path.write_text(yaml.safe_dump(raw), encoding="utf-8")
        return path

    return make


NAMES = dict(enumerate(sorted(SITES), 1))


def test_a_run_and_its_report_say_who_is_who(cli, wards, tmp_path, caplog):
    config = wards(scenario="missing", beta=0.5)
    words = ["expname", "job", "fedmllm.eval.slices", "ends", "federate.sample_client_num", "2", "eval.freq", "1"]
    code, said = cli("run", config, *SHORT, *words, "--engine", "embedded")
    assert code == 0, said
    folder = tmp_path / "exp" / "job"
    resolved = yaml.safe_load((folder / "resolved_config.yaml").read_text())
    assert resolved["federate"]["client_num"] == 3
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {int(k): record["name"] for k, record in manifest["clients"].items()} == NAMES
    assert [len(record["rows"]) for record in manifest["clients"].values()] == [SITES[name] for name in NAMES.values()]
    results = json.loads((folder / "results.json").read_text())
    assert results["client_names"] == {str(k): name for k, name in NAMES.items()}
    assert cli("report", folder, "--out", tmp_path / "report", "--no-curves")[0] == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "3 (Ost &amp; &lt;West&gt;)" in page and "<West>" not in page and "2 (Klinik Nord)" in page
    published = release_of_folder(folder, "somebody/something").files
    assert not [name for name, content in published.items() if b"Klinik" in content or b"West" in content]
    # the same rows and clients with the number written down: the same run
    code, said = cli("run", config, *SHORT, *words, "federate.client_num", "3", "--engine", "embedded")
    assert code == 0 and "very configuration" in caplog.text
    again = json.loads((tmp_path / "exp" / "job-2" / "results.json").read_text())
    assert again["adapter_sha256"] == results["adapter_sha256"]
    assert again["config_sha256"] == results["config_sha256"]


def test_commands_take_and_give_names(cli, wards, hospitals, tmp_path):
    config = wards()
    code, said = cli("data", "check", config)
    assert code == 0 and "2 (Klinik Nord)" in said
    code, said = cli("data", "show", config, "--client", "Klinik Nord", "-n", "1")
    assert code == 0 and "client 2 (Klinik Nord), row 1 of 4" in said
    assert cli("data", "show", config, "--client", "2", "-n", "1")[1] == said
    code, said = cli("data", "show", config, "--client", "Klinik")
    assert code == 2 and "no client Klinik; there are 1 ($" in said
    code, said = cli("plan", config)
    assert code == 0 and "3 clients" in said, said
    code, said = cli("data", "plot", config, "--out", tmp_path / "plots")
    assert code == 0, said
    assert (tmp_path / "plots" / "labels.svg").stat().st_size > 1000
    code, said = cli("run", config, "federate.client_num", "4", "--engine", "embedded")
    assert code == 2 and "federate.client_num is 4, and the training rows have 3 values of 'hospital'" in said
    lines = (hospitals / "data.jsonl").read_text().splitlines()
    row = json.loads(lines[1]) | {"hospital": None}
    (hospitals / "data.jsonl").write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]))
    code, said = cli("data", "check", config)
    assert code == 1 and "data.jsonl:2" in said and "the column 'hospital' is empty" in said


def test_each_site_has_a_folder_that_says_how_many_there_are(cli, wards, tmp_path):
    code, said = cli("data", "split", wards(), "--out", tmp_path / "out", "--per-client-folders")
    assert code == 0 and "3 (Ost & <West>)     9" in said, said
    folders = {path.name for path in (tmp_path / "out").iterdir()}
    assert folders == {"client_1", "client_2", "client_3", "server", "manifest.json"}  # no name is a path
    whole = schema.load(wards())
    expected = federated(whole).clients
    for client, name in NAMES.items():
        root = tmp_path / "out" / f"client_{client}"
        rows, head = read_client(root)
        assert (head["name"], head["clients"], len(rows)) == (name, 3, SITES[name])
        site = site_config(schema.load(wards(), ["data.root", str(root)]))
        assert site.federate.client_num == 3
        found, data = client_data(site)
        assert found == client and [row.id for row in data.clients[client]] == [row.id for row in expected[client]]
        assert data.names == {client: name}
    server = site_config(schema.load(wards(), ["data.root", str(tmp_path / "out" / "server")]))
    assert server.federate.client_num == 3 and not server_data(server).clients
    # a site that has all the data takes its share of it
    _, data = client_data(site_config(whole), 2)
    assert data.names == {2: "Klinik Nord"}
    assert introduction(site_config(whole), 2, data)["name"] == "Klinik Nord"
    with pytest.raises(ConfigError, match=r"federate\.client_num is not set, and whoever makes a job"):
        dealt(["north", "east"], whole.federate.client_num)
    own = schema.load(wards(), ["fedmllm.network.own_rows", "True"])
    with pytest.raises(ConfigError, match=r"federate\.client_num is not set.*own_rows"):
        site_config(own)


def test_the_bar_shows_names_as_they_are(wards):
    stream = io.StringIO()
    config = schema.load(wards(), ["federate.client_num", "3"])
    progress = ConsoleProgress(config, Console(file=stream, force_terminal=True, width=160))
    progress.began({2: "[/red] Nord \x1b[2J"})
    log = UpdateLog(loss=0.5, penalty=0.0, grad_norm=1.0, steps=1, rows=4, seconds=0.1)
    progress._total = 1  # so that it is drawn at once
    progress.trained(0, ClientUpdate(client=2, rows=4, state={}, log=log))
    progress.close()
    assert "client 2 ([/red] Nord \\x1b[2J)" in stream.getvalue()
