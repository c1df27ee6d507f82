from __future__ import annotations

import json
from pathlib import Path

import pytest

from fs_fedmllm.data.records import write_records
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError, DataError

OPTIONS = {"template": "hateful_memes"}


def meme(number: int, image: str | None, text: str | None) -> Sample:
    template = load_template("hateful_memes")
    label = number % 2
    return Sample(str(number), image, text, template.answer(label), label=label)


@pytest.fixture
def samples(tmp_path, picture) -> list[Sample]:
    image = str(picture(tmp_path / "img" / "00001.png"))
    texts = ["plain", "two\nlines", "", "ends in.\nIs the content hateful", None]
    pairs = [(i, t) for i in (image, None) for t in texts]
    return [meme(n, i, t) for n, (i, t) in enumerate(pairs)]


@pytest.mark.parametrize("variant", ["original", "augmented"])
def test_what_is_written_is_read_back(tmp_path, samples, variant):
    write_records(samples, tmp_path / "client_0.json", load_template("hateful_memes"), variant)
    data = load_dataset("records", tmp_path, OPTIONS)
    fields = ("id", "image", "text", "answer", "label", "question", "presence")
    for ours, read in zip(samples, data.train, strict=True):
        assert [getattr(ours, f) for f in fields] == [getattr(read, f) for f in fields]
    assert data.train[0].keys == {"client": "client_0"} and data.train[0].source.endswith("client_0.json:2")


def test_the_format_is_the_authors(tmp_path, samples):
    path = tmp_path / "client_0.json"
    assert write_records(samples, path, load_template("hateful_memes")) == 10
    records = json.loads(path.read_text())
    assert list(records[0]) == ["id", "image", "conversations"]
    assert records[1]["id"] == 1 and records[5]["image"] is None
    assert records[0]["conversations"] == [
        {
            "role": "user",
            "content": load_template("hateful_memes").record_prompt(samples[0]),
        },
        {"role": "assistant", "content": "(A) not-hateful"},
    ]
    crisis = Sample("917791044158185473_0", None, "t", "(A) affected_individuals", label=0)
    write_records([crisis], path, load_template("crisismmd"))
    assert json.loads(path.read_text())[0]["id"] == "917791044158185473_0"
    write_records([], path, load_template("crisismmd"))
    assert json.loads(path.read_text()) == []


def test_a_record_typed_by_hand(tmp_path, picture):
    picture(tmp_path / "raw_data" / "img" / "01234.png")
    record = {
        "id": 1234,
        "image": "/path/to/data/hateful_memes/raw_data/img/01234.png",
        "conversations": [
            {
                "role": "user",
                "content": "<image>\nSelect the best answer to the following multiple-choice question based on "
                "the text and image.\nlook\n"
                "Is the content hateful based on the text and image?\nOptions:\n(A) not-hateful\n"
                "(B) hateful\nAnswer with the option's letter from the given choices directly and only give the best "
                "option. The best answer is: ",
            },
            {"role": "assistant", "content": "(B) hateful"},
        ],
    }
    (tmp_path / "client_3.json").write_text(json.dumps([record]))
    with pytest.raises(DataError, match=r"client_3\.json:1 \(row 1\): .*leaves the data folder.*Set image_prefix"):
        load_dataset("records", tmp_path, OPTIONS)
    options = OPTIONS | {"image_prefix": "/path/to/data/hateful_memes"}
    row = load_dataset("records", tmp_path, options).train[0]
    assert (row.text, row.label, row.image) == ("look", 1, str(tmp_path / "raw_data" / "img" / "01234.png"))
    options = OPTIONS | {"image_prefix": "/path/to/data/hateful_memes/raw_data", "image_root": "raw_data"}
    assert load_dataset("records", tmp_path, options).train[0].image == row.image


@pytest.mark.parametrize("variant", ["original", "augmented"])
def test_medical_records(tmp_path, picture, variant):
    image = str(picture(tmp_path / "a.jpg"))
    rows = [Sample("1", image, None, "Yes", question="Is it?"), Sample("2", None, None, "a", question="What?")]
    write_records(rows, tmp_path / "client_0.json", load_template("medical"), variant)
    data = load_dataset("records", tmp_path, {"template": "medical"})
    assert [(s.question, s.image, s.answer) for s in data.train] == [("Is it?", image, "Yes"), ("What?", None, "a")]


def test_files_are_taken_in_number_order_and_repeated_ids_told_apart(tmp_path, samples):
    for client in (0, 2, 10):
        write_records(samples[:2], tmp_path / f"client_{client}.json", load_template("hateful_memes"))
    data = load_dataset("records", tmp_path, OPTIONS)
    assert [s.keys["client"] for s in data.train[::2]] == ["client_0", "client_2", "client_10"]
    assert [s.id for s in data.train] == ["0", "1", "0#2", "1#2", "0#3", "1#3"]
    assert any("4 ids of train are used more than once" in warning for warning in data.warnings)


def change(record: dict, **more: object) -> dict:
    return json.loads(json.dumps(record)) | more


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"image": None}, "the prompt has <image> but the record has no image"),
        ({"image": {"<image_00>": "a", "<image_01>": "b"}}, "the record has 2 images"),
        ({"conversations": []}, "conversations must be one turn"),
        ({"conversations": [{"role": "user", "content": "x"}, {"role": "assistant"}]}, "no content"),
    ],
)
def test_a_wrong_record_is_named(tmp_path, samples, more, message):
    path = tmp_path / "client_0.json"
    write_records(samples[:1], path, load_template("hateful_memes"))
    (record,) = json.loads(path.read_text())
    path.write_text(json.dumps([record, record | more], indent=0))
    with pytest.raises(DataError, match=rf"client_0\.json:\d+: .*{message}"):
        load_dataset("records", tmp_path, OPTIONS)


def test_another_templates_records_are_refused(tmp_path, samples):
    write_records(samples, tmp_path / "client_0.json", load_template("hateful_memes"))
    with pytest.raises(DataError, match=r"client_0\.json:2: the answer '\(A\) not-hateful' is none of the options"):
        load_dataset("records", tmp_path, {"template": "crisismmd"})
    path = tmp_path / "client_0.json"
    path.write_text(path.read_text().replace("Select the best", "Choose the best"))
    with pytest.raises(DataError, match="the prompt is not one of the template 'hateful_memes'"):
        load_dataset("records", tmp_path, OPTIONS)


def test_patterns_stay_inside_the_root(tmp_path):
    with pytest.raises(ConfigError, match="must be a pattern of files inside"):
        load_dataset("records", tmp_path, OPTIONS | {"train": "../*.json"})
    with pytest.raises(DataError, match="no file matches"):
        load_dataset("records", tmp_path, OPTIONS)


def test_nothing_half_written_is_left_behind(tmp_path, samples):
    def broken():
        yield samples[0]
        raise RuntimeError

    target: Path = tmp_path / "client_0.json"
    with pytest.raises(RuntimeError):
        write_records(broken(), target, load_template("hateful_memes"))
    assert not target.exists()
