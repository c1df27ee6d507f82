"""Several test sets in one run: each with its own prompts, metrics, predictions and verdicts; none picks a round."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from json_page import wrong
from judge_server import JudgeServer
from short_runs import CONFIGS, SHORT

from fs_fedmllm import cli
from fs_fedmllm import config as schema
from fs_fedmllm.commands.run import results_json
from fs_fedmllm.config.test_sets import set_options
from fs_fedmllm.errors import ConfigError, DataError, UpdateError
from fs_fedmllm.evaluation.predictions import read_predictions
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.console import closing_table
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.session import Session
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data
from fs_fedmllm.tools.planner.work import count_work
from fs_fedmllm.tools.report.finished import Run
from fs_fedmllm.tools.report.page import write_report
from fs_fedmllm.tools.report.runs import read_sheet

#: The run's own rows are of options, one set asks questions and the other is judged by the AUC.
SETS = "{panel: {type: digits_panel}, match-2: {type: digits_match}}"
MORE = ["fedmllm.eval.zero_shot", "True", "fedmllm.eval.slices", "ends", "fedmllm.test_sets", SETS]


def config_of(folder: Path, *words: str) -> schema.Config:
    return schema.load(CONFIGS / "cross_i3t7.yaml", [*SHORT, "outdir", str(folder), *words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    results, folder = run(config_of(tmp_path_factory.mktemp("sets"), *MORE))
    return results, folder.path


def test_each_set_has_its_own_part_of_the_results(finished) -> None:
    results, folder = finished
    assert wrong(json.loads(results_json(results, folder)), "run") == []
    assert json.loads((folder / "results.json").read_text())["test_sets"] == results["test_sets"]
    assert results["test_sets"]["panel"]["decoding"]["do_sample"] is False  # its answers are written
    assert "decoding" not in results["test_sets"]["match-2"] and "decoding" not in results
    panel, match = (results["test_sets"][name] for name in ("panel", "match-2"))
    assert [entry["round"] for entry in panel["evaluations"]] == [e["round"] for e in results["evaluations"]] == [0, 2]
    assert panel["zero_shot"]["round"] == 0 and panel["best"]["round"] == results["best"]["round"]
    assert {"test_acc", "test_open_acc", "test_closed_acc"} <= panel["evaluations"][-1].keys()
    assert {"test_auc", "test_macro_f1", "test_image_acc", "test_text_acc"} <= match["evaluations"][-1].keys()
    assert match["options"] == ["no", "yes"] and match["positive"] == 1 and panel["options"] == []
    assert {"test_auc", "test_image_auc"} <= match["intervals"].keys() and "test_open_acc" in panel["intervals"]
    assert set(match["classes"]) == {"no", "yes"} and match["clients"] == {}  # no client was dealt such labels
    assert panel["test_rows"]["evaluated"] == 16 and panel["test_rows"]["all"] == 360
    assert panel["data"]["labels"] == {"closed": 120, "open": 240}
    assert not any(name.startswith("test_sets") for entry in results["evaluations"] for name in entry)
    assert results["shortened_rows"]["test_sets.panel"] == 0


def test_each_set_has_its_own_predictions_and_those_of_before_round_0_can_be_graded(finished) -> None:
    results, folder = finished
    for name, entry in (("panel", 16), ("match-2", 3 * 16)):
        predictions = read_predictions(folder / f"predictions_{name}.jsonl")
        assert len(predictions) == entry
        own = [p.correct for p in predictions if p.shown == "both"]
        assert sum(own) / len(own) == results["test_sets"][name]["evaluations"][-1]["test_acc"]
    kept = read_predictions(folder / "zero_shot" / "predictions_panel.jsonl")
    assert sum(p.correct for p in kept) / len(kept) == results["test_sets"]["panel"]["zero_shot"]["test_acc"]
    assert {file.name for file in (folder / "zero_shot").iterdir()} == {"predictions_panel.jsonl"}  # only answers


def test_lines_table_and_console_name_the_set(finished, tmp_path) -> None:
    results, folder = finished
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["set"], line["round"]) for line in lines if line["kind"] == "test_set"] == [
        ("panel", 0), ("match-2", 0), ("panel", 2), ("match-2", 2)
    ]  # fmt: skip
    said = closing_table(results, "here")
    assert "test set panel (16 of 360 rows): acc " in said and "test set match-2 (16 of 420 rows): macro_f1 " in said
    sheet = read_sheet([folder])
    (page, *_) = [path.read_text() for path in write_report(sheet, tmp_path / "r", pictures=False)]
    assert "panel: open acc" in page and "match-2: auc" in page
    reported, at = Run(folder, 0, results), results["test_sets"]["match-2"]
    assert reported.value("test_sets.match-2.test_auc", "last") == at["evaluations"][-1]["test_auc"]
    assert reported.value("test_sets.match-2.test_auc", "zero_shot") == at["zero_shot"]["test_auc"]
    assert reported.value("test_sets.other.test_auc", "last") is None
    assert reported.value("test_sets.../../x.test_auc", "last") is None
    assert reported.curve("test_sets.panel.test_acc") == {
        entry["round"]: entry["test_acc"] for entry in results["test_sets"]["panel"]["evaluations"]
    }


def test_training_and_the_best_round_do_not_know_of_them(finished, tmp_path) -> None:
    results, _ = finished
    plain, _ = run(config_of(tmp_path, *MORE[:4]))
    for name in ("adapter_sha256", "evaluations", "best", "bytes_sent", "manifest_sha256"):
        assert plain[name] == results[name]
    assert "test_sets" not in plain and plain["config_sha256"] != results["config_sha256"]


def test_verdicts_of_a_set_and_of_before_round_0_are_their_own(finished, monkeypatch, capsys) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    results, folder = finished
    with JudgeServer() as server:
        words = ["judge", str(folder), "--model", "judge-2024-08-06", "--base-url", server.url, "--zero-shot"]
        assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "test set panel: judged by" in said and "test set panel, zero-shot: judged by" in said
    last, first = (json.loads((place / "judge_panel.json").read_text()) for place in (folder, folder / "zero_shot"))
    assert len(last["verdicts"]) == len(first["verdicts"]) == 16 and not (folder / "judge.json").exists()
    graded = Run(folder, 0, results)
    for at, content in (("last", last), ("zero_shot", first)):
        assert graded.value("test_sets.panel.judge.scores.accuracy", at) == content["scores"]["accuracy"]
    assert graded.value("test_sets.panel.judge.scores.accuracy", "best") is None or results["best"]["round"] == 2
    assert graded.value("judge.scores.accuracy", "last") is None


def test_an_interrupted_run_goes_on_with_the_figures_of_its_sets(finished, tmp_path, monkeypatch) -> None:
    results, _ = finished
    config = config_of(tmp_path, *MORE, "eval.freq", "1")
    stop = Session.checkpoint

    def killed(self: Session) -> None:
        stop(self)
        raise UpdateError("killed")

    monkeypatch.setattr(Session, "checkpoint", killed)
    with pytest.raises(UpdateError, match="killed"):
        run(config)
    monkeypatch.undo()
    resumed, _ = run(config)
    rounds = [entry["round"] for entry in resumed["test_sets"]["panel"]["evaluations"]]
    assert rounds == [0, 1, 2] and resumed["adapter_sha256"] == results["adapter_sha256"]
    assert resumed["test_sets"]["panel"]["evaluations"][-1] == results["test_sets"]["panel"]["evaluations"][-1]


def test_under_local_the_mean_over_clients_is_reported(tmp_path) -> None:
    words = ["federate.method", "local", "federate.client_num", "2", "federate.total_round_num", "1",
             "data.splitter_args", "[{alpha: 5.0}]", "data.splitter", "fedmllm_aligned", "federate.sample_client_num",
             "2", "train.local_update_steps", "1", "fedmllm.test_sets", "{panel: {type: digits_panel}}"]  # fmt: skip
    results, folder = run(config_of(tmp_path, *words))
    predictions = read_predictions(folder.path / "predictions_panel.jsonl")
    assert {p.client for p in predictions} == {1, 2}
    shares = [[p.correct for p in predictions if p.client == client] for client in (1, 2)]
    mean = sum(sum(own) / len(own) for own in shares) / 2
    assert results["test_sets"]["panel"]["evaluations"][-1]["test_acc"] == pytest.approx(mean)


def test_the_plan_counts_their_rows() -> None:
    config = schema.load(CONFIGS / "cross_i3t7.yaml", [*SHORT, *MORE])
    without = dataclasses.replace(config, fedmllm=dataclasses.replace(config.fedmllm, test_sets={}))
    more, plain = (count_work(own, prepare_data(own)) for own in (config, without))
    # Two evaluations of 16 rows each, both at an end of the run, where match-2 is shown in two further views.
    assert more.scored - plain.scored == 2 * (16 + 3 * 16)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{test: {type: digits_panel}}", r"fedmllm\.test_sets\.test has the name of one of the run's own splits"),
        ("{Val: {type: digits_panel}}", r"fedmllm\.test_sets\.Val has the name of one of the run's own splits"),
        ("{../x: {type: digits_panel}}", r"has the name '\.\./x'; a test set's name is made of letters"),
        ("{a b: {type: digits_panel}}", "a test set's name is made of letters"),
        ("{'': {type: digits_panel}}", "a test set's name is made of letters"),
        ("{a: {type: digits_panel}, A: {type: digits_panel}}", "differ in case only"),
        ("{a: digits_panel}", r"fedmllm\.test_sets\.a is 'digits_panel'; it must be a mapping"),
        ("{a: {type: digits_panel, rooot: x}}", r"unknown key 'fedmllm\.test_sets\.a\.rooot'; did you mean 'root'"),
        ("{a: {root: x}}", r"fedmllm\.test_sets\.a\.type is not set"),
        ("{a: {type: [1]}}", r"fedmllm\.test_sets\.a\.type is \[1\]; it must be a text"),
        ("{a: {type: digits_panel, options: 3}}", r"fedmllm\.test_sets\.a\.options is 3; it must be a mapping"),
        ("[a]", r"fedmllm\.test_sets must be a mapping"),
    ],
)
def test_what_names_no_set_is_refused_before_anything_is_read(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schema.load(CONFIGS / "cross_i3t7.yaml", ["fedmllm.test_sets", given])


def test_data_test_sets_is_told_its_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'data\.test_sets.*did you mean 'fedmllm\.test_sets'"):
        schema.load(CONFIGS / "cross_i3t7.yaml", ["data.test_sets", SETS])


def own_rows(folder: Path, **labels: list[str]) -> Path:
    """Rows of your own: files of texts, each with these labels."""
    folder.mkdir()
    for split, named in labels.items():
        rows = [{"id": f"{split}{i}", "text": f"{split} {i}", "label": label} for i, label in enumerate(named)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{type: digit_panel}", "no data set 'digit_panel'"),
        ("{type: slake, root: gone}", r"fedmllm\.test_sets\.a\.root: .*gone is not a folder.*begins at data\.root"),
        ("{type: digits_panel, options: {sise: 3}}", r"fedmllm\.test_sets\.a: digits_panel has no option 'sise'"),
        ("{type: digits_panel, template: nothing}", r"fedmllm\.test_sets\.a: No prompt template 'nothing'"),
        (
            "{type: digits_panel, template: digits_match}",
            r"the label None is outside.*fedmllm\.test_sets\.a\.template",
        ),
        ("{type: digits_match, template: medical}", r"fedmllm\.test_sets\.a: .*needs a question in every row"),
        ("{type: own, root: none, options: {template: digits_match}}", r"fedmllm\.test_sets\.a: .*no test rows"),
        ("{type: own, root: one, options: {template: digits_match}}", r"fedmllm\.test_sets\.a: .*all have the label"),
        ("{type: own, root: bad, options: {template: digits_match}}", r"fedmllm\.test_sets\.a: .*test\.jsonl:2"),
    ],
)
def test_a_set_is_held_to_what_the_runs_own_rows_are(tmp_path, given: str, message: str) -> None:
    own_rows(tmp_path / "none", train=["yes", "no"])
    own_rows(tmp_path / "one", train=["yes", "no"], test=["yes", "yes"])
    own_rows(tmp_path / "bad", train=["yes", "no"], test=["yes", "perhaps"])
    config = config_of(tmp_path, "data.root", str(tmp_path), "fedmllm.test_sets", f"{{a: {given}}}")
    with pytest.raises((ConfigError, DataError), match=message):
        prepare_data(config)


def test_what_a_set_shares_with_training_is_said(tmp_path, caplog) -> None:
    own_rows(tmp_path / "mine", train=["yes", "no"], test=["yes", "no"])
    own_rows(tmp_path / "same", test=["yes", "no"], train=["no", "no"])
    (tmp_path / "same" / "test.jsonl").write_text((tmp_path / "mine" / "train.jsonl").read_text())
    words = ["data.type", "own", "data.root", str(tmp_path / "mine"), "fedmllm.data", "{template: digits_match}",
             "data.splitter", "fedmllm_aligned", "data.splitter_args", "[{alpha: 5.0}]", "federate.client_num", "1",
             "federate.sample_client_num", "1", "eval.best_res_update_round_wise_key", "test_acc", "fedmllm.test_sets",
             f"{{same: {{type: own, root: {tmp_path / 'same'}, options: {{template: digits_match}}}}}}"]  # fmt: skip
    found = prepare_data(config_of(tmp_path, *words)).test_sets["same"].report["shared"]["train_test"]
    assert found["rows"] == found["of"] == 2
    assert "fedmllm.test_sets.same: Of 2 test rows, 2 show what a training row shows." in caplog.text


def test_data_check_looks_at_every_set(tmp_path, capsys) -> None:
    own_rows(tmp_path / "bad", train=["yes", "no"], test=["yes", "perhaps"])
    words = ["data", "check", str(CONFIGS / "cross_i3t7.yaml"), "--no-decode"]
    assert cli.main([*words, "fedmllm.test_sets", SETS]) == 0
    said = capsys.readouterr().out
    assert (
        "test set panel      360" in said and "test set match-2, digits_match, template digits_match: 210 no" in said
    )
    sets = (
        f"{{bad: {{type: own, root: {tmp_path / 'bad'}, options: {{template: digits_match}}}}, gone: {{type: slake}}}}"
    )
    assert cli.main([*words, "data.root", str(tmp_path / "x"), "fedmllm.test_sets", sets]) == 1
    said = capsys.readouterr().out
    assert "bad/test.jsonl:2" in said and "fedmllm.test_sets.gone" in said and "digits_triage: 2 errors" in said


def test_a_relative_root_begins_at_the_data_root(tmp_path) -> None:
    sets = "{a: {type: own, root: slake}, b: {type: own}, c: {type: own, root: /there, template: null}}"
    options = set_options(config_of(tmp_path, "fedmllm.test_sets", sets))
    assert [own.folder("/data") for own in options.values()] == [Path("/data/slake"), Path("/data"), Path("/there")]
    assert options["c"].template == ""


def test_a_metric_that_does_not_fit_a_set_names_it_and_a_dry_run_says_so(tmp_path, capsys) -> None:
    pytest.importorskip("evaluate")
    from test_local_metrics import metric

    path = metric(tmp_path, given="float64", wanted="int32")  # a score and a label, as the AUC of match has them
    words = ["run", str(CONFIGS / "cross_i3t7.yaml"), *SHORT, "outdir", str(tmp_path), "data.type", "digits_match",
             "eval.best_res_update_round_wise_key", "val_auc", "fedmllm.eval.metrics", f"[{path}]"]  # fmt: skip
    assert cli.main([*words, "--dry-run"]) == 0
    capsys.readouterr()
    assert cli.main([*words, "fedmllm.test_sets", "{panel: {type: digits_panel}}", "--dry-run"]) == 2
    said = capsys.readouterr().out
    assert "test set panel: 16 of 360" in said and "metrics: fedmllm.test_sets.panel: " in said


def test_a_checkpoint_of_other_sets_is_refused(tmp_path) -> None:
    config = config_of(tmp_path, "fedmllm.test_sets", "{panel: {type: digits_panel}}")
    federation = Federation.build(config, prepare_data(config))
    folder = RunFolder(tmp_path / "run", config)
    session = Session(federation, folder)
    session.zero_shot()
    session.state.round = 1
    session.state.figures["participants"] = [[1]]
    session.state.figures["test_sets"] = {"other": []}
    session.checkpoint()
    with pytest.raises(ConfigError, match="figures of other test sets"):
        Session(federation, RunFolder(tmp_path / "run", config))
