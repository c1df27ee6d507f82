"""Hateful Memes (Kiela et al., NeurIPS 2020): is a meme hateful? Binary, judged by AUC.

Layout: ``{train,dev_seen,test_seen}.jsonl`` beside ``img/NNNNN.png``; phase 1 of the challenge has
``dev.jsonl`` and an unlabelled ``test.jsonl`` instead. The text is used as it is.
"""

from __future__ import annotations

from pathlib import Path

from fs_fedmllm.data.files import MAX_ROW, find_or_fail, fingerprint
from fs_fedmllm.data.findings import Findings, RowError, convert
from fs_fedmllm.data.image_paths import ImageFolder
from fs_fedmllm.data.json_rows import json_rows
from fs_fedmllm.data.row_values import Row, filled, need, text_of, unique
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.files.untrusted import open_regular, parse_json

#: Rows of the labelled splits as published.
PUBLISHED = {"train": 8500, "dev": 500, "dev_seen": 500, "dev_unseen": 540, "test_seen": 1000, "test_unseen": 2000}
_GET = "Accept the licence on the challenge's site, and unpack the archive here."
_LABELLED = (
    "Use test_seen.jsonl of the later release, which has labels, or set the option test to a labelled file, "
    "for example dev_seen."
)


def load(
    root: Path,
    *,
    train: str = "train",
    val: str = "dev_seen",
    test: str = "test_seen",
    require_images: bool = True,
    findings: Findings | None = None,
) -> Dataset:
    """Read Hateful Memes.

    Args:
        root: the unpacked archive, or a folder above it.
        train: name of the training split's file, without ``.jsonl``.
        val: name of the validation split's file; ``dev`` stands in for a missing ``dev_seen``; empty for none.
        test: name of the test split's file; it must have labels.
        require_images: whether a missing image file is an error.
        findings: where to put what is wrong; without it the first error is raised.
    """
    found = findings or Findings()
    template = load_template("hateful_memes")
    home = find_or_fail(root, [f"{train}.jsonl"], _GET).parent
    images = ImageFolder(home, required=require_images)
    files = [home / f"{train}.jsonl", _test_file(home, test, found)]
    validation = _val_file(home, val, found)
    splits = [_read(path, template, images, found) for path in files]
    return Dataset(
        name="hateful_memes",
        template=template.name,
        train=splits[0],
        val=_read(validation, template, images, found) if validation else [],
        test=splits[1],
        warnings=found.warnings,
        fingerprint=fingerprint([*files, *([validation] if validation else [])]),
    )


def _val_file(home: Path, val: str, found: Findings) -> Path | None:
    if not val:
        return None
    names = [val, "dev"] if val == "dev_seen" else [val]
    for name in names:
        if (home / f"{name}.jsonl").is_file():
            return home / f"{name}.jsonl"
    remedy = "The best round cannot be chosen on validation rows."
    found.warn(str(home), f"No {' or '.join(n + '.jsonl' for n in names)}.", remedy)
    return None


def _test_file(home: Path, test: str, found: Findings) -> Path:
    path = home / f"{test}.jsonl"
    if not path.is_file():
        other = home / "test.jsonl"
        if test == "test_seen" and other.is_file() and _has_labels(other):
            found.warn(str(other), "Used as the test split, because test_seen.jsonl is not there.")
            return other
        hint = f" {other.name} is there, but has no labels." if other.is_file() and path != other else ""
        raise RowError(str(path), f"the labelled test split is missing.{hint}", _LABELLED)
    if not _has_labels(path):
        raise RowError(f"{path}:1", "the rows have no label (this is the challenge's hidden test).", _LABELLED)
    return path


def _has_labels(path: Path) -> bool:
    with open_regular(path) as stream:
        try:
            return "label" in parse_json(stream.readline(MAX_ROW))
        except (ValueError, TypeError):
            return True  # reading the rows says better what is wrong


def _read(path: Path, template: Template, images: ImageFolder, found: Findings) -> list[Sample]:
    once = unique()

    def make(row: Row, where: str) -> Sample:
        label = _label(need(row, "label", where), template, where)
        image = images.resolve(need(row, "img", where), where)
        text = text_of(row, "text", where)
        return once(
            Sample(
                filled(row, "id", where), image, text=text, answer=template.answer(label), label=label, source=where
            )
        )

    samples = convert(json_rows(path, found), make, found)
    if path.stem in PUBLISHED:
        found.expect_count(str(path), "rows", len(samples), PUBLISHED[path.stem])
    return samples


def _label(value: object, template: Template, where: str) -> int:
    if isinstance(value, bool) or str(value) not in ("0", "1"):
        known = " or ".join(f"{i} ({name})" for i, name in enumerate(template.options))
        raise RowError(where, f"label {value!r} is none of the options.", f"Give {known}.")
    return int(str(value))
