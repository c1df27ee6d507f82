"""Table files: strict, and cells known by their content."""

from __future__ import annotations

import dataclasses

import pytest
import short_table
import yaml
from short_runs import REPOSITORY

from fs_fedmllm import cli, config
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.tools.sweeps import grid
from fs_fedmllm.tools.sweeps.table import TableError
from fs_fedmllm.tools.sweeps.table_file import load_table, parse_table

RAW = yaml.safe_load(short_table.TABLE)


def changed(path: str, value: object) -> dict:
    raw = yaml.safe_load(short_table.TABLE)
    node = raw
    *parents, last = path.split("/")
    for parent in parents:
        node = node[parent]
    node[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("colums", ["x"], "unknown key 'colums'; did you mean 'columns'"),
        ("axes/method/values/fedavg/sets", {}, "unknown key 'axes.method.values.fedavg.sets'; did you mean 'set'"),
        ("rows", ["methods"], "rows names 'methods', which is none of method, scenario"),
        ("columns", [], "together name every axis once"),
        ("seeds", [0, 0], "seeds must be a list of different whole numbers"),
        ("seeds", [True], "seeds must be"),
        ("at", "first", "at must be one of last, best, zero_shot"),
        ("metrics", [], "metrics must name at least one"),
        ("metrics", [{"name": "x", "scale": "big"}], "need a number other than 0 as scale"),
        ("metrics", [{"name": "x", "scale": float("nan")}], "need a number other than 0 as scale"),
        ("metrics", [{"name": "x", "decimals": -1}], "0 to 12 as decimals"),
        ("metrics", ["x", {"name": "x"}], "metrics names 'x' twice"),
        ("curves", ["loss", {"a": 1}], "curves must be names"),
        ("curves", ["loss", "loss"], "curves has a name twice"),
        ("title", None, "title must be a text, got None. Put it into quotes, or take the key out"),
        ("config", ["a"], "config must be a text, got ['a']"),
        ("config", "aligned_a05.yaml", "config is of no run, since every value of 'scenario' names its own"),
        ("axes/method/values", {1.0: {}, "1.0": {}}, "axes.method.values has the name '1.0' twice"),
        ("axes/method/values", {True: {}, False: {}}, "has a name that YAML reads as True, as yes, no, on, off"),
        ("axes/method/values", {"": {}}, "has the name ''; a name is one line of text"),
        ("axes/axis method", {"values": {"a": {}}}, "axes.axis method is the column of 'method'"),
        ("axes/method/values/zero", {"at": "zero_shot", "set": {"eval.freq": 1}}, "zero has no run of its own"),
        ("set/seed", 5, "set.seed is given by the key seeds of the table"),
        ("set/outdir", "x", "set.outdir is given by --out"),
        ("set/fedmllm.workers", 2, "set.fedmllm.workers is given by --workers"),
        ("set/train", None, "set: train is a section, and None is given"),
        ("set/federate", {"total_round_num": 9}, "set.federate.total_round_num is given twice"),
        ("skip", [{}], "skip has an empty entry, which would be every cell"),
        ("baseline", {"method": "zero"}, "baseline is a row without runs of its own"),
        ("paper", {"fedavg": {"cross": float("nan")}}, "paper.fedavg.cross must hold a number or"),
        ("baseline", {"method": "fedyogi"}, "baseline.method is 'fedyogi', which is none of zero, fedavg, fedprox"),
        ("paper", {"fedyogi": {}}, "paper has 'fedyogi', which is none of"),
        ("paper", {"fedavg": {"cross": "70"}}, "paper.fedavg.cross must hold a number or"),
        ("paper", {"fedavg": {"cross": {"test_auc": 1}}}, "has 'test_auc', which is none of test_acc"),
        ("source", "", "source must say where the figures"),
        ("axes/seed", {"values": {"a": {}}}, "axes.seed is given by the key seeds"),
        ("order", ["seed", "method"], "order must hold seed and every axis once"),
    ],
)
def test_what_means_nothing_is_refused_by_name(path, value, says) -> None:
    with pytest.raises(TableError) as caught:
        parse_table(changed(path, value), "t", "t.yaml")
    assert says in str(caught.value) and str(caught.value).startswith("t.yaml")


def test_of_a_section_the_keys_that_it_has_are_set() -> None:
    """The configuration's other keys of the section stay."""
    one = grid.cells(parse_table(changed("set/train", {"optimizer": {"lr": 0.5}}), "t"))[0]
    other = grid.cells(parse_table(changed("set/train.optimizer.lr", 0.5), "t"))[0]
    assert one.key == other.key and one.config.train.optimizer.lr == 0.5 and one.config.train.local_update_steps == 1


def test_two_values_that_set_a_key_otherwise_are_refused() -> None:
    """One of them would not be what it is called; the same value twice is no contradiction."""
    raw = changed("axes/scenario/values/cross/set", {"fedmllm.regularizer.type": "none"})
    with pytest.raises(
        TableError, match=r"t, fedprox, cross: axes\.method\.values\.fedprox sets .*\.type to 'fedprox',"
    ):
        grid.cells(parse_table(raw, "t"))
    raw["axes"]["scenario"]["values"]["cross"]["set"] = {"fedmllm.regularizer.type": "fedprox"}
    assert len({cell.key for cell in grid.cells(parse_table(raw, "t"))}) == 2
    raw["axes"]["scenario"]["values"]["cross"]["set"] = {"fedmllm.regularizer": {"type": "none"}}
    with pytest.raises(TableError, match="Let one of them set it"):
        grid.cells(parse_table(raw, "t"))


def test_a_folder_has_a_name_that_file_systems_take() -> None:
    raw = changed("axes/scenario/values", {"a" * 400: {"config": "cross_i3t7.yaml"}})
    first, *_ = grid.cells(parse_table(raw | {"paper": {}}, "t"))
    assert len(first.folder) < 200 and first.folder.endswith(first.key[:12])


def test_a_cell_that_does_not_resolve_is_named() -> None:
    table = parse_table(changed("axes/method/values/fedprox/set", {"federate.metod": "x"}), "t")
    with pytest.raises(FedMLLMError, match=r"t, fedprox, cross: .*unknown key 'federate\.metod'"):
        grid.cells(table)


def test_cells_in_order_and_keyed_by_content(tmp_path) -> None:
    table = load_table(short_table.write(tmp_path))
    cells = grid.cells(table)
    assert [cell.title for cell in cells] == [
        "fedavg, cross, seed 0", "fedprox, cross, seed 0", "fedavg, cross, seed 1", "fedprox, cross, seed 1",
    ]  # fmt: skip
    assert len({cell.key for cell in cells}) == 4
    assert [cell.key for cell in grid.cells(table)] == [cell.key for cell in cells]
    one = cells[0].config
    elsewhere = dataclasses.replace(one, outdir="there", expname="so")
    several = dataclasses.replace(one, fedmllm=dataclasses.replace(one.fedmllm, workers=3, checkpoint_every=7))
    assert config.config_digest(elsewhere) == config.config_digest(several) == cells[0].key
    assert config.config_digest(dataclasses.replace(one, seed=5)) != cells[0].key


def test_overrides_reach_every_cell(tmp_path) -> None:
    table = load_table(short_table.write(tmp_path))
    assert {cell.config.train.optimizer.lr for cell in grid.cells(table, ["train.optimizer.lr", "0.5"])} == {0.5}


def test_overrides_that_are_not_the_sweeps_to_take_and_those_that_replace_rows(tmp_path, capsys) -> None:
    path = short_table.write(tmp_path)
    table = load_table(path)
    with pytest.raises(TableError, match=r"The override seed .* given by the key seeds of the table; --only seed=N"):
        grid.cells(table, ["seed=5"])
    assert cli.main(["sweep", str(path), "--dry-run", "fedmllm.regularizer.type=adaptive"]) == 0
    assert "The override fedmllm.regularizer.type replaces what the table sets for method=fedprox;" in (
        capsys.readouterr().err
    )
    assert cli.main(["sweep", str(path), "--dry-run", "train.optimizer.lr=0.5"]) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["foo=bar"], "--only foo=bar: write AXIS=VALUE, where the axis is one of method, scenario, seed."),
        (["method"], "--only method: write AXIS=VALUE"),
        (["method=fedavgm"], "no cell has method 'fedavgm'; did you mean 'fedavg'? There are fedavg, fedprox."),
        (
            ["method=fedavg", "method=fedprox"],
            "no cell has all of that. Several values of an axis stand in one",
        ),
    ],
)
def test_cells_that_are_not_there_are_named_with_those_that_are(words, says, tmp_path, capsys) -> None:
    only = [part for word in words for part in ("--only", word)]
    assert cli.main(["sweep", str(short_table.write(tmp_path)), "--dry-run", *only]) == 2
    assert says in capsys.readouterr().err


def test_a_value_whose_name_holds_a_comma_or_an_axis_with_a_sign_can_be_chosen(tmp_path, capsys) -> None:
    text = short_table.TABLE.replace("fedprox:", '"a,b":').replace("  scenario:", '  "x=y":').replace(
        "[scenario]", '["x=y"]')  # fmt: skip
    words = [
        "sweep",
        str(short_table.write(tmp_path, text)),
        "--dry-run",
        "--only",
        "method=a,b",
        "--only",
        "x=y=cross",
    ]
    assert cli.main(words) == 0
    assert "\n2 cells" in capsys.readouterr().out


def test_the_example_of_the_document_resolves() -> None:
    text = (REPOSITORY / "docs" / "sweeps.md").read_text().split("```yaml\n")[1].split("```")[0]
    table = parse_table(yaml.safe_load(text), "example")
    assert len(grid.cells(table)) == 3 * 5  # Local once, FedAvg and Centralised with both prompts
