"""Hateful Memes may not be redistributed: these files have its names, fields and counts, and nothing of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.errors import DataError


def rows(start: int, count: int, labelled: bool = True) -> list[dict]:
    made = []
    for i in range(start, start + count):
        row = {"id": i, "img": f"img/{i:05d}.png", "text": f"caption {i}"}
        made.append({**row, "label": i % 2} if labelled else row)
    return made


@pytest.fixture
def memes(tmp_path, picture, jsonl) -> Path:
    splits = {"train": rows(0, 6), "dev_seen": rows(10, 2), "test_seen": rows(20, 4), "test": rows(20, 4, False)}
    for name, made in splits.items():
        jsonl(tmp_path / "data" / f"{name}.jsonl", made)
        for row in made:
            picture(tmp_path / "data" / row["img"])
    return tmp_path


def test_reads_the_official_layout_even_when_nested(memes):
    for root in (memes, memes / "data"):
        data = load_dataset("hateful_memes", root)
        assert [len(part) for part in (data.train, data.val, data.test)] == [6, 2, 4]
    first = data.train[1]
    assert (first.id, first.text, first.label, first.answer) == ("1", "caption 1", 1, "(B) hateful")
    assert first.image == str(memes / "data" / "img" / "00001.png")
    assert first.source.endswith("train.jsonl:2")
    assert data.template == "hateful_memes" and len(data.fingerprint) == 64
    assert "train.jsonl: 6 rows where the published set has 8,500." in data.warnings[0]


def test_a_changed_file_changes_the_fingerprint(memes, jsonl):
    before = load_dataset("hateful_memes", memes).fingerprint
    assert load_dataset("hateful_memes", memes).fingerprint == before
    jsonl(memes / "data" / "train.jsonl", rows(0, 5))
    assert load_dataset("hateful_memes", memes).fingerprint != before


def test_an_unlabelled_test_says_which_file_to_use(memes):
    with pytest.raises(DataError, match=r"test\.jsonl:1: the rows have no label.*test_seen\.jsonl"):
        load_dataset("hateful_memes", memes, {"test": "test"})
    (memes / "data" / "test_seen.jsonl").unlink()
    with pytest.raises(DataError, match=r"test\.jsonl is there, but has no labels\. Use test_seen\.jsonl"):
        load_dataset("hateful_memes", memes)
    assert len(load_dataset("hateful_memes", memes, {"test": "dev_seen"}).test) == 2


def test_a_labelled_test_file_stands_in(memes, jsonl):
    (memes / "data" / "test_seen.jsonl").unlink()
    jsonl(memes / "data" / "test.jsonl", rows(20, 4))
    data = load_dataset("hateful_memes", memes)
    assert len(data.test) == 4
    assert any("Used as the test split" in warning for warning in data.warnings)


def test_phase_one_names(memes):
    (memes / "data" / "dev_seen.jsonl").rename(memes / "data" / "dev.jsonl")
    assert len(load_dataset("hateful_memes", memes).val) == 2
    (memes / "data" / "dev.jsonl").unlink()
    data = load_dataset("hateful_memes", memes)
    assert data.val == [] and any("best round" in warning for warning in data.warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, r"train\.jsonl:7: label 2 is none of the options\. Give 0 \(not-hateful\) or 1 \(hateful\)"),
        ({"label": True}, "label True is none"),
        ({"img": "img/99999.png"}, r"train\.jsonl:7: the image .*99999\.png does not exist\. Unpack"),
        ({"img": "../../etc/passwd"}, r"train\.jsonl:7: .*leaves the data folder"),
        ({"id": 3}, r"train\.jsonl:7: the id '3' is already used in .*train\.jsonl:4"),
        ({"text": None}, r"train\.jsonl:7: text must be text, not None"),
    ],
)
def test_a_wrong_row_is_named(memes, jsonl, change, message):
    good = rows(0, 6)
    jsonl(
        memes / "data" / "train.jsonl", [*good, {"id": 77, "img": "img/00001.png", "text": "x", "label": 0} | change]
    )
    with pytest.raises(DataError, match=message):
        load_dataset("hateful_memes", memes)


@pytest.mark.parametrize("key", ["id", "img", "text", "label"])
def test_a_missing_key_is_named(memes, jsonl, key):
    made = rows(0, 3)
    del made[1][key]
    jsonl(memes / "data" / "train.jsonl", made)
    with pytest.raises(DataError, match=rf"train\.jsonl:2: the key '{key}' is missing \(keys here"):
        load_dataset("hateful_memes", memes)


def test_bad_lines_are_named(memes):
    path = memes / "data" / "train.jsonl"
    good = path.read_bytes()
    for bad, message in (
        (b'{"id": 1,\n', "not valid JSON"),
        (b"[1]\n", "object is expected"),
        (b'{"a": "\xff"}\n', "UTF-8"),
    ):
        path.write_bytes(good + bad)
        with pytest.raises(DataError, match=rf"train\.jsonl:7: .*{message}"):
            load_dataset("hateful_memes", memes)


def test_an_annotation_file_that_is_a_git_lfs_pointer(memes):
    (memes / "data" / "train.jsonl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")
    with pytest.raises(DataError, match=r"train\.jsonl is a Git LFS pointer"):
        load_dataset("hateful_memes", memes)


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"no file train\.jsonl in this folder.*Accept the licence"):
        load_dataset("hateful_memes", tmp_path)


def test_two_editions_in_one_folder_are_not_guessed_between(memes, jsonl):
    jsonl(memes / "other" / "train.jsonl", rows(0, 1))
    with pytest.raises(DataError, match=r"train\.jsonl is there twice"):
        load_dataset("hateful_memes", memes)


def test_the_published_size_reads_without_warnings(tmp_path, jsonl):
    parts = {"train": rows(0, 8500), "dev_seen": rows(10000, 500), "test_seen": rows(20000, 1000)}
    (tmp_path / "img").mkdir()
    for name, made in parts.items():
        jsonl(tmp_path / f"{name}.jsonl", made)
        for row in made:
            (tmp_path / row["img"]).touch()
    data = load_dataset("hateful_memes", tmp_path)
    assert data.warnings == () and len(data.train) == 8500
    assert json.dumps(data.train[-1].label) == "1"
