"""A file of figures from elsewhere: cells that stand in it are finished, and what is wrong in it is named."""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import short_table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "report"))
import made_up_sweep

from fs_fedmllm import cli
from fs_fedmllm.quoting import plain_cell, spreadsheet_cell
from fs_fedmllm.tools.sweeps import figures_file, figures_line, grid
from fs_fedmllm.tools.sweeps.files import FIGURES
from fs_fedmllm.tools.sweeps.table_file import load_table, parse_table

HEAD = ["method", "scenario", "seed", "metric", "value", "at", "scale", "paper_mean", "paper_std",
        *figures_line.MADE_BY]  # fmt: skip
Change = Callable[[str], str]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return short_table.write(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def whole(table) -> str:
    """The figures of all four cells and of the zero-shot row, as a report writes them."""
    made_up_sweep.make(table, table.parent / "elsewhere")
    assert cli.main(["report", str(table.parent / "elsewhere"), "--no-curves"]) == 0
    return (table.parent / "elsewhere" / "report" / "report.csv").read_text()


def states(capsys) -> list[str]:
    return [line.split("  ")[0].strip() for line in capsys.readouterr().out.splitlines()[:-1]]


def test_cells_of_the_file_are_not_run_and_the_folder_remembers_them(table, whole, tmp_path, capsys) -> None:
    """All but the last cell stand in the file; it is run, and its figures are added to what the report writes."""
    (tmp_path / "some.csv").write_text(
        "".join(line for line in whole.splitlines(keepends=True) if "fedprox,cross,1" not in line)
    )
    words = ["sweep", str(table), "--out", str(tmp_path / "here")]
    assert cli.main([*words, "--figures", str(tmp_path / "some.csv"), "--dry-run"]) == 0
    assert states(capsys) == ["elsewhere"] * 3 + ["to run"]
    assert not (tmp_path / "here").exists()
    assert cli.main([*words, "--figures", str(tmp_path / "some.csv"), "--workers", "1"]) == 0
    assert f"4 of 4 cells finished in {tmp_path / 'here'}, 3 of them elsewhere; " in capsys.readouterr().out
    (tmp_path / "some.csv").unlink()
    assert cli.main([*words, "--dry-run"]) == 0
    assert states(capsys) == ["elsewhere"] * 3 + ["finished"]
    assert [path.name.split("-")[0] for path in (tmp_path / "here" / "cells").iterdir()] == ["fedprox"]
    assert cli.main(["report", str(tmp_path / "here")]) == 0
    lines = (tmp_path / "here" / "report" / "report.csv").read_text().splitlines()
    last = [line for line in whole.splitlines() if "fedprox,cross,1" in line]
    assert [line for line in lines if "fedprox,cross,1" not in line] == [
        line for line in whole.splitlines() if line not in last
    ]
    assert len(lines) == len(whole.splitlines()) and not set(last) & set(lines)
    # What was written goes on in the same way at the next place.
    written = str(tmp_path / "here" / "report" / "report.csv")
    assert cli.main([*words[:2], "--out", str(tmp_path / "third"), "--figures", written]) == 0
    assert "4 of 4 cells finished" in capsys.readouterr().out


def test_a_cell_without_all_metrics_of_the_table_is_run(table, whole, tmp_path, capsys) -> None:
    lines = whole.splitlines(keepends=True)
    less = [line for line in lines if not line.startswith("fedavg,cross,0,test_macro_f1")]
    (tmp_path / "less.csv").write_text("".join(less))
    assert cli.main(["sweep", str(table), "--figures", str(tmp_path / "less.csv"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("to run ") and "fedavg, cross, seed 0 (its figures lack test_macro_f1)\n" in out
    assert out.count("elsewhere  ") == 3
    # With the rest in a second file it is complete.
    rest = [line for line in lines if line.startswith(("method", "fedavg,cross,0"))]
    (tmp_path / "rest.csv").write_text("".join(rest))
    words = ["--figures", str(tmp_path / "less.csv"), "--figures", str(tmp_path / "rest.csv"), "--dry-run"]
    assert cli.main(["sweep", str(table), *words]) == 0
    assert states(capsys) == ["elsewhere"] * 4


def test_figures_of_a_folder_that_was_renamed_are_taken(table, whole, tmp_path, capsys) -> None:
    (tmp_path / "f.csv").write_text(whole.replace(",fedavg-cross-s0-", ",my copy (2)-"))
    assert cli.main(["sweep", str(table), "--figures", str(tmp_path / "f.csv"), "--dry-run"]) == 0
    assert states(capsys) == ["elsewhere"] * 4


def test_an_empty_value_is_no_figure(table, whole, tmp_path, capsys) -> None:
    rows = list(csv.DictReader(whole.splitlines()))
    value = next(r["value"] for r in rows if r["method"] == "fedavg" and r["metric"] == "test_acc")
    (tmp_path / "f.csv").write_text(whole.replace(f",{value},", ",,", 1))
    assert cli.main(["sweep", str(table), "--figures", str(tmp_path / "f.csv"), "--dry-run"]) == 0
    assert states(capsys) == ["to run", "elsewhere", "elsewhere", "elsewhere"]


def _line(text: str, start: str) -> str:
    return next(line for line in text.splitlines(keepends=True) if line.startswith(start))


def _value(text: str, value: str) -> str:
    cells = (first := _line(text, "fedavg,cross,0,test_acc")).split(",")
    return text.replace(first, ",".join([*cells[:4], value, *cells[5:]]))


def _other_methods(text: str) -> str:
    """The column of the methods sorted by itself, as a spreadsheet does where a part is marked."""
    return text.replace("fedavg,", "other,").replace("fedprox,", "fedavg,").replace("other,", "fedprox,")


WRONG: dict[str, tuple[Change, str]] = {
    "empty": (lambda t: "", "line 1: the column 'method' is missing"),
    "no_head": (lambda t: t.partition("\n")[2], "line 1: the column 'method' is missing"),
    "semicolons": (lambda t: t.replace(",", ";"), "line 1: the column 'method' is missing. A report.csv of this"),
    "column": (lambda t: t.replace("metric,", "metrics,", 1), "line 1: the column 'metric' is missing"),
    "twice": (lambda t: t.replace("paper_std", "value", 1), "line 1: the column 'value' stands twice"),
    "further": (lambda t: t.replace("\n", ",x\n"), "line 1: unknown column 'x'. Remove it"),
    "cut_line": (lambda t: t[: t.rstrip().rfind(",", 0, -60)], "line 13: 15 of 17 columns. The file was cut off"),
    "cut_name": (lambda t: t[:-4], "line 13, column folder: 'fedprox-cross-s1-"),
    "open_quote": (lambda t: t + '"fedavg', "line 14: unexpected end of data"),
    "not_utf8": (lambda t: t.replace("tiny", "t\udcff", 1), "line 2: it is not UTF-8"),
    "words": (lambda t: _value(t, "good"), "line 6, column value: 'good' is not a finite number"),
    "comma": (lambda t: _value(t, '"81,25"'), "column value: '81,25' is not a finite number, as 81.25 is"),
    "nan": (lambda t: _value(t, "NaN"), "column value: 'NaN' is not a finite number"),
    "infinite": (lambda t: _value(t, "1e999"), "column value: '1e999' is not a finite number"),
    "grouped": (lambda t: _value(t, "8_1"), "column value: '8_1' is not a finite number"),
    "metric": (lambda t: t.replace("test_macro_f1", "test_macro_fl", 1),
               "line 4, column metric: 'test_macro_fl' is none of this table's (test_acc, test_macro_f1)"),
    "method": (lambda t: t.replace("fedavg,", "fedavgm,", 1),
               "line 6, column method: 'fedavgm' is no value of this table's; did you mean 'fedavg'? Name the file"),
    "seed": (lambda t: t.replace("fedavg,cross,0,", "fedavg,cross,1,", 1), "column seed: '1', where the config"),
    "folder": (lambda t: t.replace("-cross-s0-", "/../s0-", 1), "column folder: "),
    "sorted": (lambda t: _other_methods(t), "column config: "),
    "zero_shot": (lambda t: t.replace("zero,cross,0,test_acc", "fedavg,cross,0,test_acc"),
                  "line 2, column at: 'zero_shot', where the table reads 'last'"),
    "best": (lambda t: t.replace(",last,", ",best,"), "column at: 'best', where the table reads 'last'"),
    "scale": (lambda t: t.replace(",100.0,", ",per cent,", 1), "line 2, column scale: 'per cent' is not a finite"),
    "share": (lambda t: t.replace(",100.0,", ",1.0,", 1), "line 2, column value: '33.0' at a scale of 1 is 33, and"),
    "negative": (lambda t: _value(t, "-5"), "column value: '-5' at a scale of 100 is -0.05, and test_acc is between"),
    "diverged": (lambda t: t.replace("cd" * 32, "none (diverged after 3 rounds)"), "of a run that diverged before it"),
    "other_run": (lambda t: t + _line(t, "fedavg,cross,0,test_acc").replace("0123456789" * 4, "9876543210" * 4),
                  "line 14, column commit: '9876543210"),
    "other_figure": (lambda t: t + _value(_line(t, "fedavg,cross,0,test_acc"), "12.5"),
                     ": two values of test_acc of the same cell (fedavg, cross, seed 0). Keep one."),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_place(name, table, whole, tmp_path, capsys) -> None:
    change, says = WRONG[name]
    path = tmp_path / "wrong.csv"
    path.write_bytes(change(whole).encode("utf-8", "surrogateescape"))
    assert cli.main(["sweep", str(table), "--figures", str(path), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"fs-fedmllm: {path}, line ") and says in said and said.count("\n") == 1


def test_figures_of_other_settings_are_refused(table, whole, tmp_path, capsys) -> None:
    (tmp_path / "f.csv").write_text(whole)
    words = ["sweep", str(table), "--figures", str(tmp_path / "f.csv"), "--dry-run"]
    assert cli.main([*words, "train.optimizer.lr=0.5"]) == 2
    assert "f.csv, line 2, column config: " in (said := capsys.readouterr().err)
    assert "is no configuration of this table with these overrides. Give the overrides" in said
    assert cli.main([*words[:3], str(tmp_path / "none.csv"), "--dry-run"]) == 2
    assert "none.csv cannot be read: No such file" in capsys.readouterr().err
    assert cli.main([*words[:3], str(tmp_path), "--dry-run"]) == 2
    assert "it is a folder, not a file. Name a report.csv" in capsys.readouterr().err


def test_two_files_with_other_figures_of_a_cell_are_refused(table, whole, tmp_path, capsys) -> None:
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    one.write_text(whole)
    other.write_text(_value(whole, "12.5"))
    assert cli.main(["sweep", str(table), "--figures", str(one), "--figures", str(other), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert f"{other}, line 6, column value: '12.5', but " in said and f" in {one}, line 6: two values of " in said
    # A second run with the same figures is passed over, the first stands.
    other.write_text(whole.replace("cd" * 32, "ef" * 32))
    assert cli.main(["sweep", str(table), "--figures", str(one), "--figures", str(other), "--dry-run"]) == 0
    assert states(capsys) == ["elsewhere"] * 4
    # One that diverged has no figures, and is another run all the same.
    other.write_text(_value(whole, "").replace("cd" * 32, "none (diverged after 5 rounds)"))
    assert cli.main(["sweep", str(table), "--figures", str(one), "--figures", str(other), "--dry-run"]) == 2
    assert "column adapter: 'none (diverged after 5 rounds)', but 'cdcd" in capsys.readouterr().err
    other.write_text(_value(whole, "12.5"))
    # The same with the one that the folder keeps.
    out = tmp_path / "out"
    assert cli.main(["sweep", str(table), "--figures", str(one), "--out", str(out)]) == 0
    assert cli.main(["sweep", str(table), "--figures", str(other), "--out", str(out)]) == 2
    assert str(out / FIGURES) in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "\ufeff" + t,
        lambda t: t.replace("\n", "\r\n"),
        lambda t: "\ufeff" + t.replace("\n", "\r\n") + "\r\n",
        lambda t: t.rstrip(),
        lambda t: t + "".join(t.splitlines(keepends=True)[1:]),
        lambda t: "\n".join(f'"{line.replace(",", chr(34) + "," + chr(34))}"' for line in t.splitlines()),
    ],
    ids=["bom", "crlf", "bom_crlf_blank", "no_last_newline", "lines_twice", "quoted"],
)
def test_what_other_programs_make_of_it_is_read(change, table, whole, tmp_path, capsys) -> None:
    (tmp_path / "f.csv").write_bytes(change(whole).encode())
    assert cli.main(["sweep", str(table), "--figures", str(tmp_path / "f.csv"), "--dry-run"]) == 0
    assert states(capsys) == ["elsewhere"] * 4


def test_what_the_folder_keeps_may_be_of_cells_that_the_table_had_once(table, whole, tmp_path, capsys) -> None:
    (tmp_path / "f.csv").write_text(whole)
    words = ["--out", str(tmp_path / "out"), "--dry-run"]
    assert cli.main(["sweep", str(table), *words[:2], "--figures", str(tmp_path / "f.csv")]) == 0
    (tmp_path / "other").mkdir()
    text = short_table.TABLE.replace("      fedprox: ", "      another: ").replace("seeds: [0, 1]", "seeds: [1, 2]")
    capsys.readouterr()
    assert cli.main(["sweep", str(short_table.write(tmp_path / "other", text)), *words]) == 0
    assert states(capsys) == ["elsewhere", "to run", "to run", "to run"]


def test_what_the_folder_keeps_is_kept_while_the_table_has_other_cells(table, whole, tmp_path, capsys) -> None:
    (tmp_path / "f.csv").write_text(whole)
    words = ["--out", str(tmp_path / "out")]
    assert cli.main(["sweep", str(table), *words, "--figures", str(tmp_path / "f.csv")]) == 0
    (tmp_path / "less").mkdir()
    less = short_table.write(tmp_path / "less", short_table.TABLE.replace("seeds: [0, 1]", "seeds: [0]"))
    (tmp_path / "f.csv").write_text("".join(line for line in whole.splitlines(True) if ",1,test" not in line))
    assert cli.main(["sweep", str(less), *words, "--figures", str(tmp_path / "f.csv")]) == 0
    capsys.readouterr()
    assert cli.main(["sweep", str(table), *words, "--dry-run"]) == 0
    assert states(capsys) == ["elsewhere"] * 4
    # A table with other axes has other columns: the file is named, and how to go on.
    text = short_table.TABLE.replace("  scenario:", "  shifts:").replace("[scenario]", "[shifts]")
    assert cli.main(["sweep", str(short_table.write(tmp_path / "less", text)), *words, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'out' / FIGURES}, line 1: the column 'shifts' is missing" in said and "with --out, or" in said


def test_a_file_says_its_own_scale_and_older_files_take_the_tables(table, whole, tmp_path, capsys) -> None:
    """A table whose scale was changed reads the figures that were, and no hundredth of them."""
    other = short_table.write(tmp_path, short_table.TABLE.replace("title: accuracy", "title: accuracy, scale: 1"))
    (tmp_path / "f.csv").write_text(whole)
    words = ["--figures", str(tmp_path / "f.csv"), "--out", str(tmp_path / "out")]
    assert cli.main(["sweep", str(other), *words]) == 0
    assert cli.main(["report", str(tmp_path / "out"), "--no-curves"]) == 0
    lines = (tmp_path / "out" / "report" / "report.csv").read_text().splitlines()
    read = {float(row["value"]) for row in csv.DictReader(lines) if row["metric"] == "test_acc"}
    assert read == {float(r["value"]) / 100 for r in csv.DictReader(whole.splitlines()) if r["metric"] == "test_acc"}
    old = [",".join([*cells[:5], *cells[7:]]) for cells in (line.split(",") for line in whole.splitlines())]
    (tmp_path / "f.csv").write_text("\n".join(old))
    capsys.readouterr()
    assert cli.main(["sweep", str(table), *words[:2], "--dry-run"]) == 0
    assert states(capsys) == ["elsewhere"] * 4
    assert cli.main(["sweep", str(other), *words[:2], "--dry-run"]) == 2
    assert "at a scale of 1 is 33, and test_acc is between 0 and 1" in capsys.readouterr().err


def test_figures_come_back_to_the_last_digit() -> None:
    draw = random.Random(0)
    for scale in (100.0, 1.0, 3.0, 1e-3, 1e9, -100.0, 0.0):
        for _ in range(2000):
            written = draw.random() * scale
            assert not scale or figures_line.unscaled(written, scale) * scale == written
    assert all(plain_cell(str(spreadsheet_cell(text))) == text for text in ("=1", "-x", "'a", "", "'", "a", "\t=1"))


def test_an_axis_may_be_called_as_a_column_is(tmp_path) -> None:
    raw = {"axes": {"model": {"values": {"a": {"config": "cross_i3t7.yaml"}, "=b": {"config": "aligned_a05.yaml"}}}},
           "metrics": ["test_acc"]}  # fmt: skip
    table = parse_table(raw, "t")
    cells = grid.cells(table)
    rows = [
        {"axis model": cell.coordinates["model"], "seed": cell.seed, "metric": "test_acc", "value": 50.0,
         **dict.fromkeys(figures_line.MADE_BY, ""), "model": "tiny", "config": cell.key, "folder": cell.folder}
        for cell in cells
    ]  # fmt: skip
    (tmp_path / "f.csv").write_text(figures_file.figures_csv(table, rows))
    known = figures_file.known_runs((c.key, c.seed, c.coordinates) for c in cells)
    read = figures_file.gathered([tmp_path / "f.csv"], tmp_path / "none", table, known)
    assert [run.figure("test_acc", "last") for run in read.runs.values()] == [0.5, 0.5]
    assert [run.lines[0].cells["axis model"] for run in read.runs.values()] == ["a", "=b"]
    assert figures_file.kept_csv(table, read) == (tmp_path / "f.csv").read_text()


def test_the_made_up_file_is_as_these_tests_take_it(whole, table) -> None:
    assert whole.splitlines()[0].split(",") == HEAD and len(whole.splitlines()) == 13
    assert len(grid.cells(load_table(table))) == 4
