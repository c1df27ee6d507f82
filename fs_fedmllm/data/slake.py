"""SLAKE 1.0 (Liu et al., ISBI 2021): questions on medical images, English and Chinese; test only, zero-shot.

Layout: ``Slake1.0/{train,validate,test}.json`` beside ``imgs/xmlabN/source.jpg``. The paper tests on both
languages. Across languages the splits share images, so filter before any use of the other splits.
"""

from __future__ import annotations

from pathlib import Path

from fs_fedmllm.data.files import find, find_or_fail, fingerprint
from fs_fedmllm.data.findings import Findings, RowError, convert
from fs_fedmllm.data.image_paths import ImageFolder
from fs_fedmllm.data.json_rows import json_rows
from fs_fedmllm.data.row_values import Row, filled, text_of, unique
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.vqa_rad import sample_of
from fs_fedmllm.errors import ConfigError

FILES = {"train": ("train.json",), "val": ("validate.json", "validation.json"), "test": ("test.json",)}
LANGUAGES = ("both", "en", "zh")
PUBLISHED = {
    ("train", "both"): 9835,
    ("train", "en"): 4919,
    ("train", "zh"): 4916,
    ("val", "both"): 2099,
    ("val", "en"): 1053,
    ("val", "zh"): 1046,
    ("test", "both"): 2094,
    ("test", "en"): 1061,
    ("test", "zh"): 1033,
}
COLUMNS = {"organ": "location", "question_type": "content_type", "image": "img_name"}
_GET = "Download Slake1.0.zip from med-vqa.com/slake and unpack it here."


def load(
    root: Path, *, language: str = "both", require_images: bool = True, findings: Findings | None = None
) -> Dataset:
    """Read the test split of SLAKE.

    Args:
        root: the unpacked archive, or a folder above it.
        language: ``both``, ``en`` or ``zh``.
        require_images: whether a missing image file is an error.
        findings: where to put what is wrong; without it the first error is raised.
    """
    found = findings or Findings()
    path = find_split(root, "test")
    test = read_split(root, "test", language=language, require_images=require_images, findings=found)
    return Dataset("slake", "medical", [], [], test, warnings=found.warnings, fingerprint=fingerprint([path]))


def find_split(root: Path, split: str) -> Path:
    """The annotation file of ``train``, ``val`` or ``test``."""
    return find_or_fail(root, FILES[split], _GET)


def read_split(
    root: Path, split: str, *, language: str, require_images: bool, findings: Findings | None = None
) -> list[Sample]:
    """The rows of one split; arguments as in ``load``."""
    if language not in LANGUAGES:
        raise ConfigError(f"slake: language must be one of {', '.join(LANGUAGES)}, not {language!r}.")
    found = findings or Findings()
    path = find_split(root, split)
    images = ImageFolder(_image_home(path.parent, require_images), required=require_images)
    once = unique()
    empty = total = 0

    def make(row: Row, where: str) -> Sample | None:
        nonlocal empty, total
        spoken = filled(row, "q_lang", where).strip()
        if spoken not in LANGUAGES[1:]:
            raise RowError(where, f"q_lang {spoken!r} is unknown.", "Give en or zh.")
        if language not in ("both", spoken):
            return None
        total += 1
        if not text_of(row, "answer", where).strip():
            empty += 1
            return None
        return once(sample_of(row, where, images, COLUMNS, {"set": "slake", "language": spoken}))

    samples = convert(json_rows(path, found), make, found)
    if empty:
        found.warn(str(path), f"{empty:,} rows with an empty answer were dropped.")
    found.expect_count(str(path), f"{split} rows", total, PUBLISHED[split, language])
    return samples


def _image_home(home: Path, required: bool) -> Path:
    if required:
        return find_or_fail(home, ["imgs"], "Unpack imgs.zip beside the annotation files.", folder=True)
    return find(home, ["imgs"], folder=True) or home / "imgs"
