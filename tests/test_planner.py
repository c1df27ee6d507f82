"""The plan of a run and the doctor: what they say is what is then measured, and what is wrong is named."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from json_page import wrong
from short_runs import CONFIGS, REPOSITORY, SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.config import ModelOptions
from fs_fedmllm.models.loader import TINY
from fs_fedmllm.models.skeleton import skeleton
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data
from fs_fedmllm.tools.planner import packages, precisions
from fs_fedmllm.tools.planner import plan as planning
from fs_fedmllm.tools.planner.plan import NOT_MEASURED, make_plan
from fs_fedmllm.tools.planner.probe import probe
from fs_fedmllm.tools.planner.show import table
from fs_fedmllm.tools.planner.work import count_work

Make = Callable[..., schema.Config]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("federate.method", "global"),
        ("fedmllm.compression.upload", "int8", "fedmllm.compression.download", "bfloat16"),
        ("federate.method", "scaffold", "fedmllm.aggregation.lora", "frozen_a", "fedmllm.compression.upload", "int8"),
        ("fedmllm.aggregation.lora", "exact", "fedmllm.aggregation.ranks", "[1, 2, 3, 4, 5, 6, 7, 8, 8, 8]"),
    ],
    ids=["fedavg", "global", "compressed", "scaffold", "ranks"],
)
def test_bytes_steps_and_turns_are_those_of_the_run(short_config: Make, words: tuple[str, ...]) -> None:
    config = short_config("cross_i3t7", *words)
    plan = make_plan(config)
    assert not plan.problems
    results, folder = run(config)
    assert plan.traffic["adapter_bytes"] == results["adapter_bytes"]
    assert plan.traffic["run_bytes"] == results["bytes_sent"]
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    turns = [line for line in lines if line["kind"] == "turn"]
    assert plan.work["turns"] == len(turns)
    assert plan.work["steps"] == sum(line["steps"] for line in turns)
    assert plan.work["rows_trained"] == sum(line["rows"] for line in turns)
    scored = sum(line[f"{part}_total"] for line in lines if line["kind"] == "evaluation" for part in ("val", "test"))
    assert plan.work["rows_scored"] == scored


def test_a_replay_is_counted_with_its_recorded_clients(short_config: Make, tmp_path: Path) -> None:
    record = tmp_path / "results.json"
    config = short_config("cross_i3t7", "fedmllm.replay", record)
    assert any("fedmllm.replay" in problem for problem in make_plan(config).problems)
    record.write_text(json.dumps({"participants": [[2, 5, 9], [4]]}))
    data = prepare_data(config)
    work = count_work(config, data)
    assert (work.clients_per_round, work.turns) == (3, 4)
    trained = [row for batch in work.first[1] for row in batch]
    assert trained and all(row in data.clients[5] for row in trained)


def test_a_plan_says_that_private_draws_are_not_known(short_config: Make) -> None:
    dp = ("fedmllm.privacy.dp.clip_norm", "0.05", "fedmllm.privacy.dp.noise_multiplier", "2.0")
    said = [
        any("in secret" in note for note in make_plan(short_config("cross_i3t7", *words)).notes)
        for words in ((), dp, (*dp, "federate.sample_client_num", "10"))
    ]
    assert said == [False, True, False]


def test_a_plan_measures_nothing_without_the_probe_and_says_so(
    short_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    config = short_config()
    plan = make_plan(config)
    assert plan.model["base_parameters"] == plan.model["checkpoint_parameters"]
    assert plan.model["licence"] == "apache-2.0" and plan.model["base_bytes"] > 6_000_000
    assert not plan.memory and not plan.time and plan.notes == [NOT_MEASURED]
    assert table(plan).count("--probe") == 1


def test_the_probe_measures_memory_and_time(short_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of further test sets too, whose rows are asked otherwise: one in writing, one for an AUC."""
    sets = ("fedmllm.test_sets", "{panel: {type: digits_panel}, match: {type: digits_match}}")
    config = short_config("cross_i3t7", "federate.total_round_num", "1", "eval.freq", "1", *sets)
    found: dict[str, Any] = {}
    monkeypatch.setattr(planning, "probe", lambda own: found.setdefault("figures", probe(own)))
    plan = make_plan(config, with_probe=True)
    assert not plan.problems and NOT_MEASURED not in plan.notes
    assert plan.memory["peak_bytes"] > plan.model["base_bytes"]
    assert plan.time["total_seconds"] == pytest.approx(sum(plan.time["seconds"].values()))
    assert wrong(dataclasses.asdict(plan), "plan") == []
    said = table(plan)
    assert "memory" in said and "time" in said and "32 of them of further test sets" in said
    assert plan.work["rows_scored_test_sets"] == {"panel": 16, "match": 16} and plan.work["rows_scored"] == 64
    seconds = found["figures"]["set_scored_seconds"]
    assert plan.time["seconds"]["evaluation"] == pytest.approx(
        32 * found["figures"]["scored_seconds"] + 16 * seconds["panel"] + 16 * seconds["match"]
    )
    assert plan.tokens["test_sets"]["panel"]["of"] == 16 and "tokens, panel" in said

    advice = plan.precisions
    assert advice["take"] in advice["precisions"] and {"float32", "bfloat16"} <= set(advice["precisions"])
    assert advice["precisions"]["float32"]["relative"] == 1
    assert advice["precisions"]["float32"]["base_bytes"] == plan.model["base_bytes"]
    assert f"take {advice['take']} (" in table(plan) or f"{advice['take']} as configured" in table(plan)


def test_the_quickest_precision_that_fits_is_advised() -> None:
    figures = {
        "float32": {"relative": 1.0, "base_bytes": 400},
        "bfloat16": {"relative": 0.6, "base_bytes": 200},
        "nf4": {"relative": 2.0, "base_bytes": 60},
    }
    assert precisions.advised(figures, "float32", 1000) == "bfloat16"
    assert precisions.advised(figures, "float32", 0) == "bfloat16"  # nobody knows what is free
    assert precisions.advised(figures, "bfloat16", 1000) == "bfloat16"
    assert precisions.advised(figures, "float32", 100) == "nf4"
    assert precisions.advised(figures, "float32", 10) == "nf4"  # nothing fits: the smallest
    about_as_quick = figures | {"bfloat16": {"relative": 0.95, "base_bytes": 200}}
    assert precisions.advised(about_as_quick, "float32", 1000) == "float32"
    assert precisions.advised(about_as_quick, "float32", 300) == "bfloat16"
    assert precisions.settings("nf4") == "model.fedmllm.quantization.type nf4"


def test_precisions_take_turns_and_the_quickest_run_counts() -> None:
    clock, order, busy = [0.0], [], iter([9.0, 9.0, 1.0, 2.0, 3.0, 1.5])

    def runs(name: str) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            clock[0] += next(busy)

        return run

    assert precisions.measured({"a": runs("a"), "b": runs("b")}, lambda: clock[0], repeats=2) == {"a": 1.0, "b": 1.5}
    assert order == ["a", "b"] * 3


def test_products_are_those_of_the_language_layers_alone(tmp_path: Path) -> None:
    shapes = precisions.language_products(skeleton(ModelOptions()))
    assert sum(shapes.values()) == 12 * 7 and shapes[(96, 96)] >= 24
    folder = tmp_path / "quantised"
    folder.mkdir()
    config = json.loads((TINY / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    assert precisions.candidates(ModelOptions(path=str(folder))) == {}


def test_the_longest_rows_of_further_test_sets_are_known_and_what_no_run_would_take_is_said(
    short_config: Make, tmp_path: Path
) -> None:
    rows = [{"id": f"r{i}", "text": f"{'word ' * (i % 3 * 50)}{i}", "label": ("yes", "no")[i % 2]} for i in range(20)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ward = f"{{type: own, root: {tmp_path}, options: {{template: digits_match}}}}"
    sets = f"{{ward: {ward}, other: {{type: digits_match}}}}"
    config = short_config("cross_i3t7", "fedmllm.test_sets", sets, "fedmllm.eval.batch_size", "4")
    work = count_work(config, prepare_data(config))
    (texts,), (pictured,) = work.longest_sets["ward"], work.longest_sets["other"]
    assert len(texts) == len(pictured) == 4 and all(row.text.count("word") == 100 for row in texts)
    assert all(row.image is not None for row in pictured)
    dear = short_config("cross_i3t7", "fedmllm.test_sets", sets, "fedmllm.train.max_length", "2")
    assert any(said.startswith("fedmllm.test_sets.other: ") for said in make_plan(dear).problems)


def test_a_probe_of_what_would_not_start_is_left_out(short_config: Make, tmp_path: Path) -> None:
    plan = make_plan(short_config("cross_i3t7", "fedmllm.replay", tmp_path / "none.json"), with_probe=True)
    assert plan.problems and any("left out" in note for note in plan.notes) and not plan.memory


def test_what_is_missing_is_a_problem_and_the_rest_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(CONFIGS / "hateful_memes" / "cross_i3t7.yaml"), "data.root", "/no/such/folder"]
    assert main(["plan", *words, "--tiny"]) == 1
    said = capsys.readouterr().out
    assert "NOT there" in said and "is not a folder" in said and "adapter" in said
    assert main(["plan", *words, "--json"]) == 1
    plan = json.loads(capsys.readouterr().out)
    assert wrong(plan, "plan") == []
    assert plan["model"]["present"] is False and plan["model"]["licence"] == "unknown"
    assert any("openbmb/MiniCPM-V-4.6" in problem for problem in plan["problems"])


@pytest.mark.slow
def test_memory_and_bytes_are_as_measured(tmp_path: Path) -> None:
    """A model of eight million parameters: plan, probe and real run, each in a process of its own."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / "plan.py", "--twin", "256", "8", "--repeats", "3",
         CONFIGS / "cross_i3t7.yaml", *SHORT, "fedmllm.eval.limit", "32", "fedmllm.train.batch_size", "16"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["run_bytes"]["ratio"] == found["adapter_bytes"]["ratio"] == 1
    assert 0.85 < found["memory_after_probe"]["ratio"] < 1.15, found


# --- doctor ---------------------------------------------------------------------------------------------------------


def test_packages_are_judged_by_the_tested_set(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.13.0+cpu", "transformers": "5.99.0", "peft": "0.1.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise packages.importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(packages.importlib.metadata, "version", version)
    monkeypatch.setattr(packages, "tested_versions", lambda: {"torch": "2.13.0", "transformers": "5.23.0"})
    monkeypatch.setattr(packages, "_bounds", lambda: {"transformers": ">=5.10,<6", "peft": ">=0.19,<0.22"})
    verdicts = {package.name: package.verdict for package in packages.check_packages()}
    assert verdicts["torch"] == "tested" and verdicts["transformers"] == "not the tested version"
    assert verdicts["peft"] == "outside the bounds" and verdicts["numpy"] == "missing"
    assert "openai" not in verdicts  # optional, and not installed


def test_the_doctor_names_problems_and_remedies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fs_fedmllm.tools import doctor

    failures = {"torchvision": "RuntimeError: operator torchvision::nms does not exist"}
    monkeypatch.setattr(doctor, "_imports", lambda name, **more: failures.get(name, ""))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    broken = {finding.subject: finding for finding in doctor._optional()}
    assert broken["torchvision"].verdict == doctor.BAD and "nms" in broken["torchvision"].found
    assert "uninstall torchvision" in broken["torchvision"].remedy and broken["openai"].verdict == doctor.GOOD
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "_optional", lambda: iter(()))
    file = tmp_path / "file"
    file.write_text("")
    assert main(["doctor", str(file), "--outdir", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "PROBLEM" in said and "is not a folder" in said and "->" in said
