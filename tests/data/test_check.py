from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fs_fedmllm.data.check import inspect
from fs_fedmllm.data.findings import MAX_ERRORS
from fs_fedmllm.errors import ConfigError


def card(image: str, answer: str = "Yes") -> dict:
    return {"image": image, "question": "Is it?", "answer": answer}


OPTIONS = {"template": "medical"}


def test_every_wrong_row_and_image_is_listed(tmp_path, picture, jsonl):
    picture(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    rows = [card("good.png"), card("gone.png"), card("text.png"), card("lfs.png"), card("good.png", " "), card("../x")]
    path = jsonl(tmp_path / "train.jsonl", rows)
    path.write_text(path.read_text() + "{broken\n")
    dataset, findings = inspect("own", tmp_path, OPTIONS)
    assert dataset is not None and len(dataset.train) == 3
    errors = {(f.row, f.problem.split()[-1]) for f in findings if f.severity == "error"}
    assert {row for row, _ in errors} == {"2", "3", "4", "5", "6", "7"}
    assert all(f.file.endswith("train.jsonl") and f.remedy for f in findings if f.severity == "error")
    assert [f.severity for f in findings] == ["error"] * 6 + ["warning"]
    assert "no test rows" in findings[-1].problem


def test_damaged_pixels_are_found_by_decoding(tmp_path, jsonl):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    jsonl(tmp_path / "train.jsonl", [card("a.jpg")])
    jsonl(tmp_path / "test.jsonl", [{"question": "Is it?", "answer": "Yes"}])
    assert inspect("own", tmp_path, OPTIONS, decode=False)[1] == []
    (finding,) = inspect("own", tmp_path, OPTIONS)[1]
    assert "truncated" in finding.problem and finding.row == "1"


def test_what_cannot_be_read_at_all_is_one_finding(tmp_path):
    (finding,) = inspect("slake", tmp_path)[1]
    assert finding.severity == "error" and "no file test.json" in finding.problem and "Download" in finding.remedy
    with pytest.raises(ConfigError):
        inspect("slake", tmp_path, {"x": 1})


def test_the_list_ends(tmp_path, jsonl):
    jsonl(tmp_path / "train.jsonl", [card("gone.png")] * (MAX_ERRORS + 50))
    findings = inspect("own", tmp_path, OPTIONS)[1]
    assert len([f for f in findings if f.severity == "error"]) == MAX_ERRORS + 1
    assert any("Stopped after 1,000 errors" in f.problem for f in findings)


def test_the_real_set_is_whole_and_its_test_images_are_trained_on(real_data):
    (finding,) = inspect("vqa_rad", real_data / "vqa_rad")[1]
    assert finding.severity == "warning"
    assert finding.problem == (
        "Of 451 test rows, 1 show what a training row shows, and 446 share their image with a training row (202 "
        "images)."
    )
