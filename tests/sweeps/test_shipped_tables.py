"""Every table file that ships resolves, as it is and with --tiny, and holds the paper's figures."""

from __future__ import annotations

import pytest
from short_runs import REPOSITORY

from fs_fedmllm import config
from fs_fedmllm.commands.sweep import find_table
from fs_fedmllm.config.test_sets import SetOptions, set_options
from fs_fedmllm.data.registry import EMBEDDED
from fs_fedmllm.tools.sweeps import grid
from fs_fedmllm.tools.sweeps.table import Metric, Reported
from fs_fedmllm.tools.sweeps.table_file import load_table

TABLES = sorted((REPOSITORY / "tables").glob("*.yaml"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_resolves(path) -> None:
    table = load_table(path)
    cells = grid.cells(table)
    assert len(cells) == len({cell.key for cell in cells})  # no two rows are the same run
    assert {cell.seed for cell in cells} == set(table.seeds)
    wanted = {value.name for axis in table.axes for value in axis.values if value.at != "zero_shot"}
    assert {value for cell in cells for value in cell.coordinates.values()} == wanted
    assert not any(cell.config.model.fedmllm.trust_remote_code for cell in cells)  # the user's own choice
    tiny = grid.cells(table, tiny=True)
    assert {cell.config.data.type for cell in tiny} <= set(EMBEDDED)
    assert all(cell.config.model.fedmllm.path == "tiny" and not cell.config.use_gpu for cell in tiny)
    if path.stem.startswith(("table", "figure")):
        assert all(cell.config.model.fedmllm.path != "tiny" for cell in cells)
        assert all(cell.config.federate.total_round_num in (25, 40, 50) for cell in cells
                   if cell.config.federate.method != "local")  # fmt: skip


def test_all_are_there() -> None:
    names = {path.stem for path in TABLES}
    assert {f"table{i}" for i in range(2, 13)} | {"figure7", "figures13_14", "digits_findings"} <= names
    assert find_table("tables/table4.yaml").name == find_table("table4").name == "table4.yaml"


def test_the_papers_figures_stand_in_their_places() -> None:
    def said(name: str, **place: str) -> Reported | None:
        table = load_table(find_table(name))
        return table.reported(place, table.metrics_at(place)[0])

    assert said("table2", method="fedyogi", setting="hateful_memes_aligned_a50") == Reported(75.74, 0.88)
    assert said("table3", method="local", setting="crisismmd_missing_b50") == Reported(31.78, 0.22)
    assert said("table4", method="fedadam", setting="crisismmd_cross_i3t7") == Reported(53.17, 0.96)
    assert said("table5", method="fedadagrad", setting="hateful_memes_hybrid_p60") == Reported(69.26, 0.47)
    assert said("table7", method="fedadam", clients="c10of30") == Reported(66.91, 0.62)
    assert said("table7_minicpm_v_2_6_int4", method="fedadam", clients="c10of30") == Reported(66.91, 0.62)
    assert said("table7_minicpm_llama3_v_2_5_int4", method="local", clients="c5of20") == Reported(63.21, 0.05)
    assert said("table7_minicpm_llama3_v_2_5_int4", method="zero_shot", clients="c2of10") == Reported(69.29)
    assert said("table9", method="fedavgm", strategies="both", setting="crisismmd_cross_i3t7") == Reported(33.13)
    assert said("table10", strategies="prompt_fedprox", setting="crisismmd_hybrid_p60") == Reported(55.68)
    assert said("table11", epochs="e5", setting="hateful_memes_missing_b30") == Reported(66.83)
    table = load_table(find_table("table6"))
    place, slake = {"method": "fedyogi", "level": "hybrid_p60"}, "test_sets.slake.judge"
    assert table.reported(place, Metric("judge.scores.accuracy", "")) == Reported(63.08, 0.11)
    assert table.reported(place, Metric(f"{slake}.by_kind.open.accuracy", "")) == Reported(52.43, 0.75)
    assert table.reported(place, Metric(f"{slake}.scores.accuracy", "")) == Reported(57.05, 0.59)
    place["method"] = "zero_shot"
    assert table.reported(place, Metric("judge.scores.accuracy", "")) == Reported(56.98)
    assert table.reported(place, Metric(f"{slake}.by_kind.closed.accuracy", "")) == Reported(64.11)


def test_table_6_trains_once_for_both_test_sets() -> None:
    cells = grid.cells(load_table(find_table("table6")))
    assert len(cells) == 2 * 6 * 3  # methods, levels, seeds
    assert {repr(set_options(cell.config)) for cell in cells} == {
        repr({"slake": SetOptions("slake", "slake", "", {})})
    }
    tiny = grid.cells(load_table(find_table("table6")), tiny=True)
    assert {repr(set_options(cell.config)) for cell in tiny} == {
        repr({"slake": SetOptions("digits_panel", "", "", {})})
    }


def test_a_table_of_table_7_says_which_model_ran_and_leaves_its_code_off() -> None:
    for name, path in (
        ("table7", "openbmb/MiniCPM-V-4.6"),
        ("table7_minicpm_v_2_6_int4", "openbmb/MiniCPM-V-2_6-int4"),
        ("table7_minicpm_llama3_v_2_5_int4", "openbmb/MiniCPM-Llama3-V-2_5-int4"),
    ):
        table = load_table(find_table(name))
        assert path in table.about and path.split("/")[1] in table.title
        models = [cell.config.model.fedmllm for cell in grid.cells(table)]
        assert {model.path for model in models} == {path}
        assert not any(model.trust_remote_code for model in models)
        trusted = grid.cells(table, ["model.fedmllm.trust_remote_code", "True"])
        assert all(cell.config.model.fedmllm.trust_remote_code for cell in trusted)


def test_the_findings_ask_the_question() -> None:
    table = load_table(find_table("digits_findings"))
    cells = grid.cells(table)
    assert len(cells) == 12 * 4 * 3
    by = {(cell.coordinates["method"], cell.coordinates["scenario"]): cell.config for cell in cells if cell.seed == 0}
    assert {own.scenario for own in by.values()} == {"aligned", "missing", "cross", "hybrid"}
    assert by["fedavg", "cross"].switches["fedavg"] == "mean"
    assert by["fedavg_upstream", "cross"].switches["fedavg"] == "accumulate"
    assert isinstance(by["local", "hybrid"], config.Config)
