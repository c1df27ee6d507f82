"""The spread over the scenarios' levels is that of the tables' own cells, the paper's and ours."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import made_up_sweep
import pytest
from short_runs import REPOSITORY

pytest.importorskip("matplotlib", reason="plots need the extra 'plot'")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sweeps"))
import short_table

from fs_fedmllm import cli
from fs_fedmllm.data.images import check_image
from fs_fedmllm.tools.report.spread import OURS, PAPER, levels, panels, points_of, read_sheets
from fs_fedmllm.tools.sweeps.table_file import load_table

TABLES = [REPOSITORY / "tables" / f"table{number}.yaml" for number in (2, 3, 4, 5)]


def test_the_papers_cells_of_tables_2_to_5_are_twelve_levels_of_two_data_sets() -> None:
    points = [point for sheet in read_sheets(TABLES) for point in points_of(sheet)]
    assert len(points) == sum(len(load_table(path).paper) for path in TABLES) == 4 * 6 * 6
    drawn = dict(panels(points))
    assert list(drawn) == ["hateful memes, auc", "crisismmd, macro f1"]
    for own in drawn.values():
        assert levels(own) == [
            *(("aligned", level) for level in ("α 5", "α 1", "α 0.5")),
            *(("missing", level) for level in ("30 %", "40 %", "50 %")),
            *(("cross", level) for level in ("I-3:T-7", "I-5:T-5", "I-7:T-3")),
            *(("hybrid", level) for level in ("p 0.8", "p 0.7", "p 0.6")),
        ]
        assert all(sum(not point.zero_shot for point in own if point.level == level) == 5 for _, level in levels(own))
    (found,) = [p for p in points if (p.dataset, p.level, p.row) == ("crisismmd", "I-3:T-7", "FedAdam")]
    assert (found.mean, found.source, found.table) == (53.17, PAPER, "table4")


def test_levels_may_be_the_rows_of_a_table() -> None:
    assert points_of(read_sheets([REPOSITORY / "tables" / "digits_levels.yaml"])[0]) == []  # no figure, and no error


def test_finished_runs_stand_beside_the_papers_figures(tmp_path, capsys) -> None:
    sweep = made_up_sweep.make(short_table.write(tmp_path), tmp_path / "sweep")
    assert cli.main(["report", "--spread", str(sweep)]) == 0
    out = sweep / "report"
    said = capsys.readouterr().out
    for name in ("spread.png", "spread.svg", "spread.csv"):
        assert str(out / name) in said and (out / name).is_file()
    assert min(check_image(str(out / "spread.png"))) > 400
    with (out / "spread.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    # two methods and zero-shot; the paper's figures for one method and for zero-shot
    assert sorted((row["source"], row["row"]) for row in rows) == [
        (OURS, "Fed <Prox>"), (OURS, "FedAvg"), (OURS, "Zero-shot"), (PAPER, "FedAvg"), (PAPER, "Zero-shot"),
    ]  # fmt: skip
    assert {(row["scenario"], row["level"]) for row in rows} == {("cross", "I-3:T-7")}
    assert {row["seeds"] for row in rows if row["source"] == OURS} == {"2"}


def test_a_table_that_ships_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", "--spread", "tables/table2.yaml", "tables/table3.yaml", "--out", "figure6"]) == 0
    assert "aligned" in (tmp_path / "figure6" / "spread.csv").read_text()


def test_what_holds_no_table_is_refused(tmp_path, capsys) -> None:
    assert cli.main(["report", "--spread", "tables/table0.yaml"]) == 2
    assert "No table 'tables/table0.yaml'" in capsys.readouterr().err
    assert cli.main(["report", "--spread", str(tmp_path)]) == 2
    assert "holds no sweep" in capsys.readouterr().err
    assert cli.main(["report", "--spread", "--baseline", "fedavg", str(TABLES[0])]) == 2
    assert "--baseline means nothing with --spread" in capsys.readouterr().err
    empty = REPOSITORY / "tables" / "figure7.yaml"  # the paper gives no figures there
    assert cli.main(["report", "--spread", str(empty), "--out", str(tmp_path / "out")]) == 2
    assert "None of these tables has a figure" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
