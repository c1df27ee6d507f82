"""Columns under other names: taken where the name is known, mapped where the user says so, else refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from fs_fedmllm.data.check import inspect
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.errors import ConfigError, DataError

TRIAGE = {"template": "digits_triage"}


@pytest.fixture
def desk(tmp_path, picture, jsonl):
    """Writes rows with an image, a text and a label, changed as the test says, and returns the folder."""
    for i in range(4):
        picture(tmp_path / f"{i}.png", colour=(40 * i, 0, 0))

    def write(change) -> Path:
        rows = [
            {"id": i, "image": f"{i}.png", "text": f"please fix item {i}", "label": i, "split": "train"}
            for i in range(4)
        ]
        rows += [{**row, "split": "test"} for row in rows]
        jsonl(tmp_path / "data.jsonl", [change(row) for row in rows])
        return tmp_path

    return write


def to(**names: str):
    """A change that renames columns: ``to(image="img")``."""
    return lambda row: {names.get(key, key): value for key, value in row.items()}


@pytest.mark.parametrize(
    "value", [lambda x: [x], lambda x: x, lambda x: [{"bytes": None, "path": x}], lambda x: {"path": x}]
)
@pytest.mark.parametrize("name", ["images", "image"])
def test_images_are_a_list_of_one(desk, name, value):
    root = desk(lambda row: {**{k: v for k, v in row.items() if k != "image"}, name: value(row["image"])})
    dataset = load_dataset("own", root, TRIAGE)
    assert [row.image for row in dataset.train] == [str(root / f"{i}.png") for i in range(4)]
    assert inspect("own", root, TRIAGE)[1] == [] or name  # nothing but, at most, what the rows themselves are


def test_an_empty_list_is_no_image_and_two_are_refused(desk):
    root = desk(lambda row: {**row, "image": None, "images": []})
    assert {row.presence for row in load_dataset("own", root, TRIAGE).train} == {"text"}
    root = desk(lambda row: {**row, "image": [row["image"], row["image"]]})
    with pytest.raises(DataError, match=r"data\.jsonl:1: the row has 2 images\. Only one image a row"):
        load_dataset("own", root, TRIAGE)
    root = desk(lambda row: {**row, "images": [row["image"]]})
    with pytest.raises(DataError, match=r"data\.jsonl:1: the row has image and images\."):
        load_dataset("own", root, TRIAGE)


@pytest.mark.parametrize(
    "name",
    [
        "image_path",
        "img",
        "Image",
        "IMAGE",
        "file_name",
        "filename",
        "photo",
        "picture",
        "xray",
        "imageFile",
        "scan",
        "path",
    ],
)
def test_an_unread_column_of_images_is_named_with_the_mapping(desk, name):
    root = desk(to(image=name))
    with pytest.raises(DataError, match=rf"no image beside '{name}'.*columns: \{{image: {name}\}}"):
        load_dataset("own", root, TRIAGE)
    dataset = load_dataset("own", root, TRIAGE | {"columns": {"image": name}})
    assert {row.presence for row in dataset.train} == {"both"}
    dataset = load_dataset("own", root, TRIAGE | {"columns": {"image": ""}})
    assert {row.presence for row in dataset.train} == {"text"}, "the user says that it is none"


@pytest.mark.parametrize(
    "name", ["caption", "note", "report", "Text", "sentence", "content", "tweet_text", "clinicalNote", "findings"]
)
def test_an_unread_column_of_texts_is_named_with_the_mapping(desk, name):
    root = desk(to(text=name))
    with pytest.raises(DataError, match=rf"no text beside '{name}'.*columns: \{{text: {name}\}}"):
        load_dataset("own", root, TRIAGE)
    dataset = load_dataset("own", root, TRIAGE | {"columns": {"text": name}})
    assert dataset.train[3].text == "please fix item 3"


def test_a_column_is_known_by_its_values_too(desk):
    root = desk(
        lambda row: {**to(image="where", text="what")(row), "what": "the patient has had a cough for two weeks"}
    )
    with pytest.raises(DataError, match=r"columns: \{image: where, text: what\}"):
        load_dataset("own", root, TRIAGE)


@pytest.mark.parametrize(
    "value", ["https://x.org/{}.png", "data:image/png;base64,iVBOR{}", {"bytes": "", "path": "{}"}]
)
def test_images_in_other_forms_are_known_by_their_values(desk, value):
    root = desk(lambda row: {**to(image="where")(row), "where": value})
    with pytest.raises(DataError, match=r"columns: \{image: where\}"):
        load_dataset("own", root, TRIAGE)


def test_names_that_change_within_a_file_are_noticed(desk):
    root = desk(lambda row: row if row["id"] % 2 else to(image="img")(row))
    with pytest.raises(DataError, match="no image beside 'img'"):
        load_dataset("own", root, TRIAGE)


def test_a_question_does_not_excuse_an_empty_row_of_a_choice(desk):
    root = desk(lambda row: {"label": row["label"], "split": row["split"], "question": "what?"})
    with pytest.raises(DataError, match=r"data\.jsonl:1: the row has no image and no text\."):
        load_dataset("own", root, TRIAGE)
    root = desk(lambda row: {**row, "question": "what?"})
    assert any("question is not shown" in warning for warning in load_dataset("own", root, TRIAGE).warnings)


@pytest.mark.parametrize(
    "more",
    [
        {"image_id": "12", "width": 32, "lang": "en", "source": "ward 3", "uid": "a-b-c"},
        {"mask": "0.png", "explanation": "because the digit in the picture is larger than four"},
        {"images_count": 1, "text_length": 11, "note_id": "n7"},
    ],
)
def test_other_columns_stop_nothing_and_are_listed(desk, more):
    root = desk(lambda row: {**row, **more})
    dataset, findings = inspect("own", root, TRIAGE)
    assert dataset is not None and len(dataset.train) == 4 and dataset.warnings == ()
    (said,) = [finding.problem for finding in findings if finding.severity == "note"]
    assert said == f"Columns that are not read: {', '.join(more)}."


def test_without_a_modality_columns_of_other_things_are_not_taken_for_it(desk):
    more = {
        "image_id": "12",
        "width": 32,
        "lang": "en",
        "author": "Anna of the ward for small children",
        "note_id": "n7",
    }
    root = desk(lambda row: {**{k: v for k, v in row.items() if k != "image"}, **more})
    assert {row.presence for row in load_dataset("own", root, TRIAGE).train} == {"text"}
    root = desk(lambda row: {**{k: v for k, v in row.items() if k != "text"}, **more})
    assert {row.presence for row in load_dataset("own", root, TRIAGE).train} == {"image"}


def test_a_label_under_another_name_is_named(desk):
    root = desk(to(label="category"))
    with pytest.raises(DataError, match=r"no label beside 'category'.*columns: \{label: category\}"):
        load_dataset("own", root, TRIAGE)
    assert load_dataset("own", root, TRIAGE | {"columns": {"label": "category"}}).train[2].label == 2


def test_data_check_says_it_once_and_goes_on(desk):
    root = desk(to(image="image_path", text="caption"))
    findings = inspect("own", root, TRIAGE)[1]
    said = [finding for finding in findings if "looks like it" in finding.problem]
    assert (
        len(said) == 1 and "image_path" in said[0].problem and "{image: image_path, text: caption}" in said[0].remedy
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": "image"}, "columns has no field 'picture'. Fields are id, image"),
        ({"split": "part"}, "split_column"),
        ({"image": 3}, r"columns\.image must be the name"),
        ({"image": "text", "text": "text"}, "names 'text' for two fields"),
        ({"text": "nowhere"}, r"no such column \(columns here: id, image, text, label, split\)"),
        ("image", "columns must map fields"),
    ],
)
def test_a_mapping_that_cannot_be(desk, columns, message):
    with pytest.raises((ConfigError, DataError), match=message):
        load_dataset("own", desk(dict), TRIAGE | {"columns": columns})


def test_a_split_that_contradicts_its_file(desk, jsonl, picture):
    root = desk(dict)
    (root / "data.jsonl").rename(root / "train.jsonl")
    with pytest.raises(
        DataError, match=r"train\.jsonl:5: the column 'split' says 'test' in the file of the train rows"
    ):
        load_dataset("own", root, TRIAGE)


def test_two_files_for_one_split_are_refused(desk, jsonl):
    root = desk(dict)
    (root / "data.json").write_text("[]")
    with pytest.raises(DataError, match=r"there are data\.json and data\.jsonl\. Name the one to read"):
        load_dataset("own", root, TRIAGE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("https://example.org/a.png", r"'https://example\.org/a\.png' is a URL\. Nothing is downloaded"),
        ("s3://bucket/a.png", "is a URL"),
        ("file:///data/a.png", r"is a URL\. Give the path alone"),
        ("data:image/png;base64,iVBORw0KGgo=", r"is a data: URI .*Decode it"),
        ("iVBORw0KGgo" + 100 * "AAAA", "looks like base64"),
        ("scans\\0.png", r"has backslashes \(Windows\)\. Write it with slashes, scans/0\.png"),
        ("..\\..\\0.png", r"the image path '\.\./\.\./0\.png' leaves the data folder"),
        ("C:\\scans\\0.png", "has backslashes"),
        ("~/0.png", "begins with ~"),
        ({"url": "x"}, "the image is a mapping of url"),
        ({"bytes": "iVBOR", "path": None}, "bytes are str, not bytes"),
        ([[1, 2], [3, 4]], "has 2 images"),
        ([[1, 2]], "'list' is not a path"),
    ],
)
def test_what_is_no_path_is_called_what_it_is(desk, value, message):
    with pytest.raises(DataError, match=rf"data\.jsonl:1: .*{message}") as error:
        load_dataset("own", desk(lambda row: {**row, "image": value}), TRIAGE)
    assert len(str(error.value)) < 600


def test_a_column_of_raw_bytes(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    from PIL import Image

    from fs_fedmllm.data.images import ImageFolder, open_image

    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), "blue").save(buffer, "PNG")
    rows = [
        {"image": buffer.getvalue(), "text": "t", "label": i % 8, "split": ("train", "test")[i % 2]} for i in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    dataset = load_dataset("own", tmp_path, TRIAGE | {"extract_images": "out"})
    assert open_image(dataset.train[0].image).size == (3, 2)
    renamed = [{("scan" if key == "image" else key): value for key, value in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(renamed), tmp_path / "data.parquet")
    with pytest.raises(DataError, match="no image beside 'scan'"):
        load_dataset("own", tmp_path, TRIAGE)
    with pytest.raises(DataError, match=r"^w: the image is raw bytes, where a path is expected"):
        ImageFolder(tmp_path).resolve(buffer.getvalue(), "w")  # type: ignore[arg-type]


def test_questions_of_their_own_that_a_choice_does_not_show_are_a_text(desk):
    def asks(row):
        return {**{k: v for k, v in row.items() if k != "text"}, "question": f"is {row['id']} broken?"}

    root = desk(asks)
    with pytest.raises(DataError, match=r"no text beside 'question'.*columns: \{text: question\}"):
        load_dataset("own", root, TRIAGE)
    dataset = load_dataset("own", root, {**TRIAGE, "columns": {"text": "question"}})
    assert dataset.train[1].text == "is 1 broken?" and not any("not shown" in said for said in dataset.warnings)
    for field in ("text", "question"):  # said to be none
        assert load_dataset("own", root, {**TRIAGE, "columns": {field: ""}}).train[1].text is None
    root = desk(lambda row: {**asks(row), "text": row["text"]})
    assert any("question is not shown" in said for said in load_dataset("own", root, TRIAGE).warnings)


@pytest.mark.parametrize("turn", [{"role": "user", "content": "help"}, {"from": "human", "value": "help"}])
def test_conversations_are_called_what_they_are(desk, turn):
    for name in ("messages", "conversations"):
        root = desk(lambda row, name=name: {"id": row["id"], "split": row.get("split"), name: [turn]})
        with pytest.raises(DataError, match=r"jsonl:1: the conversation's turns are user\. A row is one"):
            load_dataset("own", root, TRIAGE)
    root = desk(lambda row: {**to(text="dialogue")(row), "dialogue": [turn]})
    with pytest.raises(DataError, match=r"'dialogue' holds conversations.*in columns of their own"):
        load_dataset("own", root, TRIAGE)
