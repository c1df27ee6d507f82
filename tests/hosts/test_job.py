"""Our jobs inside the real FederatedScope: the same adapter as on the embedded engine, FederatedScope unmodified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from host_environment import ForkedEnvironment
from short_runs import CONFIGS, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.rounds.schedule import round_clients
from fs_fedmllm.runs.simulation import run

MAIN = "federatedscope/main.py"


def _both(host: ForkedEnvironment, checkout: Path, tmp_path: Path, name: str, words: list[str], *program: str):
    """Results of a configuration in FederatedScope and on the embedded engine, and FederatedScope's own log."""
    words = [*SHORT, *words]
    outdir = tmp_path / "fs"
    run_it = host.run_afresh if program else host.run
    done = run_it(
        *(program or (MAIN,)),
        "--cfg",
        CONFIGS / f"{name}.yaml",
        *words,
        "outdir",
        outdir,
        "expname",
        "job",
        cwd=checkout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    inside = json.loads((outdir / "job" / "results.json").read_text())
    log = (outdir / "job" / "eval_results.log").read_text()
    embedded, _ = run(schema.load(CONFIGS / f"{name}.yaml", [*words, "outdir", str(tmp_path / "embedded")]))
    return inside, embedded, log


def test_main_gives_the_adapter_of_the_embedded_engine(plugged, host, tmp_path) -> None:
    inside, embedded, log = _both(
        host, plugged, tmp_path, "cross_i3t7",
        ["seed", "7", "federate.total_round_num", "3", "eval.freq", "1", "fedmllm.eval.zero_shot", "True",
         "fedmllm.eval.slices", "always"],
    )  # fmt: skip
    assert inside["adapter_sha256"] == embedded["adapter_sha256"]
    assert inside["evaluations"] == embedded["evaluations"] and inside["zero_shot"] is not None
    assert inside["manifest_sha256"] == embedded["manifest_sha256"]
    assert inside["bytes_sent"] == embedded["bytes_sent"]
    assert inside["best"] == embedded["best"]
    assert "test_macro_f1" in log and "val_macro_f1" in log and "test_image_acc" in log
    assert "np.float64" not in log
    words = [*SHORT, "seed", "7", "federate.total_round_num", "3", "eval.freq", "3"]
    job = (MAIN, "--cfg", CONFIGS / "cross_i3t7.yaml", *words, "outdir", tmp_path / "again", "expname", "job")
    assert host.run(*job, cwd=plugged).returncode == 0
    again = json.loads((tmp_path / "again" / "job" / "results.json").read_text())
    assert again["adapter_sha256"] == inside["adapter_sha256"]


def test_a_killed_job_goes_on_where_it_stands(plugged, host, tmp_path) -> None:
    words = ["federate.total_round_num", "4", "eval.freq", "4"]
    job = [MAIN, "--cfg", CONFIGS / "aligned_a05.yaml", *SHORT, *words, "outdir", tmp_path / "fs", "expname", "job"]
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import os, runpy, signal, sys\n"
        "import federatedscope.core.configs.config\n"
        "from fs_fedmllm.runs.session import Session\n"
        "checkpoint = Session.checkpoint\n"
        "def dies(self):\n"
        "    checkpoint(self)\n"
        "    if self.state.round == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Session.checkpoint = dies\n"
        "sys.argv = ['main.py', *sys.argv[1:]]\n"
        "runpy.run_module('federatedscope.main', run_name='__main__')\n"
    )
    assert host.run(driver, *job[1:], cwd=plugged).returncode == -9
    done = host.run(*job, cwd=plugged)
    assert done.returncode == 0, done.stderr[-3000:]
    resumed = json.loads((tmp_path / "fs" / "job" / "results.json").read_text())
    whole, _ = run(schema.load(CONFIGS / "aligned_a05.yaml", [*SHORT, *words, "outdir", str(tmp_path / "embedded")]))
    assert resumed["adapter_sha256"] == whole["adapter_sha256"] and resumed["evaluations"] == whole["evaluations"]


def test_the_module_form_with_both_strategies_and_a_server_optimizer(plugged, host, tmp_path) -> None:
    inside, embedded, _ = _both(
        host, plugged, tmp_path, "missing_b50",
        ["federate.method", "fedyogi", "fedmllm.regularizer.type", "adaptive", "fedmllm.prompt", "augmented"],
        "-m", "federatedscope.main",
    )  # fmt: skip
    assert inside["adapter_sha256"] == embedded["adapter_sha256"]
    turns = [json.loads(x) for x in (tmp_path / "fs" / "job" / "metrics.jsonl").read_text().splitlines()]
    assert [t["penalty"] for t in turns if t["kind"] == "turn"] and turns[0]["penalty"] > 0


def test_compressed_updates(plugged, host, tmp_path) -> None:
    inside, embedded, _ = _both(
        host, plugged, tmp_path, "aligned_a05",
        ["federate.client_num", "2", "fedmllm.compression.upload", "int4", "fedmllm.compression.download", "bfloat16"],
    )  # fmt: skip
    assert inside["adapter_sha256"] == embedded["adapter_sha256"]
    assert inside["bytes_sent"] == embedded["bytes_sent"]


def test_the_switches_for_missing_modalities(plugged, host, tmp_path) -> None:
    """All of them, in a file with a bare ``off``, which YAML reads as False and FederatedScope would refuse."""
    file = tmp_path / "switches.yaml"
    file.write_text(
        (CONFIGS / "cross_i3t7.yaml").read_text()
        + "  label_prior: 1.0\n  sampler: modality\n  aggregation: {client_weights: balanced}\n"
        "  stand_ins: {use: force, guard: none, text: off}\n"
    )
    outdir = tmp_path / "fs"
    done = host.run(MAIN, "--cfg", file, *SHORT, "outdir", outdir, "expname", "job", cwd=plugged)
    assert done.returncode == 0, done.stderr[-3000:]
    inside = json.loads((outdir / "job" / "results.json").read_text())
    embedded, _ = run(schema.load(file, [*SHORT, "outdir", str(tmp_path / "embedded")]))
    plain, _ = run(schema.load(CONFIGS / "cross_i3t7.yaml", [*SHORT, "outdir", str(tmp_path / "embedded")]))
    assert inside["adapter_sha256"] == embedded["adapter_sha256"] != plain["adapter_sha256"]
    assert inside["participants"] == embedded["participants"] and inside["bytes_sent"] == embedded["bytes_sent"]
    said = [{"round": 0, "image": True, "text": False, "why": "no guard"}]
    assert inside["stand_ins"] == embedded["stand_ins"] == said


def test_the_scenarios_are_splitters(plugged, host, tmp_path) -> None:
    """FederatedScope's own splitter builder finds them; validation and test rows keep every modality."""
    code = (
        "from federatedscope.core.configs.config import global_cfg\n"
        "from federatedscope.core.auxiliaries.splitter_builder import get_splitter\n"
        "from fs_fedmllm.data.sample import Sample\n"
        "cfg = global_cfg.clone()\n"
        "cfg.federate.client_num = 4\n"
        "cfg.data.splitter = 'fedmllm_cross'\n"
        "cfg.data.splitter_args = [{'alpha': 5.0, 'image_clients': 1, 'text_clients': 3, 'seed': 1}]\n"
        "rows = [Sample(str(i), '/x.png', 't', 'a', label=i % 2) for i in range(80)]\n"
        "split = get_splitter(cfg)\n"
        "train, test = split(rows), split(rows, prior=None)\n"
        "print('SPLIT', [sorted({r.presence for r in part}) for part in train],\n"
        "      [sorted({r.presence for r in part}) for part in test], sum(map(len, train)))\n"
    )
    done = host.run("-c", code, cwd=plugged)
    assert done.returncode == 0, done.stderr[-3000:]
    shown = done.stdout.split("SPLIT ")[1]
    assert shown.count("['image']") == 1 and shown.count("['text']") == 3 and shown.count("['both']") == 4
    assert shown.strip().endswith(" 80")


@pytest.mark.parametrize("method", ["local", "global"])
def test_the_baselines(plugged, host, tmp_path, method) -> None:
    words = ["federate.method", method, "federate.client_num", "3", "federate.sample_client_num", "3"]
    words += ["data.splitter_args", "[{'alpha': 5.0, 'image_clients': 1, 'text_clients': 2}]"]
    inside, embedded, _ = _both(host, plugged, tmp_path, "cross_i3t7", words)
    assert inside["method"] == method
    assert inside["evaluations"][-1] == embedded["evaluations"][-1]
    if method == "global":
        assert inside["adapter_sha256"] == embedded["adapter_sha256"]


def test_a_bad_client_is_left_out_and_named(plugged, host, tmp_path) -> None:
    """A client whose loss is not finite is refused on FederatedScope too, and the round goes on without it."""
    config = schema.load(CONFIGS / "cross_i3t7.yaml", SHORT)
    first = [round_clients(config, index)[0] for index in range(config.federate.total_round_num)]
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import runpy, sys\n"
        "import federatedscope.core.configs.config\n"  # plugged: registers us
        "from fs_fedmllm.errors import UpdateError\n"
        "from fs_fedmllm.rounds.client import ClientSide\n"
        "turn = ClientSide.update\n"
        "def broken(self, client, round_index, *rest):\n"
        f"    if client == {first}[round_index]:\n"
        "        raise UpdateError('the training loss is nan')\n"
        "    return turn(self, client, round_index, *rest)\n"
        "ClientSide.update = broken\n"
        "sys.argv = ['main.py', *sys.argv[1:]]\n"
        "runpy.run_module('federatedscope.main', run_name='__main__')\n"
    )
    done = host.run(
        driver, "--cfg", CONFIGS / "cross_i3t7.yaml", *SHORT, "outdir", tmp_path, "expname", "job", cwd=plugged
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "job" / "results.json").read_text())
    assert len(results["refused"]) == 2 and "loss is nan" in results["refused"][0]["reason"]
    assert results["rounds"] == 2


def test_memory_is_one_base_and_adapters(plugged, host, tmp_path) -> None:
    """Storages of the base are counted after runs with 2 and with 6 clients."""
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import gc, runpy, sys, torch\n"
        "sys.argv = ['main.py', *sys.argv[1:]]\n"
        "done = runpy.run_module('federatedscope.main', run_name='__main__')\n"
        "gc.collect()\n"
        "big = {p.untyped_storage().data_ptr() for p in gc.get_objects()\n"
        "       if isinstance(p, torch.nn.Parameter) and not p.requires_grad and p.dim() == 2 and p.shape[0] > 500}\n"
        "server = done['runner'].server\n"
        "adapter = sum(t.numel() for t in server.model.state_dict().values())\n"
        "views = {id(c.model) for c in done['runner'].client.values()}\n"
        "print('COUNTED', len(big), adapter, len(views))\n"
    )
    counted = {}
    for clients in (2, 6):
        done = host.run(
            driver, "--cfg", CONFIGS / "aligned_a05.yaml", *SHORT, "federate.client_num", str(clients),
            "federate.sample_client_num", "2", "outdir", tmp_path, "expname", f"job{clients}", cwd=plugged,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        counted[clients] = done.stdout.split("COUNTED ")[1].split()
    assert counted[2] == counted[6]
    assert counted[2][0] == "1" and counted[2][2] == "1"


def test_a_stock_job_gains_our_server_optimizers(plugged, host, tmp_path) -> None:
    """FederatedScope's own data, model and trainer with ``federate.method: fedyogi``."""
    saved = {}
    for method in ("FedAvg", "fedyogi"):
        job = tmp_path / f"{method}.yaml"
        job.write_text(
            "seed: 3\n"
            f"federate: {{mode: standalone, client_num: 3, sample_client_num: 2, total_round_num: 3, method: {method},"
            f" save_to: {tmp_path / method}.pt}}\n"
            "data: {type: toy}\nmodel: {type: lr}\ntrainer: {type: general}\n"
            "train: {local_update_steps: 2, optimizer: {lr: 0.1}}\neval: {freq: 1, count_flops: False}\n"
        )
        done = host.run(MAIN, "--cfg", job, "outdir", tmp_path, "expname", method, cwd=plugged)
        assert done.returncode == 0, done.stderr[-3000:]
        saved[method] = torch.load(tmp_path / f"{method}.pt", weights_only=True)["model"]
    assert any(not torch.equal(saved["FedAvg"][n], saved["fedyogi"][n]) for n in saved["FedAvg"])


def test_clients_that_the_data_has_are_those_of_the_embedded_engine(plugged, host, tmp_path) -> None:
    rows = [
        {
            "id": f"r{i}",
            "text": f"note {i}",
            "label": "blue" if i % 2 else "red",
            "ward": ["Nord", "Süd", "Ost"][i % 3],
        }
        for i in range(30)
    ]
    root = tmp_path / "wards"
    root.mkdir()
    for name, part in (("train", rows[:21]), ("test", rows[21:])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    case = {"basis": "the note", "question": "Which colour"}
    cases = dict.fromkeys(("both", "text", "image", "neither"), case)
    template = {"task": "choice", "metric": "accuracy", "options": ["red", "blue"], "original": cases}
    (root / "colour.yaml").write_text(json.dumps({**template, "augmented": cases}))
    raw = {
        "data": {"type": "own", "root": str(root), "splitter": "fedmllm_given"},
        "federate": {"method": "fedavg", "sample_client_num": 2},
        "trainer": {"type": "fedmllm"},
        "model": {"type": "fedmllm"},
        "eval": {"best_res_update_round_wise_key": "test_acc"},
        "fedmllm": {"data": {"template": "colour.yaml"}},
    }
    raw["data"]["splitter_args"] = [{"client": "ward"}]
    file = tmp_path / "wards.yaml"
    file.write_text(json.dumps(raw))
    words = [*SHORT, "expname", "job"]
    done = host.run(MAIN, "--cfg", file, *words, "outdir", tmp_path / "fs", cwd=plugged)
    assert done.returncode == 0, done.stderr[-3000:]
    inside = json.loads((tmp_path / "fs" / "job" / "results.json").read_text())
    embedded, _ = run(schema.load(file, [*words, "outdir", str(tmp_path / "embedded")]))
    assert inside["adapter_sha256"] == embedded["adapter_sha256"]
    assert inside["client_names"] == embedded["client_names"] == {"1": "Nord", "2": "Ost", "3": "Süd"}
    assert inside["config_sha256"] == embedded["config_sha256"]
    manifest = json.loads((tmp_path / "fs" / "job" / "manifest.json").read_text())
    assert [record["name"] for record in manifest["clients"].values()] == ["Nord", "Ost", "Süd"]


def test_options_in_words_give_the_same_adapter_and_figures(plugged, host, tmp_path) -> None:
    """Training with the client's label prior on a tree of tokens, the forced choice of whole options, all views."""
    template = tmp_path / "words.yaml"
    lettered = (CONFIGS.parent / "data_templates" / "digits_triage.yaml").read_text(encoding="utf-8")
    asking = "Answer with the option's letter from the given choices directly and only give the best option. "
    assert asking in lettered
    template.write_text(lettered.replace(asking, "") + "\nlettered: false\n", encoding="utf-8")
    inside, embedded, _ = _both(
        host, plugged, tmp_path, "cross_i3t7",
        ["fedmllm.template", str(template), "fedmllm.label_prior", "1.0", "fedmllm.eval.slices", "ends",
         "fedmllm.eval.limit", "4", "federate.total_round_num", "1", "eval.freq", "1"],
    )  # fmt: skip
    assert inside["adapter_sha256"] == embedded["adapter_sha256"]
    assert inside["evaluations"] == embedded["evaluations"] and inside["views"] == embedded["views"]
