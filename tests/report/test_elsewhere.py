"""A report shows cells whose runs are elsewhere by their figures, and says what it does not have of them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import made_up_sweep
import pytest
from short_page import Page
from short_runs import REPOSITORY

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sweeps"))
import short_table

from fs_fedmllm import cli
from fs_fedmllm.config import read_yaml
from fs_fedmllm.tools.report.content import content_of
from fs_fedmllm.tools.report.figures import entries
from fs_fedmllm.tools.report.page import markdown, rows_csv
from fs_fedmllm.tools.report.runs import Sheet, read_sheet
from fs_fedmllm.tools.report.seeds import claims
from fs_fedmllm.tools.report.spread import OURS, points_of
from fs_fedmllm.tools.sweeps import grid, runner
from fs_fedmllm.tools.sweeps.files import CELLS, FIGURES
from fs_fedmllm.tools.sweeps.table_file import load_table

CROSS = {"scenario": "cross"}
COMMITTED = ("digits_ablations", "digits_match", "digits_memes", "digits_methods", "digits_one_round",
             "digits_one_round_trials", "digits_switches", "digits_switches_pairs", "digits_tuned", "digits_tuning",
             "real_triage")  # fmt: skip


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    """A sweep on another machine: two methods, two seeds."""
    folder = tmp_path_factory.mktemp("there")
    return made_up_sweep.make(short_table.write(folder), folder / "sweep")


def here(there: Path, out: Path, *, gone: str) -> Path:
    """The sweep where the cells whose folders match are gone, and the file of figures has all."""
    shutil.copytree(there, out)
    (out / FIGURES).write_text(rows_csv(read_sheet([there])))
    for folder in (out / CELLS).glob(gone):
        shutil.rmtree(folder)
    return out


def reported(sweep: Path) -> tuple[str, str]:
    assert cli.main(["report", str(sweep)]) == 0
    return tuple((sweep / "report" / name).read_text() for name in ("report.md", "report.html"))


def figures(sheet: Sheet) -> dict[str, list[float]]:
    """Means and deviations of every row and metric, and the comparison by seed."""
    spreads = [entry.spread for index in (0, 1) for entry in entries(sheet, CROSS, index)]
    (claim,) = claims(sheet)
    own = claim.difference
    return {
        "mean": [spread.mean for spread in spreads], "std": [spread.std for spread in spreads],
        "seeds": [spread.seeds for spread in spreads], "claim": [own.mean, own.low, own.high, own.p_value, own.seeds],
    }  # fmt: skip


@pytest.mark.parametrize("gone", ["*", "*-s1-*", "fedavg-*", "fedprox-*-s0-*"])
def test_means_seeds_and_raw_figures_are_those_of_all_runs(gone, there, tmp_path) -> None:
    every, some = read_sheet([there]), read_sheet([here(there, tmp_path / "here", gone=gone)])
    own, known = figures(some), figures(every)
    assert own.keys() == known.keys()
    assert all(own[name] == pytest.approx(known[name], rel=1e-9) for name in known)
    assert rows_csv(some) == rows_csv(every)
    assert some.finished == every.finished == 4


def test_what_needs_rows_is_of_the_runs_that_are_here_and_says_so(there, tmp_path) -> None:
    """Seed 1 of FedProx is elsewhere."""
    sweep = here(there, tmp_path / "here", gone="fedprox-*-s1-*")
    zero, fedavg, fedprox = entries(read_sheet([sweep]), CROSS, 0)
    assert fedavg.interval is not None and fedprox.interval is fedprox.versus is None and zero.spread is not None
    markdown, page = reported(sweep)
    assert "| Fed &lt;Prox&gt; | 1 of 2 |" in markdown.split("## Runs whose files are elsewhere")[1]
    assert "| FedAvg | 0 of 2 |" not in markdown and "4 of 4 runs finished" in markdown
    row = next(line for line in markdown.splitlines() if line.startswith("| Fed &lt;Prox&gt; |"))
    assert "±" in row and "\\[" not in row and "Δ" not in row
    assert "In brackets:" in markdown and "Δ, against" not in markdown
    assert Page(page).wrong == [] and "Runs whose files are elsewhere" in page
    assert "| cross | 70.0 % | 62.0 % |" in markdown  # of the splits that are here
    # No round, no refusal and no second is claimed of a run that only left figures.
    line = re.search(r"<tr><th scope=\"row\">Fed &lt;Prox&gt;[^\n]*?fedprox-cross-s1-[^\n]*</tr>", page)
    assert line is not None and line[0].count("<td></td>") == 3


def test_nothing_is_explained_that_is_not_there(there, tmp_path) -> None:
    markdown, page = reported(here(there, tmp_path / "here", gone="*"))
    assert "In brackets" not in markdown and "Δ" not in markdown and "±" in markdown
    assert "| Zero-shot | 2 of 2 |" in markdown and "F1 by class" not in markdown and "<svg" not in page
    assert Page(page).wrong == []


def test_a_run_that_is_here_counts_and_other_figures_are_said(there, tmp_path, capsys) -> None:
    sweep = here(there, tmp_path / "here", gone="none")
    assert read_sheet([sweep]).differing == []
    own = next((sweep / CELLS).glob("fedprox-*-s1-*")) / "results.json"
    results = json.loads(own.read_text())
    results["evaluations"][-1]["test_acc"] += 1e-4
    own.write_text(json.dumps(results))
    markdown, _ = reported(sweep)
    said = "Here, and with other figures in figures.csv too: fedprox, cross, seed 1. Another machine"
    assert said in capsys.readouterr().err and "fedprox, cross, seed 1. Another machine rounds sums" in markdown
    assert "Runs whose files are elsewhere" not in markdown
    assert f",{results['evaluations'][-1]['test_acc'] * 100}," in (sweep / "report" / "report.csv").read_text()


def test_a_file_in_the_folder_that_is_damaged_is_named(there, tmp_path, capsys) -> None:
    sweep = here(there, tmp_path / "here", gone="*")
    (sweep / FIGURES).write_text((sweep / FIGURES).read_text()[:-5])
    assert cli.main(["report", str(sweep)]) == 2
    assert f"{sweep / FIGURES}, line 13, column folder: " in capsys.readouterr().err


def test_a_run_that_diverged_elsewhere_is_a_result_here(there, tmp_path) -> None:
    made = shutil.copytree(there, tmp_path / "made")
    folder = next((made / CELLS).glob("fedprox-*-s0-*"))
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").unlink()
    ended = {name: results[name] for name in ("version", "commit", "config_sha256", "profile", "seed")}
    (folder / "ended.json").write_text(json.dumps(ended | {"reason": "nan"}))
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.writelines(json.dumps({"kind": "round", "round": i}) + "\n" for i in range(5))
    sheet = read_sheet([here(made, tmp_path / "here", gone="*")])
    text = rows_csv(sheet)
    assert text == rows_csv(read_sheet([made])) and text.count("none (diverged after 5 rounds)") == 2
    (_, _, entry) = entries(sheet, CROSS, 0)
    assert entry.diverged == (5,) and entry.spread is not None and entry.spread.seeds == 1
    words = ["sweep", str(there.parent / "short.yaml"), "--figures", str(tmp_path / "here" / FIGURES), "--dry-run"]
    assert cli.main(words) == 0


def test_a_figure_that_is_not_finite_stands_empty(there, tmp_path) -> None:
    """So a file that a report writes can be read."""
    made = shutil.copytree(there, tmp_path / "made")
    own = next((made / CELLS).glob("fedprox-*-s1-*")) / "results.json"
    results = json.loads(own.read_text())
    results["evaluations"][-1]["test_acc"] = float("nan")
    own.write_text(json.dumps(results))
    assert "fedprox,cross,1,test_acc,,last,100.0,,," in rows_csv(read_sheet([made]))
    assert read_sheet([here(made, tmp_path / "here", gone="fedprox-*")]).finished == 3  # that cell is to be run


def cells(text: str) -> dict[tuple[str, str], list[str]]:
    """(table, row) -> its figures, without what needs test rows; of the comparison by seed, all."""
    found, title = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            title = line
        elif line.startswith("| ") and "elsewhere" not in title:
            name, *own = (part.strip() for part in line[1:-1].split("|"))
            found[title, name] = own if title.endswith("over seeds") else [part.split("<br>")[0] for part in own]
    return found


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_file_is_taken_up_whole_and_written_again_to_the_byte(name, tmp_path) -> None:
    """Its keys are those of the table's cells, so a sweep goes on from it, and it only grows."""
    path, figures = REPOSITORY / "tables" / f"{name}.yaml", REPOSITORY / "benchmarks" / "findings" / f"{name}.csv"
    table = load_table(path)
    runner.write_index(tmp_path, read_yaml(path), name, grid.cells(table, beside=path.parent), tiny=False)
    shutil.copy(figures, tmp_path / FIGURES)
    sheet = read_sheet([tmp_path])
    assert rows_csv(sheet) == figures.read_text()
    # The tables that were made beside it, where the runs were, have the same figures.
    told = cells(markdown(content_of(sheet, pictures=False), slices=False))
    known = cells(figures.with_suffix(".md").read_text())
    assert (shared := told.keys() & known.keys()) and {key: told[key] for key in shared} == {
        key: known[key] for key in shared
    }
    assert any(point.source == OURS for point in points_of(sheet))
