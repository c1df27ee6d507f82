"""What is given to the real FederatedScope is used, and what is not has our defaults, as on the embedded engine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from PIL import Image
from short_runs import CONFIGS, REPOSITORY, SHORT
from waiting import free_port

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.config.host_defaults import DEFAULTS
from fs_fedmllm.config.identity import settings
from fs_fedmllm.runs.simulation import run

MAIN = "federatedscope/main.py"
CASES = "\n".join(f'  {c}: {{basis: "", question: "Which lamp"}}' for c in ("both", "text", "image", "neither"))
TEMPLATE = f"""
task: choice
metric: macro_f1
options: [lit, dark]
instruction: Choose
closing: "Answer: "
original:
{CASES}
augmented:
{CASES}
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    """A configuration of own data with nothing but what a run cannot do without."""
    folder = tmp_path / "lamps"
    folder.mkdir()
    for level in (0, 255):
        Image.new("L", (24, 24), level).save(folder / f"{level}.png")
    for split, rows in (("train", 12), ("val", 4), ("test", 4)):
        lines = [
            {"image": f"{255 * (i % 2)}.png", "text": f"lamp {split} {i}", "label": ("dark", "lit")[i % 2]}
            for i in range(rows)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "lamps.yaml").write_text(TEMPLATE)
    file = tmp_path / "minimal.yaml"
    file.write_text(
        "data: {type: own, root: lamps, splitter: fedmllm_aligned}\n"
        "federate: {client_num: 2, total_round_num: 2}\n"
        "eval: {best_res_update_round_wise_key: val_weighted_f1}\n"  # a metric that FederatedScope has never heard of
        "fedmllm: {data: {template: lamps.yaml}}\n"
    )
    return file


def _sha(folder: Path) -> str:
    return str(json.loads((folder / "results.json").read_text())["adapter_sha256"])


def test_a_minimal_file_gives_one_adapter_on_every_engine(minimal, plugged, host, tmp_path) -> None:
    """Without model and trainer sections; what FederatedScope saves says what the run did, and can be given again."""
    embedded, _ = run(schema.load(minimal, ["outdir", str(tmp_path / "embedded")]))
    once = tmp_path / "main" / "run"
    done = host.run(MAIN, "--cfg", minimal, "outdir", tmp_path / "main", "expname", "run", cwd=plugged)
    assert done.returncode == 0, done.stderr[-3000:]
    assert _sha(once) == embedded["adapter_sha256"]
    saved = yaml.safe_load((once / "config.yaml").read_text())
    ours = schema.load(minimal)
    assert saved["train"]["optimizer"]["lr"] == ours.train.optimizer.lr and saved["trainer"]["type"] == "fedmllm"
    told = settings(schema.from_mapping(saved, host=True))
    assert told.pop("federate.sample_client_num") == 2  # FederatedScope's runner waits for a number
    assert told == settings(ours)
    done = host.run(
        "-m", "fs_fedmllm", "run", minimal, "--engine", "federatedscope", "outdir", tmp_path / "run",
        "expname", "2024", cwd=tmp_path, PYTHONPATH=str(plugged),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert _sha(tmp_path / "run" / "2024") == embedded["adapter_sha256"]


def test_a_minimal_file_across_sites(minimal, forks, tmp_path) -> None:
    """The same file for a server and two clients, each with its dealt folder."""
    embedded, _ = run(schema.load(minimal, ["outdir", str(tmp_path / "embedded")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    sites = tmp_path / "sites"
    assert main(["data", "split", str(minimal), "--out", str(sites), "--per-client-folders"]) == 0
    place = f"127.0.0.1:{free_port()}"
    words = ["--address", place, "fedmllm.network.insecure", "True", "outdir", str(tmp_path / "fs"), "expname", "run"]
    jobs = []
    for site in ("server", "client_1", "client_2"):
        line = ["-m", "fs_fedmllm", site.partition("_")[0], minimal, "--data", sites / site, *words]
        jobs.append(forks.start(line, tmp_path, environment, tmp_path / f"{site}.log"))
    codes = [job.wait() for job in jobs]
    logs = "\n".join((tmp_path / f"{site}.log").read_text()[-1500:] for site in ("server", "client_1", "client_2"))
    assert codes == [0, 0, 0], logs
    assert _sha(tmp_path / "fs" / "run") == embedded["adapter_sha256"]


def test_what_the_merges_noted(fs_source, host, tmp_path) -> None:
    """In one process: defaults that were given, values that a program set, and FederatedScope's whole tree of keys."""
    (tmp_path / "given.yaml").write_text(
        "trainer: {type: fedmllm}\n"
        "data: {type: digits_triage, splitter: fedmllm_aligned}\n"
        "federate: {client_num: 3}\n"
        "train: {optimizer: {lr: 0.1, weight_decay: 0.02}}\n"
    )
    code = (
        "import json, sys\n"
        "from fs_fedmllm.hosts.federatedscope import compat\n"
        "compat.apply_fixes()\n"
        "from federatedscope.core.configs.config import global_cfg\n"
        "from fs_fedmllm.hosts.federatedscope import given, register\n"
        "register.register_all()\n"
        "bare = {'.'.join(path): value for path, value in given._leaves(global_cfg)}\n"
        "from fs_fedmllm.hosts.federatedscope.config_bridge import extend_config, to_config\n"
        "extend_config(global_cfg)\n"
        "def shown(*words, **own):\n"
        "    cfg = global_cfg.clone()\n"
        "    cfg.merge_from_file(sys.argv[1])\n"
        "    cfg.merge_from_list(list(words))\n"
        "    for name, value in own.items(): cfg[name].use = value\n"
        "    try:\n"
        "        config = to_config(cfg.clone())\n"
        "    except Exception as error:\n"
        "        return f'{type(error).__name__}: {error}'\n"
        "    return [config.train.optimizer.lr, config.fedmllm.train.weight_decay, config.federate.make_global_eval,\n"
        "            config.federate.sample_client_num, config.fedmllm.train.batch_size]\n"
        "print('SHOWN', json.dumps({'bare': bare, 'file': shown(), 'words': shown('dataloader.batch_size', '64'),\n"
        "    'sgd': shown('train.optimizer.type', 'SGD'), 'program': shown(nbafl=True),\n"
        "    'processes': shown('federate.process_num', '2')}))\n"
    )
    done = host.run("-c", code, tmp_path / "given.yaml", cwd=tmp_path, PYTHONPATH=str(fs_source))
    assert done.returncode == 0, done.stderr[-3000:]
    shown = json.loads(done.stdout.partition("SHOWN ")[2])
    default = schema.Config().fedmllm.train.batch_size
    assert shown["file"] == [0.1, 0.02, True, -1, default]
    assert shown["words"] == [0.1, 0.02, True, -1, 64]
    where = f"ConfigError: {tmp_path / 'given.yaml'}: "
    assert shown["sgd"].startswith(f"{where}train.optimizer.type is 'SGD'")
    assert shown["program"].startswith(f"{where}nbafl.use is True, but FederatedScope's noise")
    assert shown["processes"].startswith(f"{where}federate.process_num is 2")
    # The table stands for the real tree: a key that FederatedScope adds, or a default that it changes, shows here.
    known = set(schema.known_keys())
    assert {name: value for name, value in shown["bare"].items() if name not in known} == DEFAULTS


def test_another_trainer_on_our_data_is_refused(plugged, host, tmp_path) -> None:
    cross = tmp_path / "cross.yaml"
    text = (CONFIGS / "cross_i3t7.yaml").read_text()
    cross.write_text(text.replace("trainer:\n  type: fedmllm", "trainer:\n  type: general"))
    done = host.run(MAIN, "--cfg", cross, "outdir", tmp_path / "fs", cwd=plugged)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "trainer.type is 'general'" in done.stderr and "Set trainer.type: fedmllm" in done.stderr


def test_a_file_of_clients_own_settings(plugged, host, tmp_path) -> None:
    """FederatedScope's ``--client_cfg`` names one client of three; its own runner would stop at the others."""
    own = tmp_path / "clients.yaml"
    own.write_text("client_2: {train: {local_update_steps: 3, optimizer: {lr: 0.004}}, dataloader: {batch_size: 3}}\n")
    words = [*SHORT, "federate.client_num", "3", "federate.sample_client_num", "3"]
    config = CONFIGS / "aligned_a05.yaml"
    embedded, _ = run(schema.load(config, [*words, "outdir", str(tmp_path / "embedded")], client_cfg=own))
    plain, _ = run(schema.load(config, [*words, "outdir", str(tmp_path / "plain")]))
    assert embedded["adapter_sha256"] != plain["adapter_sha256"]
    job = (MAIN, "--cfg", config, "--client_cfg", own, *words, "outdir", tmp_path / "fs", "expname", "run")
    done = host.run(*job, cwd=plugged)
    assert done.returncode == 0, done.stderr[-3000:]
    assert _sha(tmp_path / "fs" / "run") == embedded["adapter_sha256"]
    # Without a file, FederatedScope's command line drops such a word and the one after it.
    lost = ("client_2.train.optimizer.lr", "0.004")
    done = host.run(MAIN, "--cfg", config, *words, "outdir", tmp_path / "lost", *lost, cwd=plugged)
    assert done.returncode == 2, done.stderr[-2000:]
    assert f"takes {lost[0]!r} for a client's own key" in done.stderr and "Traceback" not in done.stderr
