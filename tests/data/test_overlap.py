"""What training and evaluation share is counted, and findings of one kind are one line."""

from __future__ import annotations

import shutil

import pytest

from fs_fedmllm.data.check import inspect
from fs_fedmllm.data.findings import Finding
from fs_fedmllm.data.grouping import grouped
from fs_fedmllm.data.overlap import image_contents, label_sentences, overlap_sentences, overlaps
from fs_fedmllm.data.registry import load_dataset

TRIAGE = {"template": "digits_triage"}


@pytest.fixture
def leaky(tmp_path, picture, jsonl):
    """Four training rows; a test row is a training row again, another has its image under another name."""
    for i in range(6):
        picture(tmp_path / f"{i}.png", colour=(40 * i, 7, 7))
    shutil.copy(tmp_path / "0.png", tmp_path / "again.png")
    jsonl(tmp_path / "train.jsonl", [row(i, f"{i}.png", patient=f"p{i % 2}") for i in range(4)])
    jsonl(
        tmp_path / "test.jsonl",
        [row(1, "1.png", patient="p1"), row(9, "again.png", patient="p7"), row(3, "5.png", patient="p8")],
    )
    jsonl(tmp_path / "val.jsonl", [row(7, "4.png", patient="p9")])
    return tmp_path


def row(number: int, image: str | None, **more: object) -> dict:
    return {"image": image, "text": f"item {number}", "label": number % 8, **more}


def test_rows_images_and_groups_of_two_splits(leaky):
    dataset = load_dataset("own", leaky, TRIAGE | {"groups": ["patient"]})
    found = overlaps(dataset, ["patient"])
    assert found == {
        "train_test": {
            "of": 3,
            "rows": 1,
            "image_rows": 2,
            "images": 2,
            "groups": {"patient": {"shared": 1, "of": 3}},
        }
    }
    assert overlap_sentences(found) == [
        "Of 3 test rows, 1 show what a training row shows, and 2 share their image with a training row (2 images), "
        "and 1 of 3 values of patient stand in training too."
    ]
    warned = [f.problem for f in inspect("own", leaky, TRIAGE | {"groups": ["patient"]})[1] if f.severity == "warning"]
    assert warned == [*overlap_sentences(found), "No training row has upper health, which val rows have."]


def test_only_files_of_one_size_are_hashed(leaky, monkeypatch):
    from fs_fedmllm.data import overlap

    (leaky / "5.png").write_bytes((leaky / "5.png").read_bytes() + b"longer")
    read: list[str] = []
    monkeypatch.setattr(overlap, "image_sha256", lambda path: read.append(path) or path[-5])
    image_contents(load_dataset("own", leaky, TRIAGE).test)
    assert not any(path.endswith("5.png") for path in read)


def test_labels_that_are_never_trained():
    counts = {"train": {"a": 3, "b": 0}, "val": {"a": 1, "b": 0}, "test": {"a": 1, "b": 2}}
    assert label_sentences(counts) == ["No training row has b, which test rows have."]


def finding(number: int, problem: str, severity: str = "error", file: str = "rows.jsonl") -> Finding:
    return Finding(severity, file, str(number), problem, "Fix it.")


def test_findings_of_one_kind_are_one_line():
    found = [finding(i, f"label 'l{i % 8}' is none of the options.") for i in range(1, 21)]
    (one,) = grouped(found)
    assert one.row == "1, 2, 3, 4, 5, 6 and 14 more" and one.remedy == "Fix it."
    assert one.problem == (
        "20 rows: label 'l1' is none of the options. Also: 'l2', 'l3', 'l4', 'l5', 'l6', 'l7' and 1 more."
    )


def test_other_kinds_files_and_severities_stay_apart():
    found = [
        finding(1, "the image /a/1.png does not exist."),
        finding(2, "the image /a/2.png does not exist."),
        finding(3, "text must be text, not 3."),
        finding(4, "the image /a/4.png does not exist.", file="other.jsonl"),
        finding(5, "the image /a/5.png does not exist.", severity="warning"),
    ]
    assert [(f.severity, f.file, f.row) for f in grouped(found)] == [
        ("error", "rows.jsonl", "1, 2"),
        ("error", "rows.jsonl", "3"),
        ("error", "other.jsonl", "4"),
        ("warning", "rows.jsonl", "5"),
    ]
    assert grouped(found)[0].problem == "2 rows: the image /a/1.png does not exist. Also: /a/2.png."


def test_data_check_prints_a_kind_once(tmp_path, jsonl, capsys):
    from fs_fedmllm.cli import main

    jsonl(tmp_path / "data.jsonl", [row(i, f"gone{i}.png", split=("train", "test")[i % 2]) for i in range(30)])
    assert main(["data", "check", "own", str(tmp_path), "template", "digits_triage"]) == 1
    said = " ".join(capsys.readouterr().out.split())  # a long path breaks the line somewhere else
    assert said.count("does not exist") == 1 and "30 rows: " in said and "own: 30 errors" in said


def test_data_check_prints_labels(leaky, capsys):
    from fs_fedmllm.cli import main

    assert main(["data", "check", "own", str(leaky), "template", "digits_triage", "groups", "[patient]"]) == 0
    said = capsys.readouterr().out
    assert "label          train  val  test" in said and "lower repair       1    0     2" in said
