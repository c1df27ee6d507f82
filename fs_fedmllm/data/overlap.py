"""What stands in training and in evaluation at once, and which labels each split has.

A model is rewarded for remembering what it was trained on: 446 of VQA-RAD's 451 test rows ask about an image that
training rows ask about too. That may be meant, and must be known.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fs_fedmllm.data.images import image_sha256
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template import Template

SPLITS = ("train", "val", "test")
#: Pairs of splits that should share nothing: what is learnt from, and what is judged by.
PAIRS = (("train", "test"), ("train", "val"), ("val", "test"))


def image_contents(samples: Iterable[Sample]) -> dict[str, str]:
    """For each image path a word that two paths share exactly if their files have the same bytes.

    Only files of equal size are hashed. A file that is not there stands for itself.
    """
    sizes: dict[int, list[str]] = {}
    contents: dict[str, str] = {}
    for path in dict.fromkeys(sample.image for sample in samples if sample.image is not None):
        contents[path] = path
        try:
            sizes.setdefault(os.stat(path).st_size, []).append(path)
        except OSError:
            continue
    for paths in sizes.values():
        if len(paths) > 1:
            contents |= {path: image_sha256(path) for path in paths}
    return contents


def overlaps(dataset: Dataset, groups: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """What each pair of splits shares; pairs that share nothing are left out.

    Args:
        dataset: the rows.
        groups: keys of the rows (a patient, a tweet) whose values should not stand in two splits.

    Returns:
        For ``train_test``, ``train_val`` and ``val_test``: ``of`` (rows of the second split), ``rows`` of it that show
        what a row of the first shows, ``image_rows`` of it whose image is in the first, ``images`` (distinct), and for
        each group ``{"shared": ..., "of": ...}``, in values.
    """
    contents = image_contents((*dataset.train, *dataset.val, *dataset.test))
    found: dict[str, dict[str, Any]] = {}
    for first, second in PAIRS:
        shared = _shared(getattr(dataset, first), getattr(dataset, second), contents, groups)
        if shared["rows"] or shared["image_rows"] or any(group["shared"] for group in shared["groups"].values()):
            found[f"{first}_{second}"] = shared
    return found


def _shared(
    first: Sequence[Sample], second: Sequence[Sample], contents: Mapping[str, str], groups: Sequence[str]
) -> dict[str, Any]:
    def picture(row: Sample) -> str | None:
        return contents[row.image] if row.image is not None else None

    shown = {(picture(row), row.text, row.question) for row in first}
    pictures = {picture(row) for row in first} - {None}
    repeated = [picture(row) for row in second if picture(row) in pictures]
    named = {}
    for group in groups:
        values = {row.keys[group] for row in second if group in row.keys}
        if values:
            seen = values & {row.keys[group] for row in first if group in row.keys}
            named[group] = {"shared": len(seen), "of": len(values)}
    return {
        "of": len(second),
        "rows": sum((picture(row), row.text, row.question) in shown for row in second),
        "image_rows": len(repeated),
        "images": len(set(repeated)),
        "groups": named,
    }


def overlap_sentences(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What :func:`overlaps` found, a sentence for each pair of splits."""
    names = {"train": "training", "val": "validation", "test": "test"}
    sentences = []
    for pair, shared in found.items():
        first, second = (names[part] for part in pair.split("_"))
        said = []
        if shared["rows"]:
            said.append(f"{shared['rows']:,} show what a {first} row shows")
        if shared["image_rows"]:
            images = "1 image" if shared["images"] == 1 else f"{shared['images']:,} images"
            said.append(f"{shared['image_rows']:,} share their image with a {first} row ({images})")
        said += [
            f"{count['shared']:,} of {count['of']:,} values of {group} stand in {first} too"
            for group, count in shared["groups"].items()
            if count["shared"]
        ]
        sentences.append(f"Of {shared['of']:,} {second} rows, {', and '.join(said)}.")
    return sentences


def label_counts(dataset: Dataset, template: Template) -> dict[str, dict[str, int]]:
    """Rows of each split by option, or by kind where there are none; in the template's order."""
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        rows: Sequence[Sample] = getattr(dataset, split)
        if template.task == "choice":
            labels = Counter(row.label for row in rows)
            counts[split] = {name: labels[i] for i, name in enumerate(template.options)}
        else:
            kinds = Counter(row.kind for row in rows if row.kind)
            counts[split] = dict(sorted(kinds.items()))
    return counts


def label_sentences(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Options that are asked for in evaluation although no training row has them."""
    sentences = []
    trained = counts["train"]
    for split in ("val", "test"):
        unseen = [name for name, count in counts[split].items() if count and not trained.get(name)]
        if unseen and any(trained.values()):
            sentences.append(f"No training row has {', '.join(unseen)}, which {split} rows have.")
    return sentences
