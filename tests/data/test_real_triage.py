"""Triage by report and picture: ceilings by counting, parts that share nothing, what the annotations say, refusals."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from radiology_folder import change_rows, rad, write_folder

from fs_fedmllm.data.radiographs import _MODALITIES, _PLANES, PARTS, part_of, read_pictures, told_by
from fs_fedmllm.data.real_triage import KINDS, SPLITS
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError, DataError

PICTURES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), PICTURES)


@pytest.fixture(scope="module")
def made(folder):
    return load_dataset("real_triage", folder)


def ceiling(rows, key) -> float:
    counts = defaultdict(Counter)
    for row in rows:
        counts[key(row)][row.label] += 1
    return sum(max(c.values()) for c in counts.values()) / len(rows)


@pytest.mark.parametrize("split", SPLITS)
def test_each_modality_alone_has_its_exact_ceiling(made, split):
    rows = getattr(made, split)
    assert ceiling(rows, lambda r: r.image) == 0.25 == ceiling(rows, lambda r: r.keys["organ"])
    assert ceiling(rows, lambda r: r.text) == pytest.approx(1 / 3)
    assert ceiling(rows, lambda r: r.keys["question_type"]) == pytest.approx(1 / 3)
    assert ceiling(rows, lambda r: 0) == pytest.approx(1 / 12)
    assert ceiling(rows, lambda r: (r.image, r.text)) == 1
    assert set(Counter(r.label for r in rows).values()) == {len(rows) // 12}
    options = load_template("real_triage").options
    assert all(options[r.label] == f"{r.keys['organ']} {r.keys['question_type']}" for r in rows)
    assert all(r.answer.endswith(options[r.label]) and r.presence == "both" for r in rows)
    assert len({r.id for r in rows}) == len(rows)


def test_no_picture_and_no_disease_is_in_two_parts(made, folder):
    parts = {p.path: p.part for p in read_pictures(folder, data_set="x")}
    assert len(parts) == 3 * PICTURES and set(parts.values()) == set(PARTS)
    diseases = {split: {r.keys["disease"] for r in getattr(made, split)} for split in SPLITS}
    for split in SPLITS:
        assert {parts[r.image] for r in getattr(made, split)} == {split}, "and none of the part align"
        assert not any(diseases[split] & diseases[other] for other in SPLITS if other != split)
    assert {r.keys["question_type"] for r in made.train} == set(KINDS), "other kinds are left out"


def test_a_picture_keeps_its_part_whatever_else_there_is_and_whatever_it_is_called(folder, tmp_path):
    before = {p.digest: p.part for p in read_pictures(folder, data_set="x")}
    less = tmp_path / "less"
    shutil.copytree(folder, less)
    change_rows(less, lambda rows: rows[: 3 * 20])
    home = less / "vqa_rad" / "VQA_RAD Image Folder"
    (home / "p0.png").rename(home / "other.png")
    change_rows(less, lambda rows: [rows[0] | {"image_name": "other.png"}, *rows[1:]])
    after = {p.digest: p.part for p in read_pictures(less, data_set="x")}
    assert len(after) == 60 and all(before[digest] == part for digest, part in after.items())


def test_the_seed_changes_pairs_alone_and_the_place_changes_nothing(made, folder, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    again, other = load_dataset("real_triage", moved), load_dataset("real_triage", folder, {"seed": 1})
    assert again.fingerprint == made.fingerprint != other.fingerprint
    assert [(r.id, r.text, r.answer) for r in again.test] == [(r.id, r.text, r.answer) for r in made.test]
    assert [r.text for r in other.test] != [r.text for r in made.test]


def test_what_is_left_out_is_said(made):
    assert any("pictures are in no row: each organ has as many" in warning for warning in made.warnings)


def test_shares():
    counts = Counter(part_of(str(n), PARTS) for n in range(4000))
    assert all(abs(counts[part] / 4000 - share) < 0.03 for part, share in PARTS.items())
    assert sum(PARTS.values()) == pytest.approx(1)


def said(kind: str, question: str, answer: str) -> Sample:
    return Sample("i", "p", None, answer, question=question, keys={"question_type": kind})


@pytest.mark.parametrize(
    ("rows", "modality", "plane"),
    [
        ([said("MODALITY", "What modality was used?", "CT with contrast")], "CT", ""),
        ([said("MODALITY", "Is this an MRI?", "Yes")], "MRI", ""),
        ([said("MODALITY", "Is this an MRI?", "no")], "", ""),
        ([said("MODALITY", "Is this an MRI or a CT scan?", "mri")], "MRI", ""),
        ([said("MODALITY", "What kind of image is this?", "chest xray")], "X-ray", ""),
        ([said("MODALITY", "What type of imaging does this not represent?", "CT")], "", ""),
        ([said("MODALITY", "Is this a CT?", "yes"), said("MODALITY", "What is this?", "MRI")], "", ""),
        ([said("PLANE", "In what plane is this?", "Axial")], "", "axial"),
        ([said("Plane", "What is the scanning plane?", "Transverse  Plane")], "", "axial"),
        ([said("PLANE", "Is this a PA film?", "yes")], "", "frontal"),
        ([said("PLANE", "Is it axial or coronal?", "yes")], "", ""),
        ([said("PRES", "Is there a CT contrast in the axial plane?", "yes")], "", ""),
        ([said("POS, PLANE", "Which plane?", "mid-sagittal")], "", "sagittal"),
    ],
)
def test_modality_and_plane_are_what_rows_agree_upon(rows, modality, plane):
    planes = [row for row in rows if "PLANE" in row.keys["question_type"].upper()]
    assert (told_by(rows, _MODALITIES), told_by(planes, _PLANES)) == (modality, plane)


def test_only_training_rows_tell_modality(tmp_path):
    root = write_folder(tmp_path, 2)

    def change(rows):
        tells = {"question": "Is this a CT?", "question_type": "MODALITY"}
        rows.append(rad(100, "p0.png", "HEAD", phrase_type="para", **tells))
        rows.append(rad(101, "p1.png", "CHEST", phrase_type="test_para", **tells))

    change_rows(root, change)
    shown = {Path(p.path).name: p.modality for p in read_pictures(root, data_set="x")}
    assert shown["p0.png"] == "CT" and shown["p1.png"] == ""


def test_slakes_pictures_are_taken_where_they_are(folder, tmp_path):
    from PIL import Image

    root = tmp_path / "both"
    shutil.copytree(folder, root)
    home = root / "slake"
    for number, organ in enumerate(["Lung", "Brain_Tissue", "Pelvic Cavity"]):
        (home / "imgs" / f"xmlab{number}").mkdir(parents=True)
        Image.new("RGB", (8, 8), (90, 90, 80 * number)).save(home / "imgs" / f"xmlab{number}" / "source.jpg")
        row = {
            "qid": number,
            "img_name": f"xmlab{number}/source.jpg",
            "question": "What modality is used to take this image?",
            "answer": "MRI",
            "q_lang": "en",
            "location": organ,
            "answer_type": "OPEN",
            "content_type": "Modality",
        }
        split = ("train", "validate", "test")[number]
        (home / f"{split}.json").write_text(json.dumps([row]))
    pictures = read_pictures(root, data_set="x", slake="slake")
    added = {(p.organ, p.modality) for p in pictures if "xmlab" in p.path}
    assert added == {("chest", "MRI"), ("head", "")}, "the pelvis is left out; validation rows tell no modality"
    made = load_dataset("real_triage", root, {"slake": "slake"})
    assert any("1 pictures of other parts than head, chest, abdomen" in warning for warning in made.warnings)
    shutil.rmtree(home / "imgs")
    with pytest.raises(DataError, match="imgs"):
        load_dataset("real_triage", root, {"slake": "slake"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vqa_rad": "nowhere"}, r"real_triage: there is no folder .*nowhere; .* option vqa_rad"),
        ({"medquad": "../medquad"}, r"option medquad must be a folder below data\.root, not '\.\./medquad'"),
        ({"slake": "/slake"}, r"option slake must be a folder below data\.root, not '/slake'"),
        ({"slake": "slake"}, r"there is no folder .*slake"),
        ({"seed": "one"}, r"option seed must be of type int"),
        ({"medquad_file": "no.jsonl"}, r"no\.jsonl"),
    ],
)
def test_options_that_lead_nowhere_are_refused(folder, options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        load_dataset("real_triage", folder, options)


def test_small_folders_and_contradictions_are_refused(tmp_path):
    root = write_folder(tmp_path / "few", 2)
    with pytest.raises(DataError, match=r"rows of real_triage have no picture of the \w+\."):
        load_dataset("real_triage", root)
    change_rows(root, lambda rows: rows.append(rad(99, "p0.png", "CHEST")))
    with pytest.raises(DataError, match=r"Public\.json:\d+: the picture shows the chest here and the head in .*:2"):
        load_dataset("real_triage", root)


def test_the_real_folders(real_data):
    made = load_dataset("real_triage", real_data)
    pictures = read_pictures(real_data, data_set="x")
    assert len(pictures) == 314
    assert Counter(p.organ for p in pictures) == {"head": 103, "chest": 107, "abdomen": 104}
    sizes = {split: len(getattr(made, split)) for split in SPLITS}
    assert all(size % 12 == 0 and size for size in sizes.values()) and sizes["test"] >= 96, sizes
