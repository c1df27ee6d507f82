"""``fs-fedmllm judge`` on a run's folder, against a real HTTP server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from judge_server import JudgeServer
from short_runs import CONFIGS

pytest.importorskip("openai")

from fs_fedmllm import cli
from fs_fedmllm import config as schema
from fs_fedmllm.config import config_digest
from fs_fedmllm.evaluation.predictions import Prediction, write_predictions
from fs_fedmllm.tools.report.finished import Run

MODEL = "judge-2024-08-06"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def run_folder(folder: Path, *overrides: str, answers: bool = True) -> Path:
    """The files of a run that the judge reads: every third answer is wrong, and one is right in other words."""
    folder.mkdir()
    own = schema.load(CONFIGS / "cross_i3t7.yaml", overrides)
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump(schema.to_mapping(own)))
    (folder / "results.json").write_text(json.dumps({"seed": 0}))
    rows = []
    for i in range(9):
        said = "liver" if i % 3 == 2 else "left lung" if i == 0 else "lung"
        for shown in ("both", "image"):
            rows.append(
                Prediction(f"r{i}", shown, said == "lung", kind=("open", "closed")[i % 2], question=f"question {i}?",
                           reference="lung", answer=said if answers else None)
            )  # fmt: skip
    write_predictions(folder / "predictions.jsonl", rows)
    return folder


def test_a_run_is_graded_once_and_the_report_reads_it(tmp_path, capsys) -> None:
    folder = run_folder(tmp_path / "run")
    with JudgeServer() as server:
        words = ["judge", str(folder), "--model", MODEL, "--base-url", server.url, "--price-in", "2",
                 "--price-out", "8", "--max-cost", "1"]  # fmt: skip
        assert cli.main(words) == 0
        said = capsys.readouterr().out
        assert len(server.requests) == 9  # one view of every row
        assert cli.main(words) == 0
        assert len(server.requests) == 9  # nothing is paid twice
    assert "overall: 66.7 % correct" in said and "agrees with exact match on 88.9 % of 9 answers" in said
    content = json.loads((folder / "judge.json").read_text())
    assert content["scores"]["counts"]["wrong"] == 3 and content["complete"]
    assert content["agreement_with_exact_match"]["compared"] == 9
    assert "sk-test" not in json.dumps(content)
    graded = Run(folder, 0, {})
    assert graded.value("judge.scores.accuracy", "last") == pytest.approx(2 / 3)
    assert graded.value("judge.by_kind.open.accuracy", "last") == pytest.approx(content["by_kind"]["open"]["accuracy"])


def test_the_ceiling_stops_and_a_higher_one_goes_on(tmp_path, capsys) -> None:
    folder = run_folder(tmp_path / "run")
    with JudgeServer() as server:
        words = ["judge", str(folder), "--model", MODEL, "--base-url", server.url, "--concurrency", "1"]
        ceiling = 1500  # the most that one request can take, and a few that took less
        assert cli.main([*words, "--max-total-tokens", str(ceiling)]) == 1
        assert "the ceiling on cost or tokens is reached" in capsys.readouterr().out
        before = len(server.paid)
        assert 0 < before < 9
        assert cli.main([*words, "--max-total-tokens", "100000"]) == 0
        assert len(server.paid) == 9


def test_the_configuration_names_the_judge(tmp_path, capsys) -> None:
    with JudgeServer() as server:
        folder = run_folder(tmp_path / "run", "fedmllm.judge.model", MODEL, "fedmllm.judge.base_url", server.url)
        assert cli.main(["judge", str(folder)]) == 0
        assert {request["body"]["model"] for request in server.requests} == {MODEL}
    plain = schema.load(CONFIGS / "cross_i3t7.yaml")
    other = schema.load(CONFIGS / "cross_i3t7.yaml", ["fedmllm.judge.model", MODEL])
    assert config_digest(plain) == config_digest(other)  # who grades a run does not make it another


def test_what_cannot_be_graded_is_said(tmp_path, capsys) -> None:
    assert cli.main(["judge", str(run_folder(tmp_path / "run"))]) == 2
    assert "--model" in capsys.readouterr().err
    assert cli.main(["judge", str(run_folder(tmp_path / "none", answers=False)), "--model", MODEL]) == 2
    assert "no generated answers" in capsys.readouterr().err
    assert cli.main(["judge", str(tmp_path / "run"), "--model", "gpt-4"]) == 2
    assert "no date or revision" in capsys.readouterr().err
