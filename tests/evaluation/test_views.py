"""Joint, product of views, image only, text only: by hand, in a run, in the report, and when asking an adapter."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fs_fedmllm.data.template import Template
from fs_fedmllm.errors import ModelError
from fs_fedmllm.evaluation.predictions import Prediction, read_predictions
from fs_fedmllm.evaluation.views import (
    EXPLAINED,
    gap_means,
    plainly,
    product_of_views,
    readings,
    said_views,
    view_figures,
)
from fs_fedmllm.runs.decisions import said_decisions, spans

#: What the rows are asked.
ASKED = Template("quarters", "choice", "macro_f1", ("a", "b", "c", "d"), 1, "", "", {})


def logs(*shares: float) -> tuple[float, ...]:
    return tuple(math.log(share) for share in shares)


def row(name: str, label: int, joint, image, text, **own) -> list[Prediction]:
    made = []
    for shown, shares in (("both", joint), ("image", image), ("text", text)):
        decision = int(np.argmax(shares))
        right, said = decision == label, logs(*shares)
        made.append(Prediction(name, shown, right, label=label, decision=decision, log_probs=said, **own))
    return made


def test_the_product_by_hand() -> None:
    # 0.6 * 0.5, 0.3 * 0.1, 0.1 * 0.4 = 0.30, 0.03, 0.04; divided by 0.37
    found = np.exp(product_of_views(np.array([logs(0.6, 0.3, 0.1)]), np.array([logs(0.5, 0.1, 0.4)])))
    assert found[0] == pytest.approx([0.30 / 0.37, 0.03 / 0.37, 0.04 / 0.37])
    assert product_of_views(np.array([-2000.0, -1000.0]), np.array([-1.0, -1.0])) == pytest.approx([-1000.0, 0.0])


#: The image tells the first half of four labels, the text the second; the joint prompt gets two of them wrong.
HALVES = [
    *row("a", 0, (0.7, 0.1, 0.1, 0.1), (0.45, 0.45, 0.05, 0.05), (0.5, 0.1, 0.3, 0.1)),
    *row("b", 1, (0.7, 0.1, 0.1, 0.1), (0.5, 0.4, 0.05, 0.05), (0.1, 0.5, 0.1, 0.3)),
    *row("c", 2, (0.1, 0.1, 0.7, 0.1), (0.05, 0.05, 0.4, 0.5), (0.3, 0.1, 0.5, 0.1)),
    *row("d", 3, (0.1, 0.7, 0.1, 0.1), (0.05, 0.05, 0.5, 0.4), (0.1, 0.5, 0.1, 0.3)),
]


def test_four_readings_of_the_same_rows() -> None:
    figures = view_figures(HALVES, ASKED, 0)
    assert figures["rows"] == 4
    accuracy = {view: figures[view]["acc"] for view in ("joint", "product", "image", "text")}
    assert accuracy == {"joint": 0.5, "product": 1.0, "image": 0.25, "text": 0.75}
    assert figures["product"]["macro_f1"] == 1.0 and figures["gap"]["acc"] == 0.5
    # A row that lacks a view is in none of the readings, so that all four are of the same rows.
    lonely = Prediction("e", "both", True, label=0, decision=0, log_probs=logs(0.7, 0.1, 0.1, 0.1))
    assert view_figures([*HALVES, lonely], ASKED, 0) == figures
    assert [len(part) for part in readings([*HALVES, lonely]).values()] == [4, 4, 4, 4]
    assert view_figures([p for p in HALVES if p.shown == "both"], ASKED, 0) == {}
    assert view_figures([Prediction("q", "both", True, answer="yes")], ASKED, 0) == {}


def test_the_gap_is_named_by_its_interval() -> None:
    many = [p for i in range(40) for p in row(f"r{i}", 0, (0.4, 0.6), (0.7, 0.3), (0.6, 0.4))]
    figures = view_figures(many, ASKED, 0)
    assert figures["gap"] == {"acc": 1.0, "low": 1.0, "high": 1.0, "means": gap_means(1.0, 1.0)}
    said = said_views(figures)
    assert said.splitlines() == [
        "views (acc): joint 0.0000 (asked with image and text), image only 1.0000, text only 1.0000",
        "product of views: 1.0000 (the option probabilities of image only and text only, multiplied)",
        "product - joint: +1.0000 [+1.0000, +1.0000], the model knows more than its joint prompt uses",
    ]
    # results.json keeps its names for the gap; readers are told in plain words.
    assert figures["gap"]["means"] == "knowledge that the joint form does not reach"
    assert plainly(gap_means(-0.2, -0.1)) == "the joint prompt uses more than the two views contain"
    assert plainly(gap_means(-0.1, 0.1)) == gap_means(-0.1, 0.1)
    assert gap_means(-0.2, -0.1) == "knowledge that only the joint form has"
    assert gap_means(-0.1, 0.1) == "no difference that these rows can show"


def test_clients_that_train_alone_are_read_one_by_one() -> None:
    import dataclasses

    two = [dataclasses.replace(p, client=c) for c in (1, 2) for p in HALVES]
    figures = view_figures(two, ASKED, 0)
    assert figures["rows"] == 4 and figures["product"]["acc"] == 1.0 and figures["joint"]["acc"] == 0.5


def test_spans_of_decisions() -> None:
    states = ((0, 0, 0), (2, 0, 1), (4, 1, 1), (6, 1, 0), (8, 1, 1))
    decisions = [{"round": index, "image": image, "text": text} for index, image, text in states]
    assert spans(decisions, "image") == "from round 4" and spans(decisions, "text") == "rounds 2-5, from round 8"
    assert spans(decisions[:1], "image") == "never"
    assert said_decisions(decisions) == [
        "stand-ins: images from round 4; texts rounds 2-5, from round 8 (5 decisions, see results.json)"
    ]
    assert said_decisions([]) == []


def test_a_run_reports_them_and_predict_can_multiply_views(short_config, tmp_path, capsys) -> None:
    """One short run, read by results, closing table, report and predict."""
    from fs_fedmllm.cli import main
    from fs_fedmllm.runs.console import closing_table
    from fs_fedmllm.runs.simulation import run

    config = short_config("cross_i3t7", "fedmllm.eval.slices", "ends", "fedmllm.predict.combine", "product",
                          "fedmllm.stand_ins.use", "force", "fedmllm.stand_ins.guard", "none")  # fmt: skip
    results, folder = run(config)
    predictions = read_predictions(folder.path / "predictions.jsonl")
    views, last = results["views"], results["evaluations"][-1]
    assert views["rows"] == 16 and set(views["joint"]) == {"acc", "macro_f1"}
    assert views["joint"]["acc"] == pytest.approx(last["test_acc"])
    assert views["image"]["acc"] == pytest.approx(last["test_image_acc"])
    assert views["text"]["macro_f1"] == pytest.approx(last["test_text_macro_f1"])
    table = closing_table(results, "x")
    assert "product of views" in table and "product - joint" in table
    assert "stand-ins: images from round 0; texts from round 0 (1 decisions" in table

    assert main(["report", str(folder.path), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "Views of the same rows, accuracy" in page and "| joint | product of views |" in page
    assert page.count(EXPLAINED) == 1 and EXPLAINED in (tmp_path / "report" / "report.html").read_text()
    assert "Stand-ins, by round" in page and "from round 0" in page

    # The folder says how to ask; --combine says otherwise.
    row = next(r for r in __import__("fs_fedmllm.data.registry", fromlist=["x"]).load_dataset(
        "digits_triage", tmp_path, {}).test if r.id == predictions[0].id)  # fmt: skip
    own = {p.shown: p for p in predictions if p.id == row.id}
    expected = {
        "product": np.exp(product_of_views(np.array(own["image"].log_probs), np.array(own["text"].log_probs))),
        "joint": np.exp(np.array(own["both"].log_probs)),
    }
    adapter, capsys_out = str(folder.path / "adapter"), {}
    for combine in ("", "joint"):
        capsys.readouterr()
        words = ["predict", adapter, "--image", row.image, "--text", row.text, "--json"]
        assert main([*words, *(["--combine", combine] if combine else [])]) == 0
        capsys_out[combine or "product"] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    for combine, said in capsys_out.items():
        assert list(said["probabilities"].values()) == pytest.approx(list(expected[combine]), abs=1e-4)
    assert main(["predict", adapter, "--question", "what?", "--combine", "product"]) == 2
    assert "answered in writing" in capsys.readouterr().err

    from fs_fedmllm.models.adapter_folder import read_description

    file = folder.path / "adapter" / "fedmllm.json"
    assert read_description(file.parent).combine == "product"
    file.write_text(file.read_text().replace('"combine": "product"', '"combine": "sum"'))
    with pytest.raises(ModelError, match=r"combine is 'sum'; it must be joint or product"):
        read_description(file.parent)
