"""What the documents say is true: examples run, references and tables are those of the code, links lead somewhere."""

from __future__ import annotations

import csv
import importlib.util
import inspect
import json
import re
import runpy
import sys
import types
from dataclasses import fields
from pathlib import Path

import pytest
from short_runs import REPOSITORY

from fs_fedmllm.algorithms import METHODS
from fs_fedmllm.config import profiles
from fs_fedmllm.config.open_names import OUTSIDE_METRICS, SCENARIOS
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.scenarios import switches

DOCUMENTS = [*sorted((REPOSITORY / "docs").glob("*.md")), *sorted(REPOSITORY.glob("*.md"))]


def blocks(name: str) -> list[str]:
    """The Python blocks of a document."""
    return re.findall(r"^```python\n(.*?)^```$", (REPOSITORY / name).read_text(), re.MULTILINE | re.DOTALL)


def module(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType(name, source)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(source, name, "exec"), made.__dict__)
    return made


# --- docs/extending.md ----------------------------------------------------------------------------------------------


def extension(index: int, name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    found = blocks("docs/extending.md")
    assert len(found) == 7
    assert all(len(block.splitlines()) <= 45 for block in found)
    return module(name, found[index], monkeypatch)


SKY = """task: choice
metric: accuracy
options: [clear, cloudy]
instruction: What is the sky like
original: &cases
  both: &case {basis: "", question: How is the sky}
  text: *case
  image: *case
  neither: *case
augmented: *cases
"""


def test_the_data_set_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from fs_fedmllm.data import registry
    from fs_fedmllm.data.check import inspect
    from fs_fedmllm.scenarios import ScenarioParams, apply_scenario

    monkeypatch.setitem(registry.DATASETS._known, "sky", extension(0, "sky_of_the_guide", monkeypatch).load)
    (tmp_path / "sky.yaml").write_text(SKY)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for split, rows in {"train": 6, "val": 2, "test": 2}.items():
        with (tmp_path / f"{split}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["image", "remark", "class", "station"])
            for i in range(rows):
                writer.writerow(["a.png", "" if i == 1 else f"remark {i}", ("clear", "cloudy")[i % 2], f"s{i % 3}"])
    options = {"template": str(tmp_path / "sky.yaml")}
    dataset = registry.load_dataset("sky", tmp_path, options)
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [6, 2, 2]
    assert dataset.train[1].presence == "image" and dataset.train[0].presence == "both"
    assert dataset.train[1].answer == "(B) cloudy" and dataset.train[4].source == "train.csv:6"
    split = apply_scenario("aligned", dataset.train, 2, ScenarioParams(alpha=50.0, by="station"))
    assert sum(len(rows) for rows in split.clients.values()) == 6
    (tmp_path / "val.csv").write_text("image,remark,class,station\na.png,x,stormy,s1\nb.png,x,clear,s1\n")
    wrong = [finding for finding in inspect("sky", tmp_path, options)[1] if finding.severity == "error"]
    assert [finding.row for finding in wrong] == ["2", "3"] and "stormy" in wrong[0].problem


def test_the_server_optimizer_of_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from fs_fedmllm.conformance import certify

    made = extension(1, "optimizer_of_the_guide", monkeypatch).FedAdaBelief(lr=1.0, beta1=0.5, beta2=0.75, tau=0.5)
    verdicts = certify(made)
    assert not [check for check, verdict in verdicts.items() if verdict.startswith("FAILED")], verdicts
    params = {"w": torch.zeros(1)}
    new, _ = made.step(params, made.init(params), {"w": torch.ones(1)})
    # m = 0.5; v = 0.75 * 0.25 + 0.25 * (1 - 0.5)^2 = 0.25; W = 0.5 / (0.5 + 0.5)
    assert new["w"].item() == 0.5


def test_the_regularizer_of_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from fs_fedmllm import ClientContext

    made = extension(2, "regularizer_of_the_guide", monkeypatch)
    context = ClientContext(client=1, names=("w",), device=torch.device("cpu"))
    assert made.Sparse.client(made.SparseParameters(mu=0.0), context) is None
    half, weight = made.Sparse.client(made.SparseParameters(mu=0.5), context), torch.tensor([1.0, -2.0, 0.0])
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = torch.ones(3)
    value = half.correct([parameter], [torch.zeros(3)], 0, 1)
    assert value.item() == 1.5 and parameter.grad.tolist() == [1.5, 0.5, 1.0]


def test_the_aggregator_of_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from fs_fedmllm.config import AggregationConfig

    made = extension(3, "aggregator_of_the_guide", monkeypatch)
    rule = made.GeometricMedian({"w": torch.ones(2, 1)}, AggregationConfig(), made.MedianParameters(steps=60))
    for client, value in enumerate((1.0, 1.0, 1.0, 2.0, 1000.0), 1):
        rule.add(client, 1.0, {"w": torch.full((2, 1), 1 + value)})
    mean = rule.mean()["w"]
    assert mean.shape == (2, 1) and mean.flatten().tolist() == pytest.approx([1.0, 1.0], abs=0.01)
    assert rule.figures["farthest"] == pytest.approx(999 * 2**0.5, rel=0.01)


@pytest.mark.parametrize(
    "refused",
    [
        ("fedmllm.aggregation.client_weights", "balanced"),
        ("fedmllm.aggregation.client_weights", "complete"),
        ("fedmllm.aggregation.lora", "exact"),
        ("fedmllm.privacy.secure_aggregation.enabled", "True"),
        ("fedmllm.privacy.dp.clip_norm", "1", "fedmllm.privacy.dp.noise_multiplier", "1"),
        ("seed", "13"),
    ],
    ids=lambda words: "-".join(words[0].split(".")[-2:]),
)
def test_what_a_rule_from_outside_is_refused_with(monkeypatch: pytest.MonkeyPatch, short_config, refused) -> None:
    from fs_fedmllm.config.aggregation import RULES

    def rule(params, section):
        raise AssertionError

    rule.faults = lambda config: ["no seed 13 with this rule"] if config.seed == 13 else []
    monkeypatch.setitem(RULES._known, "mine", rule)
    words = ("fedmllm.aggregation.rule", "mine", "federate.sample_client_num", "3")
    assert short_config("cross_i3t7", *words, "fedmllm.aggregation.client_weights", "uniform").seed != 13
    with pytest.raises(ConfigError, match=r"another package's|secure_aggregation|clip_norm|no seed 13"):
        short_config("cross_i3t7", *words, *refused)


def test_the_scenario_of_the_guide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fs_fedmllm.data.registry import load_dataset
    from fs_fedmllm.scenarios import apply_scenario, params_of

    monkeypatch.setitem(SCENARIOS._known, "camera", extension(4, "scenario_of_the_guide", monkeypatch).CAMERA)
    rows = load_dataset("digits_triage", tmp_path).train
    split = apply_scenario("camera", rows, 5, params_of("camera", {"alpha": 50.0}), seed=3)
    missing = [record.missing["image"] for _, record in sorted(split.manifest.clients.items())]
    assert missing[0] == 1.0 and missing[-1] == 0.0
    assert missing[2] == pytest.approx(0.5, abs=0.1)
    again = apply_scenario("camera", rows, 5, params_of("camera", {"alpha": 50.0}), seed=3)
    assert again.manifest.sha256 == split.manifest.sha256 and split.manifest.params["own"] == {"most": 1.0}
    rarer = apply_scenario("camera", rows, 5, params_of("camera", {"alpha": 50.0, "most": 0.5}), seed=3)
    assert rarer.manifest.clients[5].missing["image"] == pytest.approx(0.5, abs=0.1)


def test_the_metric_of_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from fs_fedmllm.evaluation.predictions import Prediction

    metric = extension(5, "metric_of_the_guide", monkeypatch).balanced_accuracy
    answered = [(True, 0), (True, 0), (False, 0), (False, 0), (True, 1)]
    rows = [Prediction(str(i), "both", correct, label=label) for i, (correct, label) in enumerate(answered)]
    found = metric(rows)
    assert found is not None and found.value == pytest.approx((0.5 + 1) / 2)
    assert found.weighted(np.array([[1, 1, 0, 0, 0]])).tolist() == [1.0]  # a class that no draw has does not count
    assert metric([Prediction("a", "both", True, answer="yes")]) is None


OUTSIDE = re.compile(
    r'entry-points\."(fs_fedmllm\.(?:algorithms|regularizers|aggregators|scenarios|metrics))".*\n'
    r'    (\w+) = "[\w.]+:(\w+)"'
)


def test_one_file_outside_the_package_adds_one_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_config
) -> None:
    """From the guide's own blocks and entry points; nothing of ours is edited."""
    from fs_fedmllm import registry
    from fs_fedmllm.algorithms import REGULARIZERS
    from fs_fedmllm.config.aggregation import RULES
    from fs_fedmllm.runs.simulation import run

    (tmp_path / "outside.py").write_text("\n\n".join(blocks("docs/extending.md")[1:6]))
    installed = tmp_path / "outside-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    lines = OUTSIDE.findall((REPOSITORY / "docs" / "extending.md").read_text())
    assert len(lines) == 5
    (installed / "entry_points.txt").write_text(
        "".join(f"[{group}]\n{name} = outside:{thing}\n" for group, name, thing in lines)
    )
    open_to_others = (METHODS, REGULARIZERS, RULES, SCENARIOS, OUTSIDE_METRICS)
    before = [dict(names._known) for names in open_to_others]
    registry._entry_points.cache_clear()
    try:
        with monkeypatch.context() as path:
            path.syspath_prepend(str(tmp_path))
            config = short_config(
                "aligned_a50", "federate.method", "fedadabelief", "data.splitter", "fedmllm_camera",
                "data.splitter_args", "[{alpha: 5.0, most: 0.5}]", "fedmllm.eval.metrics", "[balanced_acc]",
                "eval.best_res_update_round_wise_key", "val_balanced_acc",
                "fedmllm.regularizer.type", "sparse", "fedmllm.aggregation.rule", "geometric_median",
                "fedmllm.parameters", "{sparse: {mu: 0.01}, geometric_median: {steps: 2}}",
            )  # fmt: skip
            results, folder = run(config)
            most = ("data.splitter", "fedmllm_camera", "data.splitter_args")
            for words, said in (
                ((*most, "[{most: 2.0}]"), r"splitter_args\.most is 2\.0"),
                ((*most, "[{mots: 0.5}]"), "did you mean 'most'"),
                (("data.splitter_args", "[{most: 0.5}]"), "unknown parameter 'most'"),
                (("fedmllm.eval.metrics", "[balanced_ac]"), "did you mean 'balanced_acc'"),
                (
                    ("fedmllm.aggregation.rule", "geometric_median", "fedmllm.parameters.geometric_median.steps", "0"),
                    r"parameters\.geometric_median\.steps is 0",
                ),
                (("fedmllm.parameters.geometric_median.steps", "1"), "belongs to no algorithm of this run"),
            ):
                with pytest.raises(ConfigError, match=said):
                    short_config("aligned_a50", *words)
    finally:
        for names, known in zip(open_to_others, before, strict=True):
            names._known = known
        sys.modules.pop("outside", None)
        registry._entry_points.cache_clear()
    assert results["method"] == "fedadabelief" and results["best_by"] == "val_balanced_acc"
    interval = results["intervals"]["test_balanced_acc"]
    assert interval["low"] <= interval["value"] == results["evaluations"][-1]["test_balanced_acc"] <= 1
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert all(line["farthest"] > 0 for line in lines if line["kind"] == "round")
    assert any(line["penalty"] > 0 for line in lines if line["kind"] == "turn")
    manifest = json.loads((folder.path / "manifest.json").read_text())
    assert manifest["scenario"] == "camera" and manifest["params"]["own"] == {"most": 0.5}
    with pytest.raises(ConfigError, match="There is none; leave it empty, or give a path"):
        short_config("aligned_a50", "fedmllm.eval.metrics", "[balanced_acc]")


def test_the_family_of_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from fs_fedmllm.config import ModelOptions
    from fs_fedmllm.models import families
    from fs_fedmllm.models.slots import attach

    made = extension(6, "family_of_the_guide", monkeypatch).FAMILY
    monkeypatch.setitem(families.REGISTERED._known, "glance", made)
    family = families.family_of("glance")
    joined = family.join_pixels([{"pixel_values": torch.ones(3, n), "sizes": torch.ones(1, 2)} for n in (2, 5)])
    assert joined["pixel_values"].shape == (3, 7) and joined["sizes"].shape == (2, 2)

    def block() -> torch.nn.Module:
        return torch.nn.ModuleDict({"attn": torch.nn.ModuleDict({n: torch.nn.Linear(4, 4) for n in ("query", "out")})})

    model = torch.nn.ModuleDict({"bridge": torch.nn.Linear(4, 4), "decoder": torch.nn.ModuleDict({})})
    model["decoder"]["blocks"] = torch.nn.ModuleList([block(), block(), block()])
    model.config = types.SimpleNamespace(get_text_config=lambda: types.SimpleNamespace(num_hidden_layers=3))
    adapted, depth, groups = attach(ModelOptions(federated=["lora", "projector"]), family, model)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert depth == 3 and groups == {"projector": ("bridge",)}
    assert len([name for name in trained if "lora_" in name]) == 3 * 2 * 2
    assert {name for name in trained if "lora_" not in name} == {
        f"base_model.model.bridge.modules_to_save.default.{part}" for part in ("weight", "bias")
    }


def test_the_page_about_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("docs/python.md")
    exec(compile(block, "docs/python.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("round 1: ") and "probabilities" not in printed and printed.count("\n") >= 5


def test_the_page_about_conformance(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("docs/conformance.md")
    exec(compile(block, "docs/conformance.md", "exec"), {"__name__": "page"})
    verdicts = capsys.readouterr().out
    assert "FAILED" not in verdicts and "no reference is known for 'halved'" in verdicts


def test_the_page_about_python_names_every_public_name() -> None:
    import fs_fedmllm

    page = (REPOSITORY / "docs" / "python.md").read_text()
    assert [name for name in fs_fedmllm.__all__ if name != "__version__" and f"`{name}" not in page] == []


def test_the_page_about_python_shows_signatures_as_they_are() -> None:
    import fs_fedmllm

    page = (REPOSITORY / "docs" / "python.md").read_text()
    table = "\n".join(line for line in page.splitlines() if line.startswith("| `"))
    shown = re.findall(r"`(\w+)\(([^`]*)\)`", table)
    assert len(shown) > 8
    for name, arguments in shown:
        found = getattr(fs_fedmllm, name, None) or getattr(fs_fedmllm.Callback, name, None)
        found = found or getattr(fs_fedmllm.Adapter, name)
        named = [word.split("=")[0].strip(" *") for word in re.sub(r"\(\)", "", arguments).split(",")]
        assert {word for word in named if word} <= set(inspect.signature(found).parameters), name
    figures = {field.name for field in fields(fs_fedmllm.Result)}
    (said,) = re.findall(r"^\| `Result` \| (.*) \|$", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", said)) == figures


def test_what_the_guide_names_beside_its_blocks_is_there() -> None:
    from fs_fedmllm import ClientContext, ClientHalf
    from fs_fedmllm.algorithms.scaffold import Scaffold
    from fs_fedmllm.models.families.base import Family

    page = (REPOSITORY / "docs" / "extending.md").read_text()
    for owner, names in (
        (ClientHalf, ("begin", "prepare", "row_loss", "finish", "correct", "option_shift")),
        (Scaffold, ("broadcast", "expected", "faults", "client", "build")),
        (Family, ("image_settings", "written", "branching", "branched")),
    ):
        assert not [name for name in names if f"`{name}" not in page or not hasattr(owner, name)]
    assert {"client", "label_counts", "missing_rate", "names", "layers"} <= {f.name for f in fields(ClientContext)}


# --- examples and references ----------------------------------------------------------------------------------------


def test_the_page_on_trl_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl", reason="NOT RUN: trl is not installed")
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("docs/trl.md")
    exec(compile(block, "docs/trl.md", "exec"), {})
    first, second = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert first == 0 < second


def test_the_page_for_those_who_come_from_trl_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its script before, the configuration and the commands after, and the adapter, in this order."""
    pytest.importorskip("trl", reason="NOT RUN: trl is not installed")
    from fs_fedmllm.cli import main
    from fs_fedmllm.rounds.sft_arguments import OWNED

    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs" / "from_trl.md").read_text()
    before, after = blocks("docs/from_trl.md")
    config, template = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    (tmp_path / "rows").mkdir()
    exec(compile(before, "before", "exec"), names)
    (tmp_path / "after.yaml").write_text(config)
    (tmp_path / "rows" / "ask.yaml").write_text(template)
    (commands,) = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for line in commands.splitlines():
        single = ["fedmllm.workers", "1"] if " run " in line else []  # forked updates are tested elsewhere
        assert main([*line.split()[1:], *single]) == 0, capsys.readouterr()
    exec(compile(after, "after", "exec"), names)
    assert names["model"].peft_config["default"].r == 8
    results = json.loads((tmp_path / "exp" / "after" / "results.json").read_text())
    assert results["client_names"] == {"1": "north", "2": "south"} and results["refused"] == []
    # What the table says is set elsewhere is refused in the section of SFTConfig's fields.
    named = set(
        re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in page.splitlines() if line[:3] == "| `"))
    )
    assert {"learning_rate", "max_steps", "packing", "max_length", "push_to_hub", "seed", "optim"} <= named & set(
        OWNED
    )


def test_the_minimal_example_runs_and_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    path = REPOSITORY / "examples" / "minimal.py"
    assert len(path.read_text().splitlines()) <= 120
    names = runpy.run_path(str(path))
    figures = names["main"](["--rounds", "2", "--steps", "1", "--rows", "16"])
    assert 0 <= figures["acc"] <= 1 and figures["total"] == 16
    told = capsys.readouterr().out
    assert "beta 1.0" in told and "shown the text only" in told


def test_the_configuration_reference_is_what_the_schema_says() -> None:
    """If this fails: python scripts/write_config_reference.py."""
    spec = importlib.util.spec_from_file_location("reference", REPOSITORY / "scripts" / "write_config_reference.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.TARGET.read_text(encoding="utf-8") == script.text()


def table(name: str, head: str) -> dict[str, list[str]]:
    """The rows of the table that begins with this head, by their first cell; back-ticks taken off."""
    lines = (REPOSITORY / name).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(head))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *rest = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        rows[first] = rest
    return rows


def test_the_table_of_profiles_is_that_of_the_code() -> None:
    found = table("docs/profiles.md", "| switch | `fixed`")
    expected = {}
    for name in profiles.SWITCHES:
        expected[name] = [profiles.profile_switches(profile)[name] for profile in profiles.PROFILES]
    for name in switches.SWITCHES:
        expected[name] = [getattr(switches.PROFILES[profile], name) for profile in profiles.PROFILES]
    assert {name: cells[:3] for name, cells in found.items()} == expected


def test_the_table_of_methods_is_that_of_the_code() -> None:
    assert set(table("README.md", "| `federate.method`")) == set(METHODS)


def test_the_table_of_fixes_is_that_of_the_code() -> None:
    from fs_fedmllm.hosts.federatedscope.compat import FIXES

    found = table("docs/federatedscope.md", "| fix |")
    assert {name: cells[0] for name, cells in found.items()} == {fix.name: fix.where for fix in FIXES}


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    texts = [(REPOSITORY / name).read_text() for name in (".ci/run", "README.md", "CONTRIBUTING.md", "Makefile")]
    extras = re.findall(r"-c constraints.txt -e '\.\[([\w,]+)\]'", texts[0])
    assert len(extras) == 1 and all(extras[0] in text for text in texts)
    assert all("--dist loadfile" in text for text in texts[:2])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    missing = [target for target in targets if not (document.parent / target).exists()]
    named = re.findall(r"`((?:fs_fedmllm|docs|tests|configs|scripts|examples|data_templates)/[\w./-]+)`", text)
    missing += [name for name in named if not (REPOSITORY / name).exists() and "sky" not in name]
    assert not missing
