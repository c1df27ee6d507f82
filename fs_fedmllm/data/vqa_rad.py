"""VQA-RAD (Lau et al., Scientific Data 2018): questions on radiology images, open and closed; accuracy.

Layouts: the official ``VQA_RAD Dataset Public.json`` with ``VQA_RAD Image Folder/`` (split by
``phrase_type``), or ``trainset.json``, ``testset.json`` and ``images/`` (split by file). The "frame"
rephrasings are left out, as in the paper. Test images also occur in train: the split is by question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from fs_fedmllm.data.files import find, find_or_fail, fingerprint
from fs_fedmllm.data.findings import Findings, RowError, convert
from fs_fedmllm.data.image_paths import ImageFolder
from fs_fedmllm.data.json_rows import json_rows
from fs_fedmllm.data.row_values import Row, filled, need, unique
from fs_fedmllm.data.sample import Dataset, Sample

OFFICIAL = "VQA_RAD Dataset Public.json"
FILES = {"train": "trainset.json", "test": "testset.json"}
FOLDERS = ("VQA_RAD Image Folder", "images")
PUBLISHED = {"train": 1797, "test": 451}
PHRASES = {"freeform": "train", "para": "train", "test_freeform": "test", "test_para": "test"}
COLUMNS = {"organ": "image_organ", "question_type": "question_type", "image": "image_name"}
_GET = "Download the folder of osf.io/89kps and unpack it here."


def load(root: Path, *, require_images: bool = True, findings: Findings | None = None) -> Dataset:
    """Read VQA-RAD.

    Args:
        root: the unpacked folder, or one above it.
        require_images: whether a missing image file is an error.
        findings: where to put what is wrong; without it the first error is raised.
    """
    found = findings or Findings()
    files = _files(root)
    home = files[0][1].parent
    folder = find(home, FOLDERS, folder=True)
    if folder is None:
        if require_images:
            raise RowError(str(home), f"no image folder {' or '.join(FOLDERS)} here.", _GET)
        folder = home / FOLDERS[0]
    images = ImageFolder(folder, required=require_images)
    made: dict[str, list[Sample]] = {"train": [], "test": []}
    for split, sample in _read(files, images, found):
        made[split].append(sample)
    for split, samples in made.items():
        found.expect_count(str(home), f"{split} rows", len(samples), PUBLISHED[split])
    return Dataset(
        name="vqa_rad",
        template="medical",
        train=made["train"],
        val=[],
        test=made["test"],
        warnings=found.warnings,
        fingerprint=fingerprint(path for _, path in files),
    )


def kind_of(row: Row, where: str) -> str:
    """``open`` or ``closed``; the published files have trailing blanks in a few rows."""
    kind = filled(row, "answer_type", where).strip().lower()
    if kind not in ("open", "closed"):
        raise RowError(where, f"answer_type {row['answer_type']!r} is unknown.", "Give OPEN or CLOSED.")
    return kind


def _files(root: Path) -> list[tuple[str, Path]]:
    official = find(root, [OFFICIAL])
    if official is not None:
        return [("", official)]
    train = find_or_fail(root, [OFFICIAL, FILES["train"]], _GET)
    test = train.with_name(FILES["test"])
    if not test.is_file():
        raise RowError(str(test), "the file is missing beside trainset.json.", _GET)
    return [("train", train), ("test", test)]


def _read(files: list[tuple[str, Path]], images: ImageFolder, found: Findings) -> Iterator[tuple[str, Sample]]:
    once = {"train": unique(), "test": unique()}
    frames = 0

    def make(by_file: str, row: Row, where: str) -> tuple[str, Sample] | None:
        nonlocal frames
        phrase = filled(row, "phrase_type", where).strip()
        if "frame" in phrase:
            frames += 1
            return None
        if phrase not in PHRASES:
            raise RowError(where, f"phrase_type {phrase!r} is unknown.", f"Give {', '.join(PHRASES)}.")
        split = by_file or PHRASES[phrase]
        return split, once[split](sample_of(row, where, images, COLUMNS, {"set": "vqa_rad"}))

    for by_file, path in files:
        yield from convert(json_rows(path, found), partial(make, by_file), found)
    if frames:
        found.warn(str(files[0][1].parent), f"{frames:,} 'frame' rows were dropped, as in the paper.")


def sample_of(
    row: Row, where: str, images: ImageFolder, columns: Mapping[str, str], keys: Mapping[str, str]
) -> Sample:
    """A question about a radiology image, of this set or of SLAKE.

    Args:
        row: as its file has it.
        where: ``file:row``.
        images: the folder of the images.
        columns: what the row calls its ``image``, and further keys of a sample.
        keys: of every sample of the set.
    """
    own = {name: str(row[column]).strip() for name, column in columns.items() if row.get(column)}
    return Sample(
        id=filled(row, "qid", where),
        image=images.resolve(need(row, columns["image"], where), where),
        text=None,
        answer=filled(row, "answer", where).strip(),
        question=filled(row, "question", where),
        kind=kind_of(row, where),
        keys={"data_type": "image", **keys, **own},
        source=where,
    )
