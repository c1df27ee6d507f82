"""A report says what the runs' files say, in one page that needs nothing else."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import made_up_sweep
import numpy as np
import pytest
from short_page import Page

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sweeps"))
import short_table

from fs_fedmllm import cli
from fs_fedmllm.evaluation.predictions import PredictionsError, read_predictions
from fs_fedmllm.evaluation.recorded import RecordError
from fs_fedmllm.tools.report.cells import cell_of
from fs_fedmllm.tools.report.figures import Entry, entries, holm, mean_slices
from fs_fedmllm.tools.report.finished import Run, model_name
from fs_fedmllm.tools.report.grids import Cell, Grid
from fs_fedmllm.tools.report.runs import read_sheet
from fs_fedmllm.tools.report.seeds import claims
from fs_fedmllm.tools.report.templates import environment, rendered
from fs_fedmllm.tools.sweeps.table import Metric

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    return made_up_sweep.make(short_table.write(folder), folder / "sweep")


@pytest.fixture(scope="module")
def report(sweep) -> Path:
    assert cli.main(["report", str(sweep)]) == 0
    return sweep / "report"


def test_the_figures_are_those_of_the_runs(sweep, report) -> None:
    values = [
        json.loads(path.read_text())["evaluations"][-1]["test_acc"] * 100
        for path in sorted((sweep / "cells").glob("fedavg-*/results.json"))
    ]
    mean, std = np.mean(values), np.std(values, ddof=1)
    text = (report / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| FedAvg |"))
    assert f"{mean:.1f} ± {std:.1f}" in row
    # The paper's figure beside ours, and the difference.
    assert "paper 50.50 ± 1.50" in row and f"ours {mean - 50.5:+.1f}".replace("-", "−") in row
    zero = next(line for line in text.splitlines() if line.startswith("| Zero-shot |"))
    assert "33.0 ± 0.0" in zero and "paper 24.20" in zero
    with (report / "report.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    own = [float(r["value"]) for r in rows if r["method"] == "fedavg" and r["metric"] == "test_acc"]
    assert own == pytest.approx(values)
    assert {r["commit"] for r in rows} == {"0123456789" * 4}


def test_the_model_and_both_missing_rates_are_said(report) -> None:
    text, page = (report / "report.md").read_text(), (report / "report.html").read_text()
    assert "Model: tiny." in text and "Model: tiny." in page
    # One setting, two seeds and so two splits: the level is what was asked for, the mean is what came of it.
    row = next(line for line in text.splitlines() if line.startswith("| cross |"))
    assert row == "| cross | 70.0 % | 62.0 % | 30.0 % | 38.0 % |"
    assert "Missing modalities, nominal and measured" in page and "62.0 %" in page
    with (report / "report.csv").open() as stream:
        assert {line["model"] for line in csv.DictReader(stream)} == {"tiny"}


def test_a_folder_of_this_machine_is_named_without_its_place() -> None:
    assert model_name({"model": "/home/someone/models/own"}) == "own"
    assert model_name({"model": "openbmb/MiniCPM-V-4.6"}) == "openbmb/MiniCPM-V-4.6" and model_name({}) == ""


def test_the_paired_test_compares_the_same_rows(sweep) -> None:
    sheet = read_sheet([sweep])
    zero, fedavg, fedprox = entries(sheet, {"scenario": "cross"}, 0)
    assert zero.versus is None and fedavg.versus is None  # nothing to test, and the baseline itself
    assert fedprox.versus is not None and fedprox.spread is not None and fedavg.spread is not None
    assert fedprox.versus.interval.value == pytest.approx(fedprox.spread.mean - fedavg.spread.mean)
    assert fedavg.interval is not None
    assert fedavg.interval.value == pytest.approx(fedavg.spread.mean)
    assert fedprox.p_adjusted == fedprox.versus.p_value  # one comparison


def test_differences_over_seeds_are_those_of_the_runs(sweep, report) -> None:
    from scipy import stats

    def by_seed(method: str) -> dict[int, float]:
        found = (json.loads(p.read_text()) for p in (sweep / "cells").glob(f"{method}-*/results.json"))
        return {r["seed"]: r["evaluations"][-1]["test_acc"] for r in found}

    text = (report / "report.md").read_text()
    section = text.split("over seeds\n", 1)[1].split("\n## ", 1)[0]
    base, table = by_seed("fedavg"), [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert table and not any(line.startswith("| FedAvg |") for line in table)
    sheet = read_sheet([sweep])
    found = claims(sheet)
    assert found
    for claim in found:
        own = by_seed(sheet.rows()[claim.row]["method"])
        both = sorted(own.keys() & base.keys())
        known = stats.ttest_rel([own[s] for s in both], [base[s] for s in both])
        assert claim.difference.p_value == pytest.approx(known.pvalue, nan_ok=True)
        mean = 100 * np.mean([own[s] - base[s] for s in both])
        assert f"{mean:+.1f} ".replace("-", "−") in section
    assert f"of {len(found)}<br>seen from" in section
    assert "seen from" in (report / "report.html").read_text()


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_a_diverged_run_is_a_result(sweep, tmp_path) -> None:
    copy = shutil.copytree(sweep, tmp_path / "copy")
    ended = sorted((copy / "cells").glob("fedprox-*"))
    for folder in ended[:1]:
        (folder / "results.json").unlink()
        (folder / "ended.json").write_text(json.dumps({"seed": 0, "reason": "nan", "version": "0.1.0"}))
        with (folder / "metrics.jsonl").open("a") as stream:
            stream.writelines(json.dumps({"kind": "round", "round": i}) + "\n" for i in range(5))
    (_, _, entry) = entries(read_sheet([copy]), {"scenario": "cross"}, 0)
    assert entry.diverged == (5,) and entry.spread is not None and entry.spread.seeds == 1
    assert cli.main(["report", str(copy), "--no-curves"]) == 0
    assert "without 1 that diverged after 5 rounds" in (copy / "report" / "report.md").read_text()


def test_the_page_is_valid_and_alone(report) -> None:
    text = (report / "report.html").read_text()
    page = Page(text)
    assert page.wrong == []
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith("#") for address in page.addresses)
    assert set(page.addresses) <= {"#" + name for name in page.ids}
    assert "script" not in page.tags and "link" not in page.tags and "@import" not in text
    outside = set(re.findall(r"https?://[^\"' <)]+", text)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not outside
    assert page.tags.count("svg") == 3 + 2  # three curves, a key for each of two rows
    assert "prefers-color-scheme: dark" in text


def test_what_others_wrote_is_escaped(report) -> None:
    text = (report / "report.html").read_text()
    assert "Two methods &lt;b&gt; &amp; two scenarios" in text and "<b> & two" not in text
    assert "Fed &lt;Prox&gt;" in text and "&lt;maybe&gt;" in text
    assert "Fed &lt;Prox&gt;" in (report / "report.md").read_text()


def test_no_text_of_a_page_turns_around_or_moves_a_cursor() -> None:
    page = environment().from_string("{{ label }} {{ picture|safe }}")
    label, picture = "<b>\u202egnp.\x1b[2J é שלום", "<svg>\u202e</svg>"
    assert page.render(label=label, picture=picture) == f"&lt;b&gt;\\u202egnp.\\x1b[2J é שלום {picture}"


#: How a browser is started that calls nobody.
BROWSER = (
    *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
#: A page in a frame of some width (a window is not narrower than 500 pixels), and what does not fit in it: heads whose
#: words leave their cells, and the page itself where it is wider than the frame.
FRAMED = """<body><iframe style="border: 0; height: 900px; width: {width}px" srcdoc="{page}"></iframe><script>
onload = () => {{
  const own = frames[0].document, root = own.documentElement;
  const wide = [...own.querySelectorAll("th")].filter((cell) => cell.scrollWidth > cell.clientWidth + 1);
  const found = wide.map((cell) => cell.textContent);
  document.body.dataset.found = JSON.stringify(root.scrollWidth > {width} ? ["the page", ...found] : found);
  document.body.dataset.heads = own.querySelectorAll("th").length;
}};
</script></body>"""


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_long_names_stay_in_their_cells_on_a_phone_too(width, tmp_path) -> None:
    long = ["Universitätsklinikum Schleswig-Holstein, Campus Kiel", "fedavg_with_a_name_that_is_one_long_word",
            "OneWordThatIsLongerThanAnyPhoneIsWideAndHasNoPlaceToBreakItAt"]  # fmt: skip
    grid = Grid("Accuracy", long, [(name, [Cell("50.0", ("[40.0, 60.0]",))] * 3) for name in long], long[2])
    page = rendered("evaluation.html.j2", title=long[1], about=long[0], warnings=long, grids=[grid], pictures={},
                    notes=long)  # fmt: skip
    (tmp_path / "page.html").write_text(FRAMED.format(width=width, page=html.escape(page)))
    words = [*BROWSER, f"--user-data-dir={tmp_path / 'own'}", "--window-size=1400,1000", "--dump-dom"]
    done = subprocess.run(
        [*words, f"file://{tmp_path / 'page.html'}"], capture_output=True, text=True, timeout=300, check=True
    )
    (found,) = re.findall(r'data-found="(.*?)"', done.stdout)
    assert 'data-heads="7"' in done.stdout and json.loads(html.unescape(found)) == []


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
def test_the_page_in_a_browser(report, tmp_path) -> None:
    from PIL import Image

    shades = []
    for theme in ("light", "dark"):
        scheme = ["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []
        shot = tmp_path / f"{theme}.png"
        subprocess.run(
            [*BROWSER, *scheme, f"--user-data-dir={tmp_path / theme}", "--window-size=1280,900",
             f"--screenshot={shot}", f"file://{report / 'report.html'}"], capture_output=True, timeout=300, check=True,
        )  # fmt: skip
        picture = np.asarray(Image.open(shot).convert("L"), dtype=float)
        assert picture.std() > 10  # something is drawn
        shades.append(float(np.median(picture)))
    assert shades[0] > 200 > 60 > shades[1]


def test_runs_side_by_side(sweep, tmp_path, capsys) -> None:
    folders = [str(path) for path in sorted((sweep / "cells").glob("*"))]
    assert cli.main(["report", *folders, "--out", str(tmp_path), "--no-curves"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert text.count("(2 seeds)") >= 2 and "Δ" in text  # the seeds of a configuration make one row
    # A copy of a run, and a seed's second run, are no further seed.
    copy = shutil.copytree(folders[0], tmp_path / "copied")
    assert cli.main(["report", *folders, str(copy), "--out", str(tmp_path / "more"), "--no-curves"]) == 0
    more = (tmp_path / "more" / "report.md").read_text()
    assert "(3 seeds)" not in more and "| copied |" in more
    assert cli.main(["report", folders[0], folders[0], "--out", str(tmp_path / "one"), "--no-curves"]) == 0
    assert "seeds)" not in (tmp_path / "one" / "report.md").read_text()
    assert cli.main(["report", folders[0], str(tmp_path / "nothing")]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_files_that_are_damaged_are_named(sweep, tmp_path) -> None:
    copy = shutil.copytree(sweep, tmp_path / "copy")
    folder = sorted((copy / "cells").glob("*"))[0]
    (folder / "results.json").write_text("{")
    with pytest.raises(RecordError, match=r"results\.json cannot be read"):
        read_sheet([copy])
    for odd in ({"best": 5}, {"evaluations": "x"}, {"evaluations": [3]}, {"missing_rates": []}):
        whole = json.loads((sorted((sweep / "cells").glob("*"))[0] / "results.json").read_text())
        (folder / "results.json").write_text(json.dumps(whole | odd))
        with pytest.raises(RecordError, match=rf"results\.json: {next(iter(odd))} .*Take the file that the run wrote"):
            read_sheet([copy])
    (folder / "predictions.jsonl").write_text('{"id": "a", "shown": "both", "correct": 1}\n')
    with pytest.raises(PredictionsError, match=r"predictions\.jsonl:1: 'correct'"):
        read_predictions(folder / "predictions.jsonl")


@pytest.mark.parametrize("odd", [{"seed": 1e400}, {"classes": {"yes": None}}, {"clients": {"1": 3}},
                                 {"client_names": [1]}])  # fmt: skip
def test_a_record_that_no_run_wrote_is_refused_in_a_sentence(odd, sweep, tmp_path, capsys) -> None:
    copy = shutil.copytree(sweep, tmp_path / "copy")
    path = sorted((copy / "cells").glob("*/results.json"))[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | odd).replace("Infinity", "1e400"))
    assert cli.main(["report", str(copy), "--no-curves"]) == 2
    said = capsys.readouterr().err
    assert str(path) in said and "Take the file that the run wrote." in said


def test_a_run_in_the_folder_of_another_cell_is_refused_by_report_and_sweep(tmp_path, capsys) -> None:
    """Its figures would stand under another method's name."""
    table = short_table.write(tmp_path)
    made = made_up_sweep.make(table, tmp_path / "sweep")
    own, other = (sorted((made / "cells").glob(f"{name}-*-s0-*"))[0] for name in ("fedavg", "fedprox"))
    kept = (own / "results.json").read_bytes()
    shutil.copy(other / "results.json", own / "results.json")
    for words in (["report", str(made)], ["sweep", str(table), "--out", str(made), "--dry-run"],
                  ["sweep", str(table), "--out", str(made)]):  # fmt: skip
        assert cli.main(words) == 2
        assert f"{own} holds a finished run of another configuration than that of its cell" in capsys.readouterr().err
    (own / "results.json").write_text("{")
    assert cli.main(["sweep", str(table), "--out", str(made), "--dry-run"]) == 2
    assert "results.json cannot be read" in capsys.readouterr().err
    # Renamed, or with an unfinished copy beside it, it is found.
    (own / "results.json").write_bytes(kept)
    assert cli.main(["report", str(made), "--no-curves"]) == 0
    before = (made / "report" / "report.csv").read_text()
    moved = own.rename(own.with_name(f"mine-{own.name}"))
    shutil.copytree(moved, own)
    (own / "results.json").unlink()
    assert cli.main(["report", str(made), "--no-curves"]) == 0
    assert (made / "report" / "report.csv").read_text().replace("mine-", "") == before
    capsys.readouterr()
    assert cli.main(["sweep", str(table), "--out", str(made), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("finished  ") == 4


def test_nothing_is_compared_with_the_model_before_training(sweep, tmp_path, capsys) -> None:
    """Its row borrows runs, whose test rows were answered after the last round."""
    assert cli.main(["report", str(sweep), "--baseline", "zero"]) == 2
    assert "--baseline zero: it has no runs of its own" in capsys.readouterr().err
    sheet = read_sheet([sweep])
    sheet = dataclasses.replace(sheet, table=dataclasses.replace(sheet.table, baseline={"method": "zero"}))
    assert not [entry for entry in entries(sheet, {"scenario": "cross"}, 0) if entry.versus is not None]


def test_figures_and_curves_that_no_run_has_are_said(tmp_path) -> None:
    text = short_table.TABLE.replace("name: test_macro_f1", "name: test_macro_fl").replace("grad_norm", "gradnorm")
    made = made_up_sweep.make(short_table.write(tmp_path, text), tmp_path / "sweep")
    assert cli.main(["report", str(made)]) == 0
    said = (made / "report" / "report.md").read_text().replace("\\", "")
    assert "- No run has a figure 'test_macro_fl'; did you mean 'test_macro_f1'?" in said
    assert "- No run has a curve 'gradnorm'; did you mean 'grad_norm'?" in said and said.count("No run has") == 2


def test_an_index_that_was_edited_is_refused_in_a_sentence(sweep, tmp_path, capsys) -> None:
    copy = shutil.copytree(sweep, tmp_path / "copy")
    index = json.loads((copy / "sweep.json").read_text())
    first = index["cells"][0]
    for cells in ([{**first, "coordinates": {"method": "x", "scenario": "cross"}}], [first, first], None):
        (copy / "sweep.json").write_text(json.dumps({**index, "cells": cells}))
        assert cli.main(["report", str(copy), "--no-curves"]) == 2
        assert "sweep.json cannot be read" in capsys.readouterr().err
    assert cli.main(["report", str(sweep), str(sorted((sweep / "cells").glob("*"))[0])]) == 2
    assert "is a sweep, which is reported alone" in capsys.readouterr().err


def test_the_model_before_training_has_no_figure_of_the_run(tmp_path) -> None:
    """A path into results.json is of the trained model, or of the whole run."""
    said = {"zero_shot": {"test_acc": 0.1}, "evaluations": [{"test_acc": 0.8}], "seconds": {"total": 7.0},
            "views": {"product": {"acc": 0.9}}}  # fmt: skip
    run = Run(tmp_path, 0, said)
    assert run.value("test_acc", "zero_shot") == 0.1
    assert run.value("results.zero_shot.test_acc", "zero_shot") == 0.1
    for name in ("results.views.product.acc", "results.seconds.total"):
        assert run.value(name, "last") is not None
        assert run.value(name, "zero_shot") is None


def test_a_figure_of_a_class_that_is_undefined_is_in_no_mean(tmp_path: Path) -> None:
    runs = [
        Run(tmp_path, 0, {"classes": {"a": {"f1": odd}, "b": {"f1": 0.5}}})
        for odd in (None, float("nan"), 10**400, 0.25)
    ]
    assert mean_slices(runs, "classes", "f1") == {"a": 0.25, "b": 0.5}
    assert [run.value("results.classes.a.f1", "last") for run in runs] == [None, None, None, 0.25]


def test_a_cell_that_diverged_says_how_many_runs_lack_the_figure() -> None:
    cell = cell_of(Entry(None, diverged=(3,), lacking=2), Metric("test_auc", "AUC"))
    assert (cell.figure, cell.lines) == ("diverged", ("after 3 rounds", "and 2 that have no such figure"))


def test_a_figure_that_is_no_finite_number_is_in_no_mean_and_said(tmp_path: Path, recwarn) -> None:
    """An AUC over rows of one class is nan, or null in the files of other tools."""
    out = made_up_sweep.make(short_table.write(tmp_path), tmp_path / "out")
    written = {path: json.loads(path.read_text()) for path in sorted(out.glob("cells/*/results.json"))}

    def cells(undefined: Any, count: int) -> str:
        for number, (path, results) in enumerate(written.items()):
            odd = {"test_acc": undefined} if number < count else {}
            changed = {name: {**results[name], **odd} for name in ("best", "zero_shot")}
            changed["evaluations"] = [{**line, **odd} for line in results["evaluations"]]
            path.write_text(json.dumps({**results, **changed}))
        assert cli.main(["report", str(out), "--out", str(tmp_path / "page")]) == 0
        return (tmp_path / "page" / "report.md").read_text()

    for undefined in (float("nan"), None, float("inf")):
        told = cells(undefined, 1)
        assert "| FedAvg | 65.0<br>without 1 that has no such figure<br>" in told and "nan" not in told
        lines = list(csv.DictReader((tmp_path / "page" / "report.csv").open()))
        first = [
            line for line in lines if (line["method"], line["metric"], line["seed"]) == ("fedavg", "test_acc", "0")
        ]
        assert [line["value"] for line in first] == [""]
    assert "| FedAvg | –<br>paper 50.50" in (told := cells(float("nan"), 4))
    assert "No run has a figure 'test\\_acc', or it is no finite number, as an AUC over rows of one class." in told
    assert not [str(w.message) for w in recwarn if issubclass(w.category, RuntimeWarning)]
