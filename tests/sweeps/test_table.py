"""Table files: strict, and cells known by their content."""

from __future__ import annotations

import dataclasses

import pytest
import short_table
import yaml
from short_runs import REPOSITORY

from fs_fedmllm import config
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
        ("metrics", [{"name": "x", "scale": "big"}], "need a number as scale"),
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


def test_the_example_of_the_document_resolves() -> None:
    text = (REPOSITORY / "docs" / "sweeps.md").read_text().split("```yaml\n")[1].split("```")[0]
    table = parse_table(yaml.safe_load(text), "example")
    assert len(grid.cells(table)) == 3 * 5  # Local once, FedAvg and Centralised with both prompts
