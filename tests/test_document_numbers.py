"""Numbers and refusals of the documents are those of the code; what only one machine has is not asserted."""

from __future__ import annotations

import csv
import importlib.util
import inspect
import itertools
import re
import statistics
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from short_runs import CONFIGS, REPOSITORY

from fs_fedmllm import cli
from fs_fedmllm import config as schema
from fs_fedmllm.algorithms import METHODS
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.scenarios.federated_data import prepare_data
from fs_fedmllm.scenarios.rates import said_rates


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def planned() -> Any:
    """The plan of the README's main job: bytes, rounds and steps, exact and the same everywhere."""
    from fs_fedmllm.tools.planner.plan import make_plan

    return make_plan(schema.load(CONFIGS / "cross_i3t7.yaml", []))


def test_the_readmes_closing_table_is_of_the_main_job(planned: Any) -> None:
    """Written by scripts/write_readme_table.py; what every machine has alike is asserted."""
    table = script("write_readme_table")
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    shown = text.split(table.FIRST)[1].split(table.LAST)[0]
    adapter, run = planned.traffic["adapter_bytes"], planned.traffic["run_bytes"]
    assert f"bytes sent: {run / 1e6:.1f} MB (adapter {adapter / 1e3:.1f} kB)" in shown
    config = schema.load(CONFIGS / "cross_i3t7.yaml", [])
    rounds = range(config.eval.freq, config.federate.total_round_num + 1, config.eval.freq)
    assert [int(n) for n in re.findall(r"^round (\d+)", shown, re.MULTILINE)] == list(rounds)
    data = prepare_data(config)
    rates, tested = said_rates(data.manifest.missing_rates), len(data.dataset.test)
    assert f"test rows: {tested}; {tested} show both modalities\n" in shown
    assert f"missing modalities: {rates}\nmodel: {config.model.fedmllm.path}\n" in shown
    assert not re.search(r"sha256: [0-9a-f]{8}", text)  # no digest as if it held on every machine


def test_the_block_of_the_readme_leaves_out_what_is_one_machines() -> None:
    table = script("write_readme_table")
    results = {
        "evaluations": [{"round": 2, "val_acc": 0.5, "test_acc": 0.25}], "best_by": "val_acc", "refused": [],
        "best": {"round": 2}, "bytes_sent": 5000, "adapter_bytes": 100, "adapter_sha256": "ab" * 32,
        "seconds": {"total": 9.0, "training": 5.0, "evaluation": 1.0},
    }  # fmt: skip
    block = table.block(results, "some machine")
    assert "round 2 (best)" in block and "bytes sent: 5.0 kB" in block and "some machine" in block
    assert "abab" not in block and "9.0 s" not in block and "time: ...\nadapter sha256: ...\n" in block


def test_the_tutorials_plan_is_the_plan(planned: Any) -> None:
    text = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8").replace("\n", " ")
    config = schema.load(CONFIGS / "cross_i3t7.yaml", [])
    rounds, clients = config.federate.total_round_num, config.sampled_clients
    steps = rounds * clients * config.train.local_update_steps
    said = f"{rounds} rounds of {clients} clients, {steps} steps, {planned.traffic['run_bytes'] / 1e6:.1f} MB sent"
    assert said in text


def test_what_one_modality_can_give_at_most(tmp_path: Path) -> None:
    """README: from the image alone at most 25 % can be right, from the text alone 50 %."""
    from fs_fedmllm.data.registry import load_dataset

    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    assert "From the image alone at most 25 % can be right, from the text alone 50 %" in readme
    test = load_dataset("digits_triage", tmp_path).test
    # The digit says upper or lower, the text says which of four desks; neither says both.
    for seen, most in (("digit", 0.25), ("intent", 0.5)):
        found: dict[str, Counter[int | None]] = {}
        for row in test:
            found.setdefault(row.keys[seen], Counter())[row.label] += 1
        best = sum(max(labels.values()) for labels in found.values()) / len(test)
        assert best == pytest.approx(most, abs=0.02)


def numbers_of(line: str) -> list[float]:
    """The numbers in the cells of a row of a table."""
    return [float(cell.replace(",", "")) for cell in line.strip("| ").split("|") if cell.strip()]


def test_the_noise_of_the_documents_is_the_accountants() -> None:
    pytest.importorskip("dp_accounting", reason="the accountant needs the extra 'privacy'")
    from fs_fedmllm.privacy.accountant import Release, solve_noise

    text = text_of(REPOSITORY / "docs" / "privacy.md").replace("\n", " ")
    stated = re.search(
        r"50 rounds, delta 1e-3, epsilon 4: multiplier ([\d.]+) with all of 10 clients, ([\d.]+) with a fixed 5 of "
        r"20, ([\d.]+) with Poisson",
        text,
    )
    assert stated
    releases = (Release(1, 10, 10, "fixed"), Release(1, 5, 20, "fixed"), Release(1, 5, 20, "poisson"))
    for said, like in zip(stated.groups(), releases, strict=True):
        assert f"{solve_noise(4.0, 1e-3, 50, like):.1f}" == said
    rows = [line for line in text_of(REPOSITORY / "benchmarks" / "privacy.md").splitlines() if line.startswith("| 1")]
    assert len(rows) == 6
    for line in rows:
        clients, epsilon, multiplier, *ratios = numbers_of(line)
        found = solve_noise(epsilon, clients**-1.1, 50, Release(1, int(clients), int(clients), "fixed"))
        assert found == pytest.approx(multiplier, rel=0.01)
        for ratio, parameters in zip(ratios, (1e4, 1e6, 1e7), strict=True):
            assert ratio == pytest.approx(multiplier * parameters**0.5 / clients, rel=0.01, abs=0.005)


def test_the_limits_of_the_wire_are_those_of_the_page() -> None:
    pytest.importorskip("grpc", reason="the wire needs the extra 'distributed'")
    from fs_fedmllm.commands import certs
    from fs_fedmllm.distributed import client, frames, server, service, throttle, transport, wire

    text = text_of(REPOSITORY / "docs" / "deployment.md").replace("\n", " ")
    read, served = frames.FrameLimits(), transport.Limits()
    options = dict(wire.OPTIONS)
    clients = "[{alpha: 5.0, image_clients: 50, text_clients: 50}]"

    def most(number: int) -> transport.Limits:
        words = ["federate.client_num", str(number), *(("data.splitter_args", clients) if number == 100 else ())]
        return service.transport_limits(schema.load(CONFIGS / "cross_i3t7.yaml", words))

    assert most(100).exchanges == 400
    burst, every = (inspect.signature(throttle.Throttle).parameters[name].default for name in ("burst", "every"))
    for said in (
        f"chunks of exactly {frames.CHUNK >> 20} MiB",
        f"`fedmllm.network.max_message`, {schema.Config().fedmllm.network.max_message >> 10} GiB",
        f"header {read.header_bytes >> 20} MiB; index {read.index_bytes >> 20} MiB; {read.tensors:,} tensors",
        f"cut off after {served.stall_seconds:.0f} s without a chunk",
        f"{4 * served.exchanges_per_client} streams of a connection",
        f"in all {most(10).exchanges}, or four for each client of the federation if that is more",
        f"logged {burst} times, then once in {every:.0f} s",
        f"{served.bytes_in_flight >> 30} GiB being received in all",
        f"Keepalive pings every {options['grpc.keepalive_time_ms'] // 1000} s",
        f"pauses of {client.FIRST_PAUSE / 2:g} s to {client.LONGEST_PAUSE:.0f} s",
    ):
        assert said in text, said
    assert served.exchanges_per_client == 4 and "at most four of a client" in text
    privacy = text_of(REPOSITORY / "docs" / "privacy.md")
    assert server.ATTEMPTS == 3 and "is tried again, up to three attempts in all" in privacy
    parser = cli.build_parser()
    for line, days in (("certs server --host x", 365), ("certs client --id 1", 365), ("certs init --name x", 3650)):
        assert parser.parse_args(line.split()).days == days
    assert "valid for a year (`--days`), the authority for ten" in text and certs


def test_the_bounds_of_files_are_those_of_the_page() -> None:
    pytest.importorskip("grpc", reason="certificates need the extra 'distributed'")
    from fs_fedmllm.data import arrow_rows, files, images, packed, tables
    from fs_fedmllm.distributed import identity
    from fs_fedmllm.files import safe_yaml, untrusted

    page = text_of(REPOSITORY / "docs" / "deployment.md")
    swollen = f"more than {packed.SWOLLEN >> 20} MiB and more than {packed.RATIO} times the file"
    lines, rows = (f"{most // 10**6} million" for most in (packed.MAX_LINES, arrow_rows.MAX_ROWS))
    for said in (
        f"{untrusted.WRITTEN >> 20} MiB; {safe_yaml.MAX_NODES:,} values, with aliases counted as expanded; "
        f"{safe_yaml.MAX_DEPTH} levels; numbers of {safe_yaml.MAX_NUMBER} characters",
        f"{files.MAX_ROW >> 20} MiB a row, {files.MAX_LIST >> 30} GiB a list; "
        f"whole numbers of {sys.get_int_max_str_digits():,} digits",
        f"{tables.MAX_CELL:,} characters a cell, {files.MAX_ROW >> 20} MiB a line, {tables.MAX_COLUMNS:,} columns",
        f"{lines} lines; what gzip expands to {swollen} is refused",
        f"{rows} rows; a column, or rows, that expand to {swollen} are refused",
        f"{images.MAX_PIXELS:,} pixels; seven formats",
        f"JSON of runs and adapters | {untrusted.RECORDED >> 20} MiB",
        f"`revoked.txt` | {identity._LARGEST >> 20} MiB",
    ):
        assert said in page, said
    assert len(images.FORMATS) == 7 and (packed.SWOLLEN, packed.RATIO) == (arrow_rows.SWOLLEN, arrow_rows.RATIO)


def test_numbers_of_the_pages_on_privacy_deployment_and_hospitals() -> None:
    from fs_fedmllm.models import fingerprint
    from fs_fedmllm.scenarios import natural_clients

    pages = {name: " ".join(text_of(REPOSITORY / "docs" / f"{name}.md").split()) for name in
             ("privacy", "deployment", "hospitals")}  # fmt: skip
    assert f"up to {3 * fingerprint.SAMPLE >> 10} KiB of every tensor" in pages["deployment"]
    assert f"A name has at most {natural_clients.LONGEST} characters" in pages["hospitals"]
    benchmark = text_of(REPOSITORY / "benchmarks" / "audit.py")  # read, for it imports the engine
    told = {name: value for name, value in re.findall(r'"([a-z_.]+)", "([\d.]+)"', benchmark)}
    assert told["federate.client_num"] == told["federate.sample_client_num"] == "4"
    (rows,) = re.findall(r"^ROWS = (\d+)$", benchmark, re.MULTILINE)
    assert f"{rows} training rows and 4 clients that all take part" in pages["privacy"]
    clip, epsilon, delta = (told[name] for name in ("clip_norm", "target_epsilon", "delta"))
    assert f"`dp.clip_norm` {clip} and `target_epsilon` {epsilon} at delta {delta}" in pages["privacy"]


def test_the_differences_of_the_findings_are_those_of_its_accuracies() -> None:
    from fs_fedmllm.evaluation.seed_statistics import paired_over_seeds

    page = text_of(REPOSITORY / "docs" / "findings.md")
    rows = {}
    for line in re.findall(r"^\| (?:cross|missing|hybrid), .*\|$", page, re.MULTILINE):
        rows.setdefault(line.split("|")[1].strip(), []).append([c.strip(" *") for c in line.split("|")[2:-1]])
    assert len(rows) == 3
    for accuracies, differences in rows.values():
        base, *others = ([float(value.strip(" *")) for value in cell.split(",")] for cell in accuracies)
        for own, said in zip(others, differences, strict=True):
            found = paired_over_seeds(own, base)
            figures = [float(value) for value in re.findall(r"[+-]?\d+\.\d", said.replace("−", "-"))]
            known = (found.mean, found.low, found.high, found.detectable)
            assert figures == pytest.approx(known, abs=0.051), said


@pytest.mark.parametrize(
    ("heading", "file", "names", "seeds"),
    [
        (
            "## What helps in the cross scenario?", "digits_switches",
            {
                "FedAvg": "fedavg", "all three switches": "all", "draw + stand-ins": "draw_stand_ins",
                "prior + stand-ins": "prior_stand_ins", "stand-ins": "stand_ins", "draw": "draw",
                "prior + draw": "prior_draw", "prior": "prior", "prompt and adaptive regulariser": "both",
                "centralised, the same rows": "global",
            },
            10,
        ),
        (
            "## And with a tuned learning rate?", "digits_tuned",
            {
                "FedAvg": "fedavg", "all three switches": "all", "prior + draw": "prior_draw",
                "prompt and adaptive regulariser": "both",
            },
            10,
        ),
        (
            "## And the other methods?", "digits_methods",
            {
                "FedAvg": "fedavg", "all three switches": "all", "prior + draw": "prior_draw",
                "prompt and adaptive regulariser": "both", "prompt augmentation": "prompt",
                "adaptive regulariser": "adaptive", "FedProx": "fedprox", "FedAvgM": "fedavgm", "FedYogi": "fedyogi",
                "FedAdam": "fedadam", "FedAdagrad": "fedadagrad", "SCAFFOLD": "scaffold", "FedDyn": "feddyn",
                "MOON": "moon", "FedLC": "fedlc", "FedRPCA": "fedrpca", "FediLoRA": "fedilora", "Local": "local",
                "centralised, the same rows": "global",
            },
            10,
        ),
    ],
)  # fmt: skip
def test_the_findings_of_the_switches_are_those_of_the_raw_figures(
    heading: str, file: str, names: dict, seeds: int
) -> None:
    from fs_fedmllm.evaluation.seed_statistics import paired_over_seeds
    from fs_fedmllm.tools.report.figures import holm

    by_seed: dict[tuple[str, str], dict[int, float]] = {}
    with (REPOSITORY / "benchmarks" / "findings" / f"{file}.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            if row["value"]:  # zero-shot has no product of views
                by_seed.setdefault((row["method"], row["metric"]), {})[int(row["seed"])] = float(row["value"])
    raw = {key: [value for _, value in sorted(values.items())] for key, values in by_seed.items()}
    page = text_of(REPOSITORY / "docs" / "findings.md").split(heading)[1].split("\n## ")[0]
    found, said = [], []
    for name, method in names.items():
        (line,) = re.findall(rf"^\| {re.escape(name)} \|.*$", page, re.MULTILINE)
        *cells, difference = [cell.strip() for cell in line.strip("|").split("|")[1:]]
        joint, product = raw[method, "test_acc"], raw[method, "results.views.product.acc"]
        assert len(joint) == len(product) == seeds
        assert sorted(by_seed[method, "test_acc"]) == sorted(by_seed["fedavg", "test_acc"])
        for values, cell in zip((joint, product), cells, strict=True):
            mean, spread = (float(figure) for figure in cell.split(" ± "))
            assert (mean, spread) == pytest.approx((statistics.mean(values), statistics.stdev(values)), abs=0.051)
        if name != "FedAvg":
            found.append(paired_over_seeds(joint, raw["fedavg", "test_acc"]))
            difference = difference.replace("−", "-").replace("p < 0.001", "p 0.000")
            said.append([float(figure) for figure in re.findall(r"[+-]?\d+\.\d+", difference)])
    corrected = holm([difference.p_value for difference in found])
    for difference, p_value, (*figures, p_said, seen) in zip(found, corrected, said, strict=True):
        known = (difference.mean, difference.low, difference.high)
        assert (*figures, seen) == pytest.approx((*known, difference.detectable), abs=0.051)
        assert p_said == pytest.approx(p_value, abs=0.00051)


REAL = {
    "Zero-shot": "zero_shot", "FedAvg": "fedavg", "label prior, draw and stand-ins": "corrected",
    "centralised, the same rows": "global",
}  # fmt: skip


@pytest.mark.parametrize(("form", "file"), [("in words", "real_triage"), ("by letter", "real_triage_letters")])
def test_the_findings_of_the_real_task_are_those_of_the_raw_figures(form: str, file: str) -> None:
    from fs_fedmllm.evaluation.seed_statistics import paired_over_seeds

    with (REPOSITORY / "benchmarks" / "findings" / f"{file}.csv").open(encoding="utf-8") as rows:
        figures = {
            (row["level"], row["method"], row["metric"], row["seed"]): float(row["value"])
            for row in csv.DictReader(rows) if row["value"]
        }  # fmt: skip
    raw = {key[1:]: value for key, value in figures.items() if key[0] == "cross_i3t7"}
    page = text_of(REPOSITORY / "docs" / "findings.md").split("## The real task")[1].split("\n## ")[0]
    if form == "in words":
        said = " ".join(page.split())
        by_seed = {
            "FedAvg": "fedavg",
            "both strategies": "strategies",
            "corrections": "corrected",
            "centralised": "global",
        }
        kinds = ("test_acc", "results.views.product.acc")
        for name, method in by_seed.items():
            joint, product = ([raw[method, metric, seed] for seed in "012"] for metric in kinds)
            told = [", ".join(f"{value:.1f}" for value in values) for values in (joint, product)]
            mean = f"{statistics.mean(joint):.1f} ± {statistics.stdev(joint):.1f}"
            assert f"| {name} by seed | {told[0]} | {mean} | {told[1]} |" in said
            if method != "fedavg":
                found = paired_over_seeds(joint, [raw["fedavg", "test_acc", seed] for seed in "012"])
                line = said.split(f"| {name} by seed |")[1].split("|")[3].replace("−", "-")
                known = found.mean, found.low, found.high, found.detectable
                assert [float(value) for value in re.findall(r"[+-]?\d+\.\d", line)] == pytest.approx(known, abs=0.051)
        assert "FedAvg has 87.0 ± 5.6 over three seeds" in said
        yogi = [raw["fedyogi", metric, "0"] for metric in kinds]
        assert "FedYogi, seed 0 alone: {:.1f}, product {:.1f},".format(*yogi) in said
        others = [figures[level, "fedavg", "test_acc", "0"] for level in ("missing_b50", "hybrid_p60")]
        assert "{:.1f} with missing 50 % and {:.1f} with hybrid p = 0.6 (seed 0".format(*others) in said
    table = page.split(f"| **{form}** |")[1].split("| **")[0]
    metrics = ("test_acc", "results.views.product.acc", "test_image_acc", "test_text_acc")
    methods = REAL | ({"prompt and adaptive regulariser": "strategies"} if form == "in words" else {})
    for name, method in methods.items():
        (line,) = re.findall(rf"^\| {re.escape(name)} \|.*$", table, re.MULTILINE)
        cells = [cell.split("(")[0].strip() for cell in line.strip("|").split("|")[1:5]]
        assert [float(cell) if cell else None for cell in cells] == [
            pytest.approx(raw[method, metric, "0"], abs=0.051) if (method, metric, "0") in raw else None
            for metric in metrics
        ], name


def test_what_the_suites_hold_is_counted() -> None:
    """docs/conformance.md: how many wrong algorithms there are."""
    counts = {}
    for name in ("test_mutants", "test_federated_mutants"):
        place = REPOSITORY / "tests" / "conformance" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, place)
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        counts[name] = sum(len(table) for key, table in vars(made).items() if key.endswith("MUTANTS"))
    text = text_of(REPOSITORY / "docs" / "conformance.md")
    assert f"holds {counts['test_mutants']} wrong algorithms" in text
    assert counts["test_federated_mutants"] == 12 and "holds twelve wrong algorithms" in text


def test_the_rows_of_the_switches_are_counted() -> None:
    from fs_fedmllm.config import profiles
    from fs_fedmllm.scenarios import switches

    assert (len(profiles.SWITCHES), len(switches.SWITCHES)) == (15, 10)
    text = text_of(REPOSITORY / "docs" / "profiles.md").replace("\n", " ")
    assert "first fifteen rows are the table in `fs_fedmllm/config/profiles.py`, the last ten that in" in text


# --- what goes together, and what is refused ------------------------------------------------------------------------

FIVE = ("federate.sample_client_num", "5")
BYZANTINE = ("fedmllm.aggregation.byzantine", "1")
SECURE = ("fedmllm.privacy.secure_aggregation.enabled", "True")
PRIVATE = ("fedmllm.privacy.dp.clip_norm", "1", "fedmllm.privacy.dp.noise_multiplier", "1")


def refusal(*typed: str) -> str:
    """What is said against a configuration; nothing where it can run."""
    try:
        schema.load(CONFIGS / "cross_i3t7.yaml", [*FIVE, *typed])
    except FedMLLMError as error:
        return str(error)
    return ""


def test_the_table_of_what_goes_together_is_what_the_checks_let_through() -> None:
    lines = text_of(REPOSITORY / "docs" / "algorithms.md").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| | mean | krum"))
    heads = [cell.strip() for cell in lines[start].strip("|").split("|")][1:]
    columns: dict[str, list[tuple[str, ...]]] = {
        "mean": [()],
        "krum, multi_krum": [("fedmllm.aggregation.rule", rule, *BYZANTINE) for rule in ("krum", "multi_krum")],
        "median, trimmed_mean": [("fedmllm.aggregation.rule", rule) for rule in ("median", "trimmed_mean")],
        "norm_bounded": [("fedmllm.aggregation.rule", "norm_bounded")],
        "`lora: exact`": [("fedmllm.aggregation.lora", "exact")],
        "`lora: frozen_a`": [("fedmllm.aggregation.lora", "frozen_a")],
    }
    assert heads == list(columns)
    seen = set()
    for line in lines[start + 2 : start + 6]:
        first, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        adaptive = ["fedyogi", "fedadam", "fedadagrad"] if "adaptive" in first else []
        names = [*re.findall(r"`(\w+)`", first), *adaptive]
        seen |= set(names)
        for head, cell in zip(heads, cells, strict=True):
            for method in names:
                for typed in columns[head]:
                    allowed = cell == "yes" or cell == "nothing to combine"  # the mean itself is no choice there
                    assert (not refusal("federate.method", method, *typed)) == allowed, (method, typed)
    assert seen == set(METHODS)


def test_the_settings_of_hospitals_are_settings() -> None:
    page = text_of(REPOSITORY / "docs" / "hospitals.md")
    shown = re.findall(r"^\| `(\[\{client.*\}\])` \|", page, re.MULTILINE)
    assert len(shown) == 4
    for given in shown:
        assert not refusal("data.splitter", "fedmllm_given", "data.splitter_args", given), given


def rows_of(heading: str) -> dict[str, list[str]]:
    """The rows of the first table below a heading of docs/algorithms.md, by each name in their first cell."""
    lines = text_of(REPOSITORY / "docs" / "algorithms.md").split(f"\n{heading}")[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| --- |"))
    rows: dict[str, list[str]] = {}
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start + 1 :]):
        first, *rest = [cell.strip() for cell in line.strip("|").split("|")]
        rows |= dict.fromkeys(re.findall(r"`(\w+)`", first), rest)
    return rows


def test_the_tables_of_algorithms_are_those_of_the_code() -> None:
    import torch

    from fs_fedmllm.aggregators import build_aggregator
    from fs_fedmllm.algorithms import OPTIMIZERS, REGULARIZERS, build_server_optimizer
    from fs_fedmllm.config import AggregationConfig
    from fs_fedmllm.config.aggregation import OUR_RULES

    methods, rules = rows_of("## Server methods: `federate.method`"), rows_of("## How updates are combined")
    assert set(methods) == set(OPTIMIZERS) and set(rules) == set(OUR_RULES)
    params = {"w": torch.zeros(7)}

    def adapters(count: float) -> str:
        return "P" if count == 1 else f"{count:g} P"

    for name, (_, on_client, _, weights, state, sent) in methods.items():
        optimizer = build_server_optimizer(name)
        begun = optimizer.init(params)
        assert weights == {"samples": "rows", "uniform": "uniform"}[optimizer.weighting], name
        kept = sum(tensor.numel() for tensor in begun.values()) // 7
        keeps = f"server {adapters(kept)}" if kept else "-"
        assert state == keeps + (", each client P" if METHODS[name].keeps else ""), name
        ways = (optimizer.broadcast(params, begun), optimizer.expected(params))
        down, up = (adapters(sum(tensor.numel() for tensor in way.values()) / 7) for way in ways)
        assert sent == f"{down} + {up}" and (on_client != "-") == bool(METHODS[name].keeps), name
    found = rows_of("## Client regularisers")
    assert set(found) == {name for name in REGULARIZERS if name != "none"}
    assert [name for name, cells in found.items() if cells[2] != "-"] == ["moon"]
    assert [name for name in REGULARIZERS if REGULARIZERS[name].remembers] == ["moon"]
    for name, (_, _, memory) in rules.items():
        chosen = AggregationConfig(rule=name, byzantine=1 if "krum" in name else 0)
        whole = build_aggregator(chosen, params, {}).whole
        assert memory == ("the round's updates" if whole else "one adapter"), name
    (means,) = (field.metadata["choices"] for field in fields(AggregationConfig) if field.name == "lora")
    assert set(rows_of("| `lora` | source")) == set(means)


@pytest.mark.parametrize("line", ["push a b/c", "merge a --out m", "predict a --text t", "compare a b"])
def test_the_mean_of_the_last_rounds_can_be_asked_for(line: str) -> None:
    assert "`--which average` of" in " ".join(text_of(REPOSITORY / "docs" / "algorithms.md").split())
    assert cli.build_parser().parse_args([*line.split(), "--which", "average"]).which == "average"


#: A sentence of a document, and what it says is refused.
REFUSED = {
    "docs/algorithms.md": [
        ("It needs `federate.total_round_num: 1`", ["fedmllm.regularizer.type", "yoco"]),
        *[("`moon` is refused with `local` and `global`",
           ["federate.method", method, "fedmllm.regularizer.type", "moon"]) for method in ("local", "global")],
        *[("and `fedilora` with `scaffold` and `feddyn`",
           ["federate.method", method, "fedmllm.regularizer.type", "fedilora"]) for method in ("scaffold", "feddyn")],
        ("`fedlc` shifts the same logits as the label prior",
         ["fedmllm.label_prior", "1", "fedmllm.regularizer.type", "fedlc"]),
        *[("`local` and `global` draw no clients", ["federate.method", method, "fedmllm.sampler", "modality"])
          for method in ("local", "global")],
        ("or `robust_pca`", ["fedmllm.aggregation.rule", "robust_pca", "fedmllm.aggregation.lora", "exact"]),
        ("`lora: dimension_wise` with the mean alone",
         ["fedmllm.aggregation.lora", "dimension_wise", "fedmllm.aggregation.ranks", "[4, 4, 4, 4, 4, 4, 4, 4, 4, 4]",
          "fedmllm.aggregation.rule", "median"]),
        ("needs `exact`", ["fedmllm.aggregation.ranks", "[4, 4, 4, 4, 4, 4, 4, 4, 4, 4]"]),
        ("not with single coordinates (median, trimmed mean)",
         ["fedmllm.aggregation.lora", "exact", "fedmllm.aggregation.rule", "median"]),
        ("compressed updates only without error feedback",
         ["fedmllm.aggregation.lora", "exact", "fedmllm.compression.upload", "int8"]),
        ("the selecting rules treat all clients equally",
         ["fedmllm.aggregation.rule", "krum", *BYZANTINE, "fedmllm.aggregation.client_weights", "samples"]),
        ("at least 2 f + 3 clients a round",
         ["fedmllm.aggregation.rule", "krum", *BYZANTINE, "federate.sample_client_num", "4"]),
        ("`max_variate_norm` goes with it",
         ["federate.method", "scaffold", "fedmllm.aggregation.max_update_norm", "1"]),
        ("It is refused with `lora: exact`",
         ["fedmllm.average_last", "5", "fedmllm.aggregation.lora", "exact"]),
        *[("Refused with it, by name", ["fedmllm.async.buffer", "3", *typed]) for typed in (
            *[["federate.method", method] for method in ("scaffold", "feddyn", "local", "global")],
            [*SECURE], [*PRIVATE],
            ["fedmllm.aggregation.rule", "median"],
            ["fedmllm.aggregation.lora", "exact"],
            ["fedmllm.aggregation.outlier_factor", "3"],
            ["fedmllm.aggregation.client_weights", "balanced"],
            ["fedmllm.aggregation.client_weights", "complete"],
            ["fedmllm.switches.client_sampling", "round_seed"],
            ["fedmllm.network.turn_timeout", "5"],
            ["fedmllm.replay", "results.json"],
            ["federate.mode", "distributed"],
        )],
    ],
    "docs/strategies.md": [
        ("and `auto` under differential privacy", [*PRIVATE, "fedmllm.stand_ins.use", "auto"]),
        ("with `local`", ["federate.method", "local", "fedmllm.stand_ins.use", "force"]),
        ("FederatedScope's own samplers are refused", ["federate.sampler", "group"]),
    ],
    "docs/hospitals.md": [
        *[("describe a random partition and are refused here",
           ["data.splitter", "fedmllm_given", "data.splitter_args", f"[{{client: intent, {drawn}}}]"])
          for drawn in ("alpha: 1.0", "by: intent", "keep_together: intent")],
        *[("as is a level (`beta`, `p`, `image_clients`) without its scenario",
           ["data.splitter", "fedmllm_given", "data.splitter_args", f"[{{client: intent, {level}}}]"])
          for level in ("beta: 0.5", "p: 0.5", "image_clients: 2")],
    ],
    "docs/hub.md": [
        ("It is refused under differential privacy",
         [*PRIVATE, "fedmllm.hub.repo", "a/b", "fedmllm.hub.checkpoint", "True"]),
    ],
    "docs/trl.md": [
        ("MOON is refused", ["fedmllm.train.backend", "trl", "fedmllm.regularizer.type", "moon"]),
    ],
    "docs/models.md": [
        *[("are refused, with the reason", ["model.fedmllm.peft", name])
          for name in ("pissa", "olora", "corda", "loftq", "eva", "adalora")],
        ("not on a quantised base", ["model.fedmllm.peft", "loha", "model.fedmllm.quantization.type", "nf4"]),
    ],
    "docs/deployment.md": [
        ("The methods `local` and `global` are not available in a distributed run",
         ["federate.mode", "distributed", "federate.method", method]) for method in ("local", "global")
    ],
    "docs/nvflare.md": [
        ("as in every run across sites", ["federate.mode", "distributed", *typed])
        for typed in (["federate.method", "local"], ["federate.method", "global"], ["fedmllm.async.buffer", "2"],
                      ["fedmllm.replay", "results.json"], ["fedmllm.checkpoint_every", "2"],
                      [*PRIVATE, "fedmllm.privacy.dp.sampling", "poisson"])
    ],
    "docs/privacy.md": [
        ("`fedmllm.sampler: modality` is refused under differential privacy",
         [*PRIVATE, "fedmllm.sampler", "modality"]),
        ("`pld` is refused for `sampling: fixed`", [*PRIVATE, "fedmllm.privacy.dp.accountant", "pld"]),
        *[("any choice is refused if all clients take part",
           [*PRIVATE, "federate.sample_client_num", "10", "fedmllm.privacy.dp.accountant", accountant])
          for accountant in ("rdp", "pld")],
    ] + [
        ("robust rules need updates in the clear, and are refused together with it",
         [*SECURE, *typed])
        for typed in (["fedmllm.aggregation.rule", "median"], ["fedmllm.aggregation.max_update_norm", "1"],
                      ["fedmllm.aggregation.outlier_factor", "3"])
    ] + [
        ("`scaffold` and `feddyn` are refused: their clients send, or the server sums, what is not clipped",
         [*PRIVATE, "federate.method", method]) for method in ("scaffold", "feddyn")
    ] + [
        ("and so is `fedmllm.stand_ins.use: auto`, which depends", [*PRIVATE, "fedmllm.stand_ins.use", "auto"]),
        ("Poisson sampling needs the embedded engine",
         [*PRIVATE, "federate.mode", "distributed", "fedmllm.privacy.dp.sampling", "poisson"]),
        ("A round needs at least three clients by configuration", [*SECURE, "federate.sample_client_num", "2"]),
        ("a share of 0.5 or less is refused",
         [*SECURE, "fedmllm.privacy.secure_aggregation.threshold", "0.5"]),
        ("a `fedmllm.network.min_clients` below it is refused",
         [*SECURE, "fedmllm.network.min_clients", "2"]),
        ("Error feedback must be off",
         [*PRIVATE,
          "fedmllm.compression.upload", "int8"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("document", "sentence", "typed"),
    [(document, sentence, typed) for document, cases in REFUSED.items() for sentence, typed in cases],
)
def test_what_a_page_says_is_refused_is_refused(document: str, sentence: str, typed: list[str]) -> None:
    assert sentence in " ".join(text_of(REPOSITORY / document).split())
    assert typed[-2].rpartition(".")[0] in refusal(*typed)  # for this key, not for another one


#: Of the sections that have figures by seed: file, metric, what the others are compared with, and the lines in order.
BY_SEED = {
    "## And where the label is a relation?": ("digits_match", "test_auc", "prior_draw", {
        scenario: ["prior_draw", "fedavg", "all", "guarded"] for scenario in ("hybrid", "missing")
    }),
    "## And where one modality tells a part?": ("digits_memes", "test_auc", "prior_draw", {
        scenario: ["prior_draw", "fedavg", "all", "guarded"] for scenario in ("hybrid", "missing")
    }),
    "## And where some rows are complete?": ("digits_switches_pairs", "test_acc", "fedavg", {
        "hybrid": ["fedavg", "prior", "draw", "weights", "draw_weights", "prior_draw", "all", "both"],
        "missing": ["fedavg", "prior", "weights", "prior_draw", "all", "both"],
    }),
    "## And with one round alone?": ("digits_one_round", "test_acc", "fedavg", {
        "": ["fedavg", "exact", "yoco"],
    }),
    "## The paper's strategies, taken apart": ("digits_ablations", "test_acc", "fedavg", {
        "cross": ["fedavg", "middle", "early", "late", "every", "constant", "prompt", "prompt_plain"],
    }),
}  # fmt: skip


@pytest.mark.parametrize("heading", BY_SEED)
def test_findings_by_seed_are_those_of_the_raw_figures(heading: str) -> None:
    from fs_fedmllm.evaluation.seed_statistics import paired_over_seeds
    from fs_fedmllm.tools.report.figures import holm

    file, metric, baseline, methods = BY_SEED[heading]
    raw: dict[tuple[str, str], list[float]] = {}
    with (REPOSITORY / "benchmarks" / "findings" / f"{file}.csv").open(encoding="utf-8") as rows:
        for row in sorted(csv.DictReader(rows), key=lambda row: int(row["seed"])):
            if row["metric"] == metric:
                raw.setdefault((row.get("scenario", ""), row["method"]), []).append(float(row["value"]))
    page = text_of(REPOSITORY / "docs" / "findings.md").split(heading)[1]
    lines = re.findall(r"^\| [^|*]* \| \d[^|]*±.*\|$", page.split("\n## ")[0], re.MULTILINE)
    said = [[cell.strip() for cell in line.replace("−", "-").split("|")[2:-1]] for line in lines]
    places = [(scenario, method) for scenario, names in methods.items() for method in names]
    assert sorted(raw) == sorted(places) and len(said) == len(places)
    compared = [place for place in places if place[1] != baseline]
    found = [paired_over_seeds(raw[place], raw[place[0], baseline]) for place in compared]
    corrected = holm([difference.p_value for difference in found])
    for place, (mean, by_seed, _) in zip(places, said, strict=True):
        assert len(raw[place]) == 10
        assert [float(value) for value in by_seed.split(", ")] == pytest.approx(raw[place], abs=0.051)
        known = statistics.mean(raw[place]), statistics.stdev(raw[place])
        assert [float(value) for value in mean.split(" ± ")] == pytest.approx(known, abs=0.051)
    shown = [cell for place, (_, _, cell) in zip(places, said, strict=True) if place in compared]
    for difference, p_value, cell in zip(found, corrected, shown, strict=True):
        figures = [float(value) for value in re.findall(r"[+-]?\d+\.\d+", cell)]
        known = difference.mean, difference.low, difference.high, p_value, difference.detectable
        assert figures == pytest.approx(known, abs=0.051)


def test_what_findings_say_of_the_layer_mask_is_in_the_raw_figures() -> None:
    from fs_fedmllm.algorithms.proximal import coefficient
    from fs_fedmllm.config.own_sections import RegularizerConfig
    from fs_fedmllm.evaluation.seed_statistics import paired_over_seeds

    raw: dict[str, list[float]] = {}
    with (REPOSITORY / "benchmarks" / "findings" / "digits_ablations.csv").open(encoding="utf-8") as rows:
        for row in sorted(csv.DictReader(rows), key=lambda row: int(row["seed"])):
            raw.setdefault(row["method"], []).append(float(row["value"]))
    page = " ".join(text_of(REPOSITORY / "docs" / "findings.md").split())
    pairs = (("middle", "every"), ("early", "every"), ("late", "every"), ("early", "middle"))
    told = [
        (f"{abs(found.mean):.1f}", f"({found.low:+.1f} to {found.high:+.1f})".replace("-", "−"))
        for found in (paired_over_seeds(raw[one], raw[other]) for one, other in pairs)
    ]
    said = re.findall(
        r"the middle ones have (\S+) points more (\(.*?\)), the first (\S+) (\(.*?\)), the last (\S+) (\(.*?\))\..*?"
        r"the first four are (\S+) points above them (\(.*?\))", page,
    )  # fmt: skip
    assert said == [tuple(part for pair in told for part in pair)]
    assert sum(one < other for one, other in zip(raw["every"], raw["fedavg"], strict=True)) == 8
    rules = RegularizerConfig(type="adaptive")
    by = {
        switch: coefficient(rules, beta=1.0, switch=switch, scenario="cross")
        for switch in ("measured", "by_scenario", "constant")
    }
    assert by["measured"] == by["by_scenario"] == rules.gamma_max > by["constant"]


def test_what_findings_say_of_where_the_runs_on_memes_began() -> None:
    """The adapter that they started from has AUC 85.1 on these rows."""
    ends: dict[tuple[str, str], list[float]] = {}
    with (REPOSITORY / "benchmarks" / "findings" / "digits_memes.csv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            if row["metric"] == "test_auc":
                ends.setdefault((row["scenario"], row["method"]), []).append(float(row["value"]))
    below = {place: sum(value < 85.092 for value in values) for place, values in ends.items()}
    assert below == {
        **{("hybrid", method): 0 for method in ("prior_draw", "all", "guarded")}, ("hybrid", "fedavg"): 3,
        ("missing", "fedavg"): 7, ("missing", "prior_draw"): 2, ("missing", "all"): 3, ("missing", "guarded"): 2,
    }  # fmt: skip


def test_the_example_of_yoco_trains_the_last_layer_of_the_embedded_model() -> None:
    from transformers import AutoConfig

    from fs_fedmllm.models.loader import resolve_path

    last = AutoConfig.from_pretrained(resolve_path("tiny")).get_text_config().num_hidden_layers - 1
    page = text_of(REPOSITORY / "docs" / "algorithms.md")
    assert rf"language_model\.layers\.({last})\.self_attn\.q_proj" in page and f"The layer number, {last} here" in page
    assert rf"layers\.({last})\.self_attn" in text_of(REPOSITORY / "tables" / "digits_one_round_trials.yaml")


def test_what_findings_say_of_a_second_base_is_in_the_raw_figures() -> None:
    rows = ["FedAvg", "corrections", "Local", "FedAvg, one word an answer", "centralised, one word an answer"]
    methods = dict(zip(rows, ("fedavg", "corrected", "local", "whole", "whole_global"), strict=True))
    raw: dict[tuple[str, str], list[str]] = {}
    with (REPOSITORY / "benchmarks" / "findings" / "real_triage_defaults.csv").open(encoding="utf-8") as lines:
        for row in sorted(csv.DictReader(lines), key=lambda row: int(row["seed"])):
            method = row["method"] if row["level"] == "cross_i3t7" else f"{row['level']} {row['method']}"
            if row["value"]:
                raw.setdefault((method, row["metric"]), []).append(f"{float(row['value']):.1f}")
    methods |= {
        "FedAvg, missing 50 %": "missing_b50 fedavg",
        "FedAvg, hybrid p = 0.6": "hybrid_p60 fedavg",
        "FedAvg, aligned, alpha 0.5": "aligned_a05 fedavg",
        "FedAvg, aligned, one word an answer": "aligned_a05 whole",
    }
    page = text_of(REPOSITORY / "docs" / "findings.md").split("### A second base")[1].split("\n## ")[0]
    for name, method in methods.items():
        joint, product = raw[method, "test_acc"], raw[method, "results.views.product.acc"]
        exact = list(map(float, joint))
        mean = f"{statistics.mean(exact):.1f} ± {statistics.stdev(exact):.1f}" if len(exact) > 1 else ""
        line = f"| second base: {name} | {', '.join(joint)} | {mean} | {', '.join(product)} |"
        assert " ".join(line.split()) in " ".join(page.split()), line
