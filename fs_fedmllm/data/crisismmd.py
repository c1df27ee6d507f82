"""CrisisMMD v2.0 (Alam et al., ICWSM 2018), humanitarian task: 8 classes of tweets with images, macro F1.

Layout: ``crisismmd_datasplit_all/task_humanitarian_text_img_{train,dev,test}.tsv`` beside ``data_image/``.
A tweet may have several images; rows carry ``keys["tweet"]`` so that a split keeps a tweet whole.
Image and text are labelled apart: both names are in ``keys`` as ``label_image`` and ``label_text``.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from fs_fedmllm.data.files import decode, find, find_or_fail, fingerprint, read_bytes
from fs_fedmllm.data.findings import Findings, RowError, convert
from fs_fedmllm.data.image_paths import ImageFolder
from fs_fedmllm.data.row_values import Row, filled, need, unique
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError

SPLITS = ("train", "dev", "test")
PUBLISHED = {"train": 13608, "dev": 2237, "test": 2237}
LABELS = ("image", "text", "agreed")
_URL = re.compile(r"http\S+")
_GET = "Unpack CrisisMMD_v2.0.tar.gz and crisismmd_datasplit_all.zip here."
_QUOTES = "The columns are split at tabs and a text may be in double quotes; download the file again."


def load(
    root: Path,
    *,
    label: str = "image",
    annotations: str = "",
    allow_missing_text: bool = False,
    require_images: bool = True,
    findings: Findings | None = None,
) -> Dataset:
    """Read the humanitarian task of CrisisMMD.

    Args:
        root: the unpacked archive, or a folder above it.
        label: which label is trained and tested: that of the ``image``, of the ``text``, or ``agreed``
            (only rows where both are the same).
        annotations: one TSV with a column ``split`` in place of the three official files.
        allow_missing_text: read a file without the column ``tweet_text``; its rows then show only an image.
        require_images: whether a missing image file is an error.
        findings: where to put what is wrong; without it the first error is raised.
    """
    if label not in LABELS:
        raise ConfigError(f"crisismmd: label must be one of {', '.join(LABELS)}, not {label!r}.")
    found = findings or Findings()
    template = load_template("crisismmd")
    images = ImageFolder(_image_home(root, require_images), required=require_images)
    files = _files(root, annotations)
    rows: dict[str, list[tuple[str, Row]]] = {split: [] for split in SPLITS}
    for split, path in files:
        for where, row in _table(path, allow_missing_text, found):
            rows[split or str(row.get("split"))].append((where, row))
    for split in SPLITS:
        found.expect_count(str(files[0][1].parent), f"{split} rows", len(rows[split]), PUBLISHED[split])
    made = {split: _samples(rows[split], template, images, label, found) for split in SPLITS}
    _check_tweets(made, found)
    blank = sum(sample.text == "" for samples in made.values() for sample in samples)
    if blank:
        found.warn(str(files[0][1].parent), f"{blank:,} tweets are empty once links are taken out; they are kept.")
    return Dataset(
        name="crisismmd",
        template=template.name,
        train=made["train"],
        val=made["dev"],
        test=made["test"],
        warnings=found.warnings,
        fingerprint=fingerprint(path for _, path in files),
    )


def clean(text: str) -> str:
    """A tweet without links, as the authors clean it."""
    return _URL.sub("", text).strip()


def _image_home(root: Path, required: bool) -> Path:
    """Image paths in the files are relative to the folder that holds ``data_image/``."""
    if required:
        return find_or_fail(root, ["data_image"], "Unpack CrisisMMD_v2.0.tar.gz here.", folder=True).parent
    folder = find(root, ["data_image"], folder=True)
    return folder.parent if folder else root


def _files(root: Path, annotations: str) -> list[tuple[str, Path]]:
    if annotations:
        return [("", find_or_fail(root, [annotations], "Correct the option annotations."))]
    names = {split: f"task_humanitarian_text_img_{split}.tsv" for split in SPLITS}
    home = find_or_fail(root, [names["train"]], _GET).parent
    for name in names.values():
        if not (home / name).is_file():
            raise RowError(str(home / name), "the file is missing beside the training split.", _GET)
    return [(split, home / name) for split, name in names.items()]


def _table(path: Path, allow_missing_text: bool, found: Findings) -> Iterator[tuple[str, Row]]:
    """Rows of a TSV, quoted as the csv module does by default; a stray quote must not swallow rows unseen."""
    reader = csv.reader(io.StringIO(decode(read_bytes(path), str(path)), newline=""), delimiter="\t")
    columns = next(reader, [])
    wanted = ["tweet_id", "image_id", "image", "label_text", "label_image"]
    wanted += [] if allow_missing_text else ["tweet_text"]
    wanted += ["split"] if "split" in columns else []
    for column in wanted:
        if column not in columns:
            remedy = "Use the official file; the version with ids only has no text to learn from."
            if column != "tweet_text":
                remedy = "Use the official file of the humanitarian task."
            raise RowError(f"{path}:1", f"the column {column!r} is missing.", remedy)
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            return found.error(RowError(where, f"the table is broken ({error}).", _QUOTES))
        if fields is None:
            return
        if not fields:
            continue
        row = dict(zip(columns, fields, strict=False))
        text = row.get("tweet_text", "")
        if len(fields) != len(columns):
            found.error(RowError(where, f"{len(fields)} columns where the header has {len(columns)}.", _QUOTES))
        elif "\n" in text and text.count("\t") > 1:
            found.error(RowError(where, "an unclosed quote has swallowed the rows that follow.", _QUOTES))
        elif "split" in row and row["split"] not in SPLITS:
            found.error(RowError(where, f"split {row['split']!r} is unknown.", f"Give {', '.join(SPLITS)}."))
        else:
            yield where, row


def _samples(
    rows: list[tuple[str, Row]], template: Template, images: ImageFolder, label: str, found: Findings
) -> list[Sample]:
    once = unique()
    letters = {name: i for i, name in enumerate(template.options)}

    def make(row: Row, where: str) -> Sample | None:
        names = {key: filled(row, key, where) for key in ("label_image", "label_text")}
        for key, name in names.items():
            if name not in letters:
                raise RowError(where, f"{key} {name!r} is none of the options.", f"Give {', '.join(letters)}.")
        if label == "agreed" and names["label_image"] != names["label_text"]:
            return None
        index = letters[names["label_text" if label == "text" else "label_image"]]
        text = row.get("tweet_text")
        keys = {"tweet": filled(row, "tweet_id", where), "event": row.get("event_name", ""), **names}
        return once(
            Sample(
                id=filled(row, "image_id", where),
                image=images.resolve(need(row, "image", where), where),
                text=None if text is None else clean(text),
                answer=template.answer(index),
                label=index,
                keys=keys,
                source=where,
            )
        )

    return convert(rows, make, found)


def _check_tweets(made: dict[str, list[Sample]], found: Findings) -> None:
    """Official splits never share a tweet; splits of another task, mixed in, would."""
    seen: dict[str, str] = {}
    for split, samples in made.items():
        for sample in samples:
            if seen.setdefault(sample.keys["tweet"], split) != split:
                problem = f"tweet {sample.keys['tweet']} is in {split} and in {seen[sample.keys['tweet']]}."
                found.warn(sample.source, problem, "Take all files from one split of one task, or the test set leaks.")
                return
