from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from fs_fedmllm.data.images import open_image
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.slake import read_split
from fs_fedmllm.errors import ConfigError, DataError


def rad(qid: object, phrase: str, **change: object) -> dict:
    row = {
        "qid": qid,
        "phrase_type": phrase,
        "image_name": "synpic1.jpg",
        "image_organ": "HEAD",
        "question": "Is it normal?",
        "question_type": "ABN",
        "answer": "Yes",
        "answer_type": "CLOSED",
    }
    return row | change


ROWS = [
    rad("0", "freeform"),
    rad(1, "para", answer=4, answer_type="OPEN"),
    rad(2, "frame"),
    rad(3, "test_freeform", answer_type="CLOSED "),
    rad(4, "test_para", answer="left lung ", answer_type="OPEN"),
]


@pytest.fixture
def vqa_rad(tmp_path, picture) -> Path:
    home = tmp_path / "vqa_rad" / "osfstorage-archive"
    picture(home / "VQA_RAD Image Folder" / "synpic1.jpg")
    (home / "VQA_RAD Dataset Public.json").write_text(json.dumps(ROWS, indent=3))
    return tmp_path / "vqa_rad"


def official(root: Path) -> Path:
    return next(root.rglob("*Public.json"))


def test_vqa_rad_official_file(vqa_rad):
    data = load_dataset("vqa_rad", vqa_rad)
    assert [(s.id, s.answer, s.kind) for s in data.train] == [("0", "Yes", "closed"), ("1", "4", "open")]
    assert [(s.id, s.answer, s.kind) for s in data.test] == [("3", "Yes", "closed"), ("4", "left lung", "open")]
    assert data.train[0].source.endswith("Public.json:2")
    assert data.train[1].source.endswith("Public.json:12")
    assert data.train[0].keys["organ"] == "HEAD" and data.train[0].text is None
    assert any("1 'frame' rows were dropped" in warning for warning in data.warnings)


def test_vqa_rad_split_by_file(tmp_path, picture):
    picture(tmp_path / "images" / "synpic1.jpg")
    (tmp_path / "trainset.json").write_text(json.dumps([ROWS[0], ROWS[1], ROWS[2]]))
    (tmp_path / "testset.json").write_text(json.dumps([rad(0, "freeform"), rad(9, "para")]))
    data = load_dataset("vqa_rad", tmp_path)
    assert (len(data.train), len(data.test)) == (2, 2), "the file decides, not phrase_type"
    assert data.train[1].source.endswith("trainset.json:1 (row 2)")
    (tmp_path / "testset.json").unlink()
    with pytest.raises(DataError, match=r"testset\.json: the file is missing"):
        load_dataset("vqa_rad", tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (rad(7, "freefrom"), r"Public\.json:52: phrase_type 'freefrom' is unknown"),
        (rad(7, "para", answer_type="YESNO"), r":52: answer_type 'YESNO' is unknown"),
        (rad(7, "para", answer=None), r":52: answer must be text, not None"),
        (rad(7, "para", answer=" "), r":52: answer is empty"),
        (rad(7, "para", image_name="nope.jpg"), r":52: the image .*nope\.jpg does not exist"),
        (rad(7, "para", image_name="../../../x.jpg"), r":52: .*leaves the data folder"),
        (rad("0", "para"), r":52: the id '0' is already used in .*:2"),
        ({"qid": 1}, r":52: the key 'phrase_type' is missing"),
    ],
)
def test_vqa_rad_a_wrong_row_is_named(vqa_rad, row, message):
    official(vqa_rad).write_text(json.dumps([*ROWS, row], indent=3))
    with pytest.raises(DataError, match=message):
        load_dataset("vqa_rad", vqa_rad)


def test_vqa_rad_broken_json_is_named_by_line(vqa_rad):
    path = official(vqa_rad)
    path.write_text(path.read_text().replace('"qid": 3', '"qid" 3'))
    with pytest.raises(DataError, match=r"Public\.json:32: this is not valid JSON"):
        load_dataset("vqa_rad", vqa_rad)


def test_vqa_rad_without_images(vqa_rad):
    (vqa_rad / "osfstorage-archive" / "VQA_RAD Image Folder" / "synpic1.jpg").unlink()
    (vqa_rad / "osfstorage-archive" / "VQA_RAD Image Folder").rmdir()
    with pytest.raises(DataError, match="no image folder"):
        load_dataset("vqa_rad", vqa_rad)
    assert len(load_dataset("vqa_rad", vqa_rad, {"require_images": False}).train) == 2


def test_vqa_rad_real(real_data):
    data = load_dataset("vqa_rad", real_data / "vqa_rad")
    assert (len(data.train), len(data.test), data.warnings) == (1797, 451, ())
    assert Counter(sample.kind for sample in data.test) == {"open": 179, "closed": 272}
    assert Counter(sample.kind for sample in data.train) == {"open": 770, "closed": 1027}
    assert all(isinstance(sample.answer, str) for sample in data.train)
    assert len({sample.answer.isdecimal() and sample.answer for sample in data.train}) > 1
    first: dict[str, str] = {}
    for sample in (*data.train, *data.test):
        first.setdefault(str(sample.image), sample.source)
    assert len(first) == 314
    for path, where in first.items():
        assert open_image(path, where).mode == "RGB"


def test_slake_layouts_and_languages(tmp_path, picture):
    def row(qid: int, language: str) -> dict:
        row = {"qid": qid, "img_name": f"xmlab{qid}/source.jpg", "question": "q?", "answer": "MRI", "q_lang": language}
        return row | {"answer_type": "OPEN", "location": "Head", "content_type": "Modality"}

    home = tmp_path / "Slake1.0" / "Slake1.0"
    rows = [row(1, "en"), row(2, "zh")]
    for qid in (1, 2):
        picture(home / "imgs" / f"xmlab{qid}" / "source.jpg")
    (home / "test.json").write_text(json.dumps(rows))
    data = load_dataset("slake", tmp_path)
    assert [s.keys["language"] for s in data.test] == ["en", "zh"] and data.train == data.val == []
    assert [s.id for s in load_dataset("slake", tmp_path, {"language": "zh"}).test] == ["2"]
    assert data.test[0].kind == "open" and data.test[0].keys["organ"] == "Head"
    with pytest.raises(ConfigError, match="language must be one of both, en, zh"):
        load_dataset("slake", tmp_path, {"language": "fr"})
    (home / "test.json").write_text(json.dumps([*rows, row(3, "fr")]))
    with pytest.raises(DataError, match=r"test\.json:1 \(row 3\): q_lang 'fr' is unknown"):
        load_dataset("slake", tmp_path)


def test_slake_real(real_data):
    root = real_data / "slake"

    def count(split: str, language: str) -> int:
        return len(read_split(root, split, language=language, require_images=False))

    assert count("train", "both") == 9835 - 1, "one answer of the Chinese training rows is empty"
    assert count("val", "both") == 2099
    assert count("test", "both") == 2094
    assert (count("test", "en"), count("test", "zh")) == (1061, 1033)
    english = load_dataset("slake", root, {"language": "en", "require_images": False})
    assert Counter(sample.kind for sample in english.test) == {"open": 645, "closed": 416}
    assert english.warnings == ()
    with pytest.raises(DataError, match=r"no folder imgs.*Unpack imgs\.zip"):
        load_dataset("slake", root)


def card(question: str, answer: str, **more: str) -> dict:
    return {"instruction": "Answer this question truthfully", "input": question, "output": answer, **more}


def test_flashcards(tmp_path):
    rows = [card("What is A?", "a thing"), card("", "x"), card("What is B?", "  "), card("What is C?", "a thing")]
    (tmp_path / "medical_meadow_wikidoc_medical_flashcards.json").write_text(json.dumps(rows))
    data = load_dataset("flashcards", tmp_path)
    assert [(s.id, s.question, s.answer) for s in data.train] == [
        ("1-1", "What is A?", "a thing"),
        ("1-4", "What is C?", "a thing"),
    ]
    assert data.train[0].image is None and data.train[0].keys["data_type"] == "text"
    assert "2 rows with an empty input or output were dropped." in data.warnings[0]
    assert "4 rows where the published set has 33,955" in data.warnings[1]
    capped = load_dataset("flashcards", tmp_path, {"max_repeats": 1})
    assert len(capped.train) == 1 and any("1 rows were dropped" in warning for warning in capped.warnings)


def test_flashcards_are_split_by_disease(tmp_path, jsonl):
    rows = [card(f"question {i}?", f"answer {i}", focus=f"disease {i % 40}") for i in range(400)]
    jsonl(tmp_path / "cards.jsonl", rows)
    options = {"val_share": 0.25, "test_share": 0.25}
    data = load_dataset("flashcards", tmp_path, options)
    parts = [{s.keys["disease"] for s in part} for part in (data.train, data.val, data.test)]
    assert all(parts) and sum(map(len, parts)) == 40, "no disease in two parts"
    assert load_dataset("flashcards", tmp_path, options) == data
    with pytest.raises(ConfigError, match="both shares"):
        load_dataset("flashcards", tmp_path, {"val_share": 0.5, "test_share": 0.5})


@pytest.mark.parametrize(
    ("row", "message"),
    [({"input": "q"}, r":2: the key 'output' is missing"), (card("q", None), ":2: output must be text")],  # type: ignore[arg-type]
)
def test_flashcards_a_wrong_row_is_named(tmp_path, jsonl, row, message):
    jsonl(tmp_path / "cards.jsonl", [card("q", "a"), row])
    with pytest.raises(DataError, match=message):
        load_dataset("flashcards", tmp_path)


def test_medquad_real(real_data):
    data = load_dataset("flashcards", real_data / "medquad")
    assert len(data.train) == 3246
    assert any("One answer is given in 348 rows. Set max_repeats" in warning for warning in data.warnings)
    capped = load_dataset("flashcards", real_data / "medquad", {"max_repeats": 20, "val_share": 0.1})
    assert max(Counter(s.answer for s in (*capped.train, *capped.val)).values()) == 20
    diseases = [{s.keys["disease"] for s in part} for part in (capped.train, capped.val)]
    assert not diseases[0] & diseases[1] and all(diseases)


def test_medical_real(real_data):
    options = {"flashcards": "medquad", "max_repeats": 20}
    data = load_dataset("medical", real_data, options)
    kinds = Counter(sample.keys["data_type"] for sample in data.train)
    assert kinds == {"image": 1797, "text": 2868}
    assert len({sample.id for sample in data.train}) == len(data.train)
    assert all((sample.image is None) == (sample.keys["data_type"] == "text") for sample in data.train)
    assert Counter(sample.kind for sample in data.test) == {"open": 179, "closed": 272}
    both = load_dataset("medical", real_data, options | {"test": "both", "require_images": False, "language": "en"})
    assert Counter(sample.keys["set"] for sample in both.test) == {"vqa_rad": 451, "slake": 1061}
    assert len({sample.id for sample in both.test}) == 1512
    assert both.fingerprint != data.fingerprint


def test_medical_names_the_folder_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no folder .*vqa_rad; put the data there.*option vqa_rad"):
        load_dataset("medical", tmp_path)


@pytest.mark.parametrize("away", ["../elsewhere", "/tmp"])
def test_a_folder_of_the_medical_set_is_below_the_data_root(tmp_path, away):
    with pytest.raises(ConfigError, match=r"medical: the option vqa_rad must be a folder below data\.root"):
        load_dataset("medical", tmp_path, {"vqa_rad": away})
