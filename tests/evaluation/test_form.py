"""Which answers cannot be right whatever was asked, which round is the best, and what is kept of an empty answer."""

from __future__ import annotations

import json

from fs_fedmllm.evaluation.form import form_figures, out_of_form, said_of_form
from fs_fedmllm.evaluation.predictions import Prediction, read_predictions, write_predictions
from fs_fedmllm.runs.best_round import best_of, never_moved
from fs_fedmllm.runs.console import closing_table
from fs_fedmllm.scenarios.fitting import LAST_ROUND


def _said(answer: str, reference: str = "yes", kind: str = "closed") -> Prediction:
    return Prediction(
        answer or "empty", "both", False, kind=kind, question="Is it?", reference=reference, answer=answer
    )


def test_an_empty_answer_is_kept(tmp_path) -> None:
    rows = [_said(""), _said("yes"), Prediction("c", "both", True, label=0, decision=0, log_probs=(-0.5, -1.0))]
    write_predictions(tmp_path / "predictions.jsonl", rows)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert lines[0]["answer"] == "" and "kind" not in lines[2] and "answer" not in lines[2] and lines[2]["label"] == 0
    assert read_predictions(tmp_path / "predictions.jsonl") == rows


def test_answers_without_the_form_asked_for() -> None:
    closed = [_said("yes"), _said("no", "no"), _said("."), _said("The image shows a heart"), _said("No.")]
    assert [p.answer for p in out_of_form(closed)] == [".", "The image shows a heart"]
    open_rows = [_said("left lobe", "right upper lobe", "open"), _said("word " * 7, "axial", "open")]
    assert [p.answer.split()[0] for p in out_of_form(open_rows)] == ["word"]
    drawn = [Prediction(str(i), "both", False, label=0, decision=code, answer="x") for i, code in enumerate((-1, 0))]
    assert [p.id for p in out_of_form(drawn)] == ["0"]
    scored = [Prediction("s", "both", False, label=0, decision=1, log_probs=(-1.0, -0.5))]
    assert out_of_form(scored) == [] and form_figures(scored) is None and form_figures([]) is None


def test_a_run_of_such_answers_is_told_with_three_examples() -> None:
    assert form_figures([_said("yes"), _said(".")]) is None, "half is not most"
    figures = form_figures([_said("yes"), *[_said(f"I see {i} hearts") for i in range(5)]])
    assert figures is not None and (figures["rows"], figures["of"], len(figures["examples"])) == (5, 6, 3)
    told = "5 of 6 answers do not have the form asked for, such as 'I see 0 hearts' where 'yes' is right; "
    assert said_of_form(figures).startswith(told)


def _entry(done: int, acc: float, loss: float) -> dict[str, float]:
    return {"round": done, "test_acc": acc, "test_loss": loss, "val_loss": -loss}


def test_a_tie_goes_to_the_lower_loss() -> None:
    tied = [_entry(0, 0.0, 5.7), _entry(1, 0.0, 2.6), _entry(2, 0.0, float("nan")), _entry(3, 0.0, 2.6)]
    assert best_of(tied, "test_acc")["round"] == 1
    assert best_of([*tied, _entry(4, 0.1, 9.0)], "test_acc")["round"] == 4
    assert best_of([{"round": i, "test_acc": 0.5} for i in range(3)], "test_acc")["round"] == 0
    assert never_moved(tied, "test_acc") and not never_moved(tied[:1], "test_acc")
    assert not never_moved(tied, LAST_ROUND) and not never_moved([*tied, _entry(4, 0.1, 9.0)], "test_acc")


def test_the_closing_table_says_both() -> None:
    entries = [_entry(0, 0.0, 5.7), _entry(1, 0.0, 2.6)]
    results = {
        "evaluations": entries, "best": entries[1], "best_by": "test_acc", "best_by_loss": True, "bytes_sent": 1,
        "adapter_bytes": 1, "adapter_sha256": "0", "refused": [], "seconds": dict.fromkeys(
            ("total", "training", "evaluation"), 1.0
        ), "out_of_form": form_figures([_said("")]),
    }  # fmt: skip
    table = closing_table(results, "x")
    assert (
        "best by test_acc: round 1 (test_acc is 0.0000 in every evaluation, so the lowest loss is the best)" in table
    )
    assert "1 of 1 answers do not have the form asked for, such as '' where 'yes' is right" in table
