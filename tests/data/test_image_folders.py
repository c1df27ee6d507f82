"""Hugging Face's layouts: folders of images with labels or a file that names them, embedded images, class labels."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from fs_fedmllm.data.check import inspect
from fs_fedmllm.data.images import open_image
from fs_fedmllm.data.own_files import find_sources
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.errors import ConfigError, DataError

CASES = "\n".join(f'  {c}: {{basis: "", question: "Which"}}' for c in ("both", "text", "image", "neither"))
PETS = f"""
task: choice
metric: macro_f1
options: [cat, dog]
original:
{CASES}
augmented:
{CASES}
"""


@pytest.fixture
def pets(tmp_path, picture) -> Path:
    (tmp_path / "pets.yaml").write_text(PETS)
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        for i in range(count):
            for j, pet in enumerate(("cat", "dog")):
                name = f"{i}.JPG" if i % 2 else f"{i}.png"
                picture(tmp_path / split / pet / name, colour=(100 * j, 10 * i, len(split)))
    return tmp_path


OPTIONS = {"template": "pets.yaml"}


def test_class_folders_of_every_split(pets) -> None:
    data, findings = inspect("own", pets, OPTIONS)
    assert [len(part) for part in (data.train, data.val, data.test)] == [8, 4, 4]
    row = data.train[5]
    assert (row.id, row.answer, row.image) == ("dog/1.JPG", "(B) dog", str(pets / "train" / "dog" / "1.JPG"))
    assert row.source == f"{pets}/train:6" and not any(found.severity == "error" for found in findings)
    assert "Read as image folders: classes, classes, classes." in [found.problem for found in findings]
    before = data.fingerprint
    (pets / "train" / "cat" / "0.png").rename(pets / "train" / "cat" / "9.png")
    assert load_dataset("own", pets, OPTIONS).fingerprint != before


def test_class_folders_on_one_level_are_divided(pets) -> None:
    one = pets / "train"
    options = {"template": str(pets / "pets.yaml")}
    with pytest.raises(DataError, match=r"train:1: nothing says which split the row is in.*split: \{val: 0\.1"):
        load_dataset("own", one, options)
    data = load_dataset("own", one, options | {"split": {"test": 0.25}})
    assert sorted(row.answer for row in data.test) == ["(A) cat", "(B) dog"]


def test_class_folders_that_are_not_what_they_should_be(pets, picture) -> None:
    (pets / "train" / "cat" / "readme.txt").write_text("x")
    (pets / "train" / "cat" / ".DS_Store").write_text("x")
    (pets / "train" / ".hidden").mkdir()
    assert any("1 file is no image by name" in said for said in load_dataset("own", pets, OPTIONS).warnings)
    picture(pets / "train" / "bird" / "0.png")
    with pytest.raises(DataError, match=r"train:1: label 'bird' is none of the options\. Give one of 0 = A = cat"):
        load_dataset("own", pets, OPTIONS)
    shutil.rmtree(pets / "train" / "bird")
    picture(pets / "train" / "cat" / "more" / "0.png")
    with pytest.raises(DataError, match=r"more: the folder of the label 'cat' holds a folder"):
        load_dataset("own", pets, OPTIONS)
    shutil.rmtree(pets / "train" / "cat" / "more")
    (pets / "valid" / "cat").mkdir(parents=True)
    shutil.copy(pets / "train" / "cat" / "0.png", pets / "valid" / "cat" / "0.png")
    with pytest.raises(DataError, match="there are two folders of val rows, validation and valid"):
        load_dataset("own", pets, OPTIONS)
    shutil.rmtree(pets / "valid")
    shutil.rmtree(pets / "test")
    picture(pets / "test" / "1.png")
    with pytest.raises(DataError, match=r"test: the folder holds images, and neither folders for their labels nor"):
        load_dataset("own", pets, OPTIONS)


def metadata(folder: Path, kind: str, rows: list[dict]) -> None:
    if kind == "csv":
        text = "\n".join(",".join(map(str, line)) for line in [rows[0], *(row.values() for row in rows)])
    else:
        text = "\n".join(map(json.dumps, rows))
    (folder / f"metadata.{kind}").write_text(text)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("name", ["label", "finding"])
def test_a_file_that_names_the_images_of_its_folder(pets, kind, name) -> None:
    for split in ("train", "validation", "test"):
        images = sorted((pets / split).glob("*/*"))
        rows = [{"file_name": f"{p.parent.name}/{p.name}", "text": "it", name: p.parent.name} for p in images]
        metadata(pets / split, kind, rows)
    options = OPTIONS | ({} if name == "label" else {"columns": {"label": name}})
    data, findings = inspect("own", pets, options)
    assert [len(part) for part in (data.train, data.val, data.test)] == [8, 4, 4]
    assert data.train[0].image == str(pets / "train" / "cat" / "0.png") and data.train[0].presence == "both"
    assert not any(found.severity == "error" for found in findings)
    spare = pets / "train" / "cat" / "spare.png"
    spare.write_bytes((pets / "train" / "cat" / "0.png").read_bytes())
    said = f"1 image is not named by metadata, and not read, such as {spare}."
    assert any(said in warning for warning in load_dataset("own", pets, options).warnings)
    metadata(pets / "train", kind, [{"file_name": "../../../x.png", "text": "it", name: "cat"}])
    with pytest.raises(DataError, match=r"metadata\.\w+:\d: the image path .* leaves the data folder"):
        load_dataset("own", pets, options)
    metadata(pets / "train", kind, [{"file_name": "https://x.org/a.png", "text": "it", name: "cat"}])
    with pytest.raises(DataError, match="is a URL"):
        load_dataset("own", pets, options)
    metadata(pets / "train", kind, [{"img": "cat/0.png", "text": "it", name: "cat"}])
    with pytest.raises((ConfigError, DataError), match=r"columns\.image is 'file_name', and there is no such column"):
        load_dataset("own", pets, options)


def test_one_file_above_all_folders(pets) -> None:
    images = sorted((pets / "train").glob("*/*"))
    for folder in ("validation", "test"):
        shutil.rmtree(pets / folder)
    flat = pets / "flat"
    flat.mkdir()
    for i, path in enumerate(images):
        shutil.copy(path, flat / f"{i}{path.suffix}")
    shutil.rmtree(pets / "train")
    rows = [{"file_name": f"flat/{i}{p.suffix}", "label": p.parent.name} for i, p in enumerate(images)]
    metadata(pets, "csv", rows)
    data = load_dataset("own", pets, OPTIONS | {"split": {"test": 0.25}})
    assert (len(data.train), len(data.test)) == (6, 2)


@pytest.fixture
def features():
    datasets = pytest.importorskip("datasets")
    return datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["dog", "cat"]),
        }
    )


def hugging_face(features, count: int):
    import datasets
    from PIL import Image

    images = []
    for i in range(count):
        stream = io.BytesIO()
        Image.new("RGB", (4 + i, 4)).save(stream, "PNG")
        images.append({"bytes": stream.getvalue(), "path": "/home/somebody/x.png"})
    rows = {"image": images, "text": ["t"] * count, "label": [i % 2 if i < 4 else -1 for i in range(count)]}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("kind", ["parquet", "disk"])
def test_what_hugging_face_writes_is_read_as_it_is(tmp_path, features, kind, monkeypatch) -> None:
    monkeypatch.setenv("FS_FEDMLLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pets.yaml").write_text(PETS)
    root = tmp_path / "saved"
    if kind == "parquet":
        root.mkdir()
        hugging_face(features, 4).to_parquet(root / "data.parquet")
    else:
        hugging_face(features, 4).save_to_disk(str(root))
    options = {"template": str(tmp_path / "pets.yaml"), "split": {"test": 0.25}}
    data, findings = inspect("own", root, options)
    rows = sorted((*data.train, *data.test), key=lambda row: int(row.id))
    assert [row.answer for row in rows] == ["(B) dog", "(A) cat", "(B) dog", "(A) cat"], "names count, not indices"
    assert [open_image(row.image).size for row in rows] == [(4, 4), (5, 4), (6, 4), (7, 4)]
    kept = str(tmp_path / "cache" / "images")
    assert f"Embedded images, each kept once in {kept}: 4." in [found.problem for found in findings]
    assert find_sources(root, "", {})[0].class_labels == {"label": ["dog", "cat"]}
    (tmp_path / "pets.yaml").write_text(PETS.replace("[cat, dog]", "[yes, 'no']").replace("yes", "'yes'"))
    with pytest.raises(
        DataError, match=r"label 'dog' is none .* The file's own names of its labels are dog, cat: write"
    ):
        load_dataset("own", root, options)


@pytest.mark.parametrize("below", ["", "data"])
def test_the_hubs_parquet_files_are_read_together(tmp_path, features, below) -> None:
    (tmp_path / "pets.yaml").write_text(PETS)
    folder = tmp_path / below
    folder.mkdir(exist_ok=True)
    names = ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation-00000-of-00001-0f3a.parquet")
    for name in names:
        hugging_face(features, 3).to_parquet(folder / name)
    data = load_dataset("own", tmp_path, OPTIONS | {"extract_images": "kept"})
    assert [row.id for row in data.train] == ["00000-1", "00000-2", "00000-3", "00001-1", "00001-2", "00001-3"]
    assert [row.id for row in data.val] == ["1", "2", "3"]
    (folder / names[0]).unlink()
    with pytest.raises(DataError, match=r"1 Parquet files of train rows, and train-00001-of-00002\.parquet says 2"):
        load_dataset("own", tmp_path, OPTIONS)


def test_no_class_is_no_label(tmp_path, features) -> None:
    (tmp_path / "pets.yaml").write_text(PETS)
    hugging_face(features, 5).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet:5: label is empty"):
        load_dataset("own", tmp_path, OPTIONS | {"extract_images": "kept"})


@pytest.mark.parametrize("told", [b"[", b"{}", b'{"info": 3}', b'{"info": {"features": {"label": {"names": 3}}}}'])
def test_damaged_words_of_hugging_face_are_passed_over(tmp_path, told) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "pets.yaml").write_text(PETS)
    table = pa.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata({b"huggingface": told})
    pq.write_table(table, tmp_path / "train.parquet")
    assert [row.answer for row in load_dataset("own", tmp_path, OPTIONS).train] == ["(A) cat", "(B) dog"]


def test_embedded_images_have_the_bounds_of_files(tmp_path, monkeypatch) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    from PIL import Image

    monkeypatch.setenv("FS_FEDMLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fs_fedmllm.data.images.MAX_PIXELS", 100)
    (tmp_path / "pets.yaml").write_text(PETS)
    stream = io.BytesIO()
    Image.new("RGB", (40, 40)).save(stream, "PNG")
    rows = [{"image": stream.getvalue(), "label": 0}, {"image": b"no image", "label": 0}, {"image": b"", "label": 0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    _, findings = inspect("own", tmp_path, OPTIONS)
    said = {found.row: found.problem for found in findings if found.severity == "error"}
    assert "declares 40 x 40 pixels; at most 100" in said["1"] and "is not an image" in said["2"]
    assert "the row has no image and no text" in said["3"]
