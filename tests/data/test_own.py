from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from fs_fedmllm.data.images import open_image
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError, DataError

CASES = "\n".join(f'  {c}: {{basis: "", question: "Which ward"}}' for c in ("both", "text", "image", "neither"))
WARDS = f"""
task: choice
metric: macro_f1
options: [heart, lung, bone]
instruction: Choose
closing: "Answer: "
original:
{CASES}
augmented:
{CASES}
"""


def ward(number: int, **more: object) -> dict:
    return {"id": f"r{number}", "image": "scan/a.png", "text": f"note {number}", "label": number % 3, **more}


@pytest.fixture
def clinic(tmp_path, picture, jsonl) -> Path:
    picture(tmp_path / "scan" / "a.png")
    (tmp_path / "wards.yaml").write_text(WARDS)
    jsonl(tmp_path / "train.jsonl", [ward(i, site=f"s{i % 2}") for i in range(6)])
    jsonl(tmp_path / "test.jsonl", [ward(i, site="s9") for i in range(3)])
    return tmp_path


OPTIONS = {"template": "wards.yaml"}


def test_jsonl_with_a_file_a_split(clinic):
    data = load_dataset("own", clinic, OPTIONS | {"groups": ["site"]})
    assert [len(part) for part in (data.train, data.val, data.test)] == [6, 0, 3]
    row = data.train[1]
    assert (row.id, row.text, row.label, row.answer, row.keys) == ("r1", "note 1", 1, "(B) lung", {"site": "s1"})
    assert row.image == str(clinic / "scan" / "a.png") and row.source.endswith("train.jsonl:2")
    assert load_template(data.template).prompt(row) == (
        "Choose.\nnote 1\nWhich ward?\nOptions:\n(A) heart\n(B) lung\n(C) bone\nAnswer: "
    )
    assert data.warnings == ()


def test_one_file_with_a_split_column(tmp_path, clinic, jsonl):
    names = ["train", "Train", "validation", "dev", "test", "val"]
    jsonl(clinic / "all.jsonl", [ward(i, part=name) for i, name in enumerate(names)])
    data = load_dataset("own", clinic, OPTIONS | {"file": "all.jsonl", "split_column": "part"})
    assert [len(part) for part in (data.train, data.val, data.test)] == [2, 3, 1]
    jsonl(clinic / "all.jsonl", [ward(0, part="holdout")])
    with pytest.raises(DataError, match=r"all\.jsonl:1: the column 'part' says 'holdout', which is not a split"):
        load_dataset("own", clinic, OPTIONS | {"file": "all.jsonl", "split_column": "part"})


@pytest.mark.parametrize("value", [1, 1.0, "1", "B", "lung", " lung ", "(B) lung"])
def test_ways_to_write_a_label(clinic, jsonl, value):
    jsonl(clinic / "train.jsonl", [ward(0, label=value)])
    assert load_dataset("own", clinic, OPTIONS).train[0].label == 1
    row = ward(0, answer=value)
    del row["label"]
    jsonl(clinic / "train.jsonl", [row])
    assert load_dataset("own", clinic, OPTIONS).train[0].answer == "(B) lung"


@pytest.mark.parametrize("value", [3, -1, True, 1.5, float("nan"), float("inf"), "liver", None, [1]])
def test_a_label_outside_the_options(clinic, jsonl, value):
    jsonl(clinic / "train.jsonl", [ward(0, label=value)])
    with pytest.raises(
        DataError, match=r"train\.jsonl:1: label (.* is none of the options\. Give one of 0 = A = h|is empty)"
    ):
        load_dataset("own", clinic, OPTIONS)


def test_blanks_and_nulls_are_missing_modalities(clinic, jsonl):
    rows = [
        ward(0, image=None),
        ward(1, text=None),
        ward(2, text="  "),
        ward(3, image=""),
        ward(4, image=float("nan")),
    ]
    jsonl(clinic / "train.jsonl", rows)
    assert [s.presence for s in load_dataset("own", clinic, OPTIONS).train] == [
        "text",
        "image",
        "image",
        "text",
        "text",
    ]
    jsonl(clinic / "train.jsonl", [ward(0, image=None, text=None)])
    with pytest.raises(DataError, match=r"train\.jsonl:1: the row has no image and no text\."):
        load_dataset("own", clinic, OPTIONS)


def test_questions_and_answers(clinic, jsonl):
    rows = [
        {"image": "scan/a.png", "question": "Broken?", "answer": "Yes"},
        {"image": "scan/a.png", "question": "Where?", "answer": 4, "kind": "closed"},
        {"question": "What is it?", "answer": "a bone"},
    ]
    jsonl(clinic / "train.jsonl", rows)
    jsonl(clinic / "test.jsonl", rows[:1])
    data = load_dataset("own", clinic, {"template": "medical"})
    assert [(s.id, s.answer, s.kind) for s in data.train] == [
        ("1", "Yes", "closed"),
        ("2", "4", "closed"),
        ("3", "a bone", "open"),
    ]
    jsonl(clinic / "train.jsonl", [{"image": "scan/a.png", "answer": "Yes"}])
    with pytest.raises(DataError, match=r"train\.jsonl:1: question is empty"):
        load_dataset("own", clinic, {"template": "medical"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "../a.png"}, "leaves the data folder"),
        ({"image": "/etc/hostname"}, "leaves the data folder"),
        ({"image": "link.png"}, "symbolic link out"),
        ({"image": "scan/b.png"}, "does not exist"),
        ({"image": 3}, "is not a path"),
        ({"id": "r0"}, r"the id 'r0' is already used in .*train\.jsonl:1"),
        ({"site": None}, "the group column 'site' is empty"),
        ({"text": ["a"]}, "text must be text"),
    ],
)
def test_a_wrong_row_is_named(clinic, jsonl, change, message):
    if not os.path.lexists(clinic / "link.png"):
        os.symlink("/etc/hostname", clinic / "link.png")
    jsonl(clinic / "train.jsonl", [ward(0, site="s"), ward(1, site="s") | change])
    with pytest.raises(DataError, match=rf"train\.jsonl:2: .*{message}"):
        load_dataset("own", clinic, OPTIONS | {"groups": ["site"]})


def test_options_that_cannot_be(clinic):
    with pytest.raises(ConfigError, match="No prompt template 'nowhere'"):
        load_dataset("own", clinic, {"template": "nowhere"})
    with pytest.raises(ConfigError, match="groups must be a list"):
        load_dataset("own", clinic, OPTIONS | {"groups": "site"})
    with pytest.raises(ConfigError, match="must be a folder inside"):
        load_dataset("own", clinic, OPTIONS | {"extract_images": "../out"})
    with pytest.raises(DataError, match=r"gone\.jsonl: the file does not exist"):
        load_dataset("own", clinic, OPTIONS | {"train": "gone.jsonl"})
    (clinic / "rows.ods").write_text("a,b\n")
    with pytest.raises(DataError, match=r"'\.ods' are not read\. Convert it to one of \.jsonl, \.json, \.parquet"):
        load_dataset("own", clinic, OPTIONS | {"train": "rows.ods"})


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="there is no train, val, test or data"):
        load_dataset("own", tmp_path, {"template": "medical"})


def test_parquet(clinic):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [ward(i, split="train" if i < 5 else "test") for i in range(7)]
    rows[2]["text"] = None
    for name in ("train.jsonl", "test.jsonl"):
        (clinic / name).unlink()
    pq.write_table(pa.Table.from_pylist(rows), clinic / "data.parquet")
    data = load_dataset("own", clinic, OPTIONS)
    assert (len(data.train), len(data.test)) == (5, 2)
    assert data.train[2].presence == "image" and data.train[2].source.endswith("data.parquet:3")
    (clinic / "data.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"data\.parquet: this is not a readable Parquet file"):
        load_dataset("own", clinic, OPTIONS)


def test_images_embedded_in_parquet(clinic, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), "blue").save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": "../../x.png"}
    rows = [ward(0, image=image), ward(1, image=image), ward(2, image={"bytes": None, "path": "scan/a.png"})]
    pq.write_table(pa.Table.from_pylist(rows), clinic / "train.parquet")
    monkeypatch.setenv("FS_FEDMLLM_CACHE", str(clinic / "cache"))
    data = load_dataset("own", clinic, OPTIONS | {"train": "train.parquet"})
    assert open_image(data.train[0].image).size == (3, 2)
    kept = clinic / "cache" / "images"
    assert [str(kept / path.name) for path in kept.iterdir()] == [data.train[0].image]
    assert kept.stat().st_mode & 0o077 == 0 and Path(data.train[0].image).stat().st_mode & 0o077 == 0
    data = load_dataset("own", clinic, OPTIONS | {"train": "train.parquet", "extract_images": "extracted"})
    assert open_image(data.train[0].image).size == (3, 2)
    assert data.train[0].image == data.train[1].image and data.train[2].image == str(clinic / "scan" / "a.png")
    assert len(list((clinic / "extracted").iterdir())) == 1


def test_a_datasets_folder_on_disk(clinic):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Value("string"),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bone", "heart", "lung"]),
        }
    )

    def made(count: int) -> object:
        rows = {"image": ["scan/a.png"] * count, "text": ["t"] * count, "label": [i % 3 for i in range(count)]}
        return datasets.Dataset.from_dict(rows, features=features)

    root = clinic / "saved"
    datasets.DatasetDict({"train": made(6), "validation": made(2), "test": made(3)}).save_to_disk(str(root))
    template = {"template": str(clinic / "wards.yaml")}
    with pytest.raises(DataError, match="does not exist"):
        load_dataset("own", root, template)
    os.rename(clinic / "scan", root / "scan")
    data = load_dataset("own", root, template)
    assert [len(part) for part in (data.train, data.val, data.test)] == [6, 2, 3]
    assert [s.answer for s in data.train[:3]] == ["(C) bone", "(A) heart", "(B) lung"], "names, not indices, count"
    assert len(data.fingerprint) == 64
    state = root / "train" / "state.json"
    written = json.loads(state.read_text())
    written["_data_files"][0]["filename"] = "../test/" + written["_data_files"][0]["filename"]
    state.write_text(json.dumps(written))
    with pytest.raises(DataError, match=r"it names the file '\.\./test/data.*', which is not in this folder"):
        load_dataset("own", root, template)


def test_a_hundred_thousand_rows_are_read(clinic):
    with (clinic / "train.jsonl").open("w") as stream:
        for i in range(100_000):
            stream.write(json.dumps(ward(i)) + "\n")
    data = load_dataset("own", clinic, OPTIONS)
    assert len(data.train) == 100_000


@pytest.mark.parametrize("field", ["text", "id"])
def test_a_number_that_is_none_is_no_text(clinic, jsonl, field):
    jsonl(clinic / "train.jsonl", [ward(0), {**ward(1), field: float("inf")}])
    with pytest.raises(DataError, match=rf"train\.jsonl:2: {field} must be text, not inf"):
        load_dataset("own", clinic, OPTIONS)


def test_files_without_a_row_are_an_error_and_not_a_run_on_nothing(clinic, jsonl):
    (clinic / "test.jsonl").unlink()
    for content in ("", "\n \n"):
        (clinic / "train.jsonl").write_text(content)
        with pytest.raises(DataError, match=r"there is no row in train\.jsonl\. Fill"):
            load_dataset("own", clinic, OPTIONS)
    (clinic / "train.jsonl").unlink()
    (clinic / "data.json").write_text("[]")
    with pytest.raises(DataError, match=r"there is no row in data\.json\."):
        load_dataset("own", clinic, OPTIONS)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: (root / "data.xlsx").write_text("id"), r"data\.xlsx is not read\. Save it as one of \.jsonl"),
        (lambda root: (root / "train.jsonl.zst").write_bytes(b""), r"train\.jsonl\.zst is not read\. Unpack it"),
        (lambda root: (root / "data.jsonl").mkdir(), r"data\.jsonl is a folder\. Put the file"),
        (lambda root: (root / "data.jsonl").symlink_to("absent"), r"data\.jsonl is a link to no file"),
        (lambda root: os.mkfifo(root / "data.jsonl"), r"data\.jsonl is no regular file"),
        (lambda root: (root / "rows.jsonl").write_text(""), r"\(here: rows\.jsonl\)\. Name your file"),
    ],
)
def test_what_comes_near_a_usual_name_is_named(clinic, make, said):
    for name in ("train.jsonl", "test.jsonl"):
        (clinic / name).unlink()
    make(clinic)
    with pytest.raises(DataError, match=f"there is no train, val, test or data with .*{said}"):
        load_dataset("own", clinic, OPTIONS)


def test_a_row_without_a_label_is_told_so(clinic, jsonl):
    jsonl(clinic / "train.jsonl", [ward(0), {**ward(1), "label": None}])
    with pytest.raises(DataError, match=r"train\.jsonl:2: label is empty\. Give the name of an option"):
        load_dataset("own", clinic, OPTIONS)
    (clinic / "x.jsonl").mkdir()
    with pytest.raises(DataError, match=r"x\.jsonl: this is a folder"):
        load_dataset("own", clinic, {**OPTIONS, "file": "x.jsonl"})


def test_a_letter_means_nothing_where_an_option_is_called_by_anothers(clinic, jsonl):
    (clinic / "wards.yaml").write_text(WARDS.replace("[heart, lung, bone]", "[B, C, D]"))
    jsonl(clinic / "train.jsonl", [ward(0, label="C")])
    assert load_dataset("own", clinic, OPTIONS).train[0].label == 1  # its name
    jsonl(clinic / "train.jsonl", [ward(0, label="A")])
    with pytest.raises(DataError, match="'A' is none of the options"):
        load_dataset("own", clinic, OPTIONS)


def test_links_out_of_the_folder_are_followed_where_the_user_says_so(clinic, jsonl, picture, tmp_path_factory):
    archive = tmp_path_factory.mktemp("archive")
    picture(archive / "deep" / "x.png")
    (clinic / "pacs").symlink_to(archive)
    (clinic / "one.png").symlink_to(archive / "deep" / "x.png")
    (clinic / "dead.png").symlink_to(archive / "gone.png")
    for path, what in (("pacs/deep/x.png", "folder"), ("one.png", "image")):
        jsonl(clinic / "train.jsonl", [ward(0, image=path)])
        said = rf"train\.jsonl:1: the {what} .* is a symbolic link out of the data folder.*follow_links: true"
        with pytest.raises(DataError, match=said):
            load_dataset("own", clinic, OPTIONS)
        row = load_dataset("own", clinic, OPTIONS | {"follow_links": True}).train[0]
        assert row.image == str(clinic / path) and open_image(row.image).size == (8, 8)
    for path, said in (
        ("pacs/../../x.png", "leaves the data folder"),
        (str(archive / "deep" / "x.png"), "leaves the data folder"),
        ("dead.png", "symbolic link to no file"),
        ("pacs/deep", "not a regular file"),
    ):
        jsonl(clinic / "train.jsonl", [ward(0, image=path)])
        with pytest.raises(DataError, match=said):
            load_dataset("own", clinic, OPTIONS | {"follow_links": True})


@pytest.mark.parametrize(
    ("option", "value"),
    [("image_root", ".."), ("image_root", "scan/../.."), ("image_root", "{above}"), ("file", "../train.jsonl"),
     ("train", "{above}/train.jsonl")],
)  # fmt: skip
def test_no_option_leads_out_of_the_folder(clinic, jsonl, option, value):
    """A folder that lies elsewhere is linked to, where its owner wants that; an option does not reach it."""
    root = clinic / "root"
    jsonl(root / "train.jsonl", [ward(0)])
    options = {"template": str(clinic / "wards.yaml")}
    with pytest.raises(ConfigError, match=rf"own: {option} .* leads out of data\.root .*Point data\.root at a folder"):
        load_dataset("own", root, options | {option: value.format(above=clinic)})
    (root / "pictures").symlink_to(clinic)
    for inside in ("pictures", f"{root}/pictures", "./scan/../pictures"):
        assert load_dataset("own", root, options | {"image_root": inside}).train[0].image
