"""Rows that several keys join are one group: in the split, in intervals, in what is said of splits."""

from __future__ import annotations

import random

import numpy as np
from short_runs import SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.data.dividing import check_division, divide
from fs_fedmllm.data.joined import group_names, joined
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.evaluation.predictions import read_predictions
from fs_fedmllm.evaluation.row_metrics import accuracy
from fs_fedmllm.evaluation.slices import groups_of
from fs_fedmllm.evaluation.statistics import bootstrap
from fs_fedmllm.tools.adapters.row_files import form_of
from fs_fedmllm.tools.adapters.score import read_truths


def rows_of(pairs):
    return [
        Sample(str(i), None, f"text {i}", "a", label=i % 2, keys={"patient": patient, "study": study})
        for i, (patient, study) in enumerate(pairs)
    ]


#: P1 and P2 share study B, and so A, B and C are one; D stands apart.
CHAIN = [("P1", "A"), ("P1", "B"), ("P2", "B"), ("P2", "C"), ("P3", "D"), ("P3", "D")]


def test_a_chain_of_keys_is_one_group():
    assert joined([[1], [2], [1, 2], [], [3], [3, 1]]) == [0, 0, 0, 3, 0, 0]
    assert joined([["b"], ["a"], ["b", "a"]]) == [0, 0, 0]
    keys = [row.keys for row in rows_of(CHAIN)]
    assert group_names(keys, ("patient", "study")) == ["patient P1"] * 4 + ["patient P3"] * 2
    assert group_names(keys, ("study",)) == ["A", "B", "B", "C", "D", "D"]
    assert group_names(keys, ()) == [""] * 6
    lacking = [{}, {"study": "D"}, *keys]
    assert group_names(lacking, ("patient", "study")) == ["", "study D", *["patient P1"] * 4, *["study D"] * 2]


def test_a_name_is_of_one_group_whatever_the_values():
    """A study called like a patient joins nothing."""
    keys = [row.keys for row in rows_of([("1", "2"), ("2", "1"), ("3", "3")])]
    assert len(set(group_names(keys, ("patient", "study")))) == 3


def test_the_split_keeps_joined_rows_together():
    draw = random.Random(1)
    pairs = [(f"P{draw.randrange(60)}", f"S{draw.randrange(90)}") for _ in range(150)]
    rows = rows_of(pairs)
    made = divide(rows, check_division({"val": 0.2, "test": 0.3, "together": ["patient", "study"]}))
    where = {row.id: part for part, found in made.items() for row in found}
    for key in ("patient", "study"):
        parts: dict[str, set[str]] = {}
        for row in rows:
            parts.setdefault(row.keys[key], set()).add(where[row.id])
        assert all(len(found) == 1 for found in parts.values())
    assert all(made.values())


def test_intervals_resample_joined_rows_together(tmp_path, monkeypatch):
    """A run of one's own rows: its test rows carry the group that patients and studies make together."""
    monkeypatch.chdir(tmp_path)
    lines = ["patient,study,note,label"]
    for i in range(96):  # patients 2k and 2k+1 share a study, so there are 12 groups of 8 rows
        patient = i // 4
        study = f"J{patient // 2}" if i % 4 == 0 else f"S{i}"
        lines.append(f"P{patient},{study},words number {i},{'ab'[i % 2]}")
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n")
    assert main(["init", "r.csv", "--yes", "--group", "patient"]) == 0
    written = (tmp_path / "my.yaml").read_text()
    assert "together: patient" in written
    (tmp_path / "my.yaml").write_text(
        written.replace(", keep_together: patient", "").replace("together: patient", "together: [patient, study]")
    )
    config = schema.load(tmp_path / "my.yaml")
    assert config.resampled_by == ("patient", "study") and config.split_together == ("patient", "study")
    assert main(["run", "my.yaml", *SHORT, "expname", "job", "--engine", "embedded"]) == 0
    found = [p for p in read_predictions(tmp_path / "exp/job/predictions.jsonl") if p.shown == "both"]
    sizes = [sum(p.group == group for p in found) for group in {p.group for p in found}]
    assert sizes and set(sizes) == {8} and len(sizes) >= 2
    form = form_of("exp/job")
    assert form.together == ("patient", "study")  # predict --file scores rows of that form
    truths = [row["group"] for row, _ in read_truths(tmp_path / "r.csv", form)]
    assert len(truths) == 96 and {truths.count(group) for group in truths} == {8}
    # Groups of 8 that stand or fall together: as wide as so few groups make it, not as so many rows would.
    right = [p.group == found[0].group for p in found]
    metric = accuracy(right)
    grouped = bootstrap(metric, np.random.default_rng(0), groups=groups_of(found))
    alone = bootstrap(metric, np.random.default_rng(0))
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_a_patient_in_two_given_splits_is_said_where_together_names_the_patient(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, start in (("train", 0), ("test", 38)):
        rows = [f"P{i // 4},words {i} {name},{'ab'[i % 2]}" for i in range(start, start + 40)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["patient,note,label", *rows]) + "\n")
    assert main(["init", ".", "--yes", "--group", "patient"]) == 0
    capsys.readouterr()
    assert main(["data", "check", "my.yaml"]) == 0
    assert "1 of 11 values of patient stand in training too" in " ".join(capsys.readouterr().out.split())
