"""The record format of the authors' released code, read and written.

A file is a JSON list of ``{"id", "image", "conversations"}``; ``image`` is an absolute path or null, and the
user's turn is the finished prompt. Reading takes the prompt apart again with the template that made it, so
that presence, text and label are known and the prompt can be made anew in either variant.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fs_fedmllm.data.files import fingerprint, place_in
from fs_fedmllm.data.findings import Findings, RowError, convert
from fs_fedmllm.data.image_paths import ImageFolder
from fs_fedmllm.data.json_rows import json_rows
from fs_fedmllm.data.row_values import Row, need, text_of
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.short_templates import VARIANTS
from fs_fedmllm.data.template import Template
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.atomic import beside, private_folder

_MARK = "<image>\n"


def load(
    root: Path,
    *,
    template: str,
    train: str = "client_*.json",
    val: str = "",
    test: str = "",
    image_root: str = "",
    image_prefix: str = "",
    require_images: bool = True,
    findings: Findings | None = None,
) -> Dataset:
    """Read records; ``keys["client"]`` is the name of the file that a row came from.

    Args:
        root: the folder of the files.
        template: the template that the prompts were made with, a name or the path of a .yaml.
        train: the files of the training rows, a pattern relative to ``root``.
        val: the same for validation; empty for none.
        test: the same for testing; empty for none.
        image_root: the folder that the images must lie in; empty for ``root``.
        image_prefix: taken off the front of the recorded paths, which are absolute on another machine.
        require_images: whether a missing image file is an error.
        findings: where to put what is wrong; without it the first error is raised.
    """
    found = findings or Findings()
    asked = load_template(template)
    images = ImageFolder(place_in(root.absolute(), "records", "image_root", image_root), required=require_images)
    files = {split: _files(root, pattern) for split, pattern in (("train", train), ("val", val), ("test", test))}
    parts = {
        split: _numbered(
            [sample for path in paths for sample in _read(path, asked, images, image_prefix, found)],
            root,
            split,
            found,
        )
        for split, paths in files.items()
    }
    return Dataset(
        name="records",
        template=template,
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        warnings=found.warnings,
        fingerprint=fingerprint(path for paths in files.values() for path in paths),
    )


def record(sample: Sample, template: Template, variant: str = "original") -> dict[str, Any]:
    """One row as the authors store it: exactly these keys, in this order."""
    number = sample.id.isdecimal() and str(int(sample.id)) == sample.id
    return {
        "id": int(sample.id) if number else sample.id,
        "image": sample.image,
        "conversations": [
            {"role": "user", "content": template.record_prompt(sample, variant)},
            {"role": "assistant", "content": template.answer_of(sample)},
        ],
    }


def write_records(
    samples: Iterable[Sample], path: str | os.PathLike[str], template: Template, variant: str = "original"
) -> int:
    """Write rows as one JSON list, a record a line; returns how many.

    The file is its owner's alone, and appears only when it is complete.
    """
    path = Path(path)
    private_folder(path.parent)
    count = 0
    with beside(path, private=True) as part, part.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for sample in samples:
            stream.write(",\n" if count else "\n")
            stream.write(json.dumps(record(sample, template, variant), ensure_ascii=False))
            count += 1
        stream.write("\n]\n")
    return count


def _files(root: Path, pattern: str) -> list[Path]:
    if not pattern:
        return []
    if os.path.isabs(pattern) or ".." in Path(pattern).parts:
        raise ConfigError(f"records: {pattern!r} must be a pattern of files inside {root}.")
    files = sorted(
        root.glob(pattern), key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", str(p))]
    )
    if not files:
        raise RowError(str(root), f"no file matches {pattern!r}.", "Point the root at the folder of the client files.")
    return files


def _read(path: Path, template: Template, images: ImageFolder, prefix: str, found: Findings) -> list[Sample]:
    def make(row: Row, where: str) -> Sample:
        image = _image(need(row, "image", where), prefix, images, where)
        prompt, answer = _turns(need(row, "conversations", where), where)
        if prompt.startswith(_MARK) != (image is not None):
            problem = "the prompt has <image> but the record has no image." if image is None else "<image> is missing."
            raise RowError(where, problem, "Generate the record again.")
        sample = Sample(text_of(row, "id", where), image, None, answer, keys={"client": path.stem}, source=where)
        return parse_prompt(sample, prompt.removeprefix(_MARK), template)

    return convert(json_rows(path, found), make, found)


def _image(value: Any, prefix: str, images: ImageFolder, where: str) -> str | None:
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise RowError(where, f"the record has {len(value)} images.", "Only one image a row is supported.")
        value = next(iter(value.values()))
    if value is None:
        return None
    if isinstance(value, str) and prefix and value.startswith(prefix):
        value = value[len(prefix) :].lstrip("/\\")
    try:
        return images.resolve(value, where)
    except RowError as error:
        remedy = "Set image_prefix to what must come off the recorded paths and image_root to where the images are."
        raise RowError(where, error.problem, remedy) from error


def _turns(value: Any, where: str) -> tuple[str, str]:
    if not isinstance(value, list) or [isinstance(t, Mapping) and t.get("role") for t in value] != [
        "user",
        "assistant",
    ]:
        raise RowError(where, "conversations must be one turn of user and one of assistant.", "Generate it again.")
    texts = [turn.get("content") for turn in value]
    if not all(isinstance(text, str) for text in texts):
        remedy = "Generate it again; a label outside the options leaves the answer out."
        raise RowError(where, "a turn of the conversation has no content.", remedy)
    return texts[0], texts[1]


def parse_prompt(sample: Sample, prompt: str, template: Template) -> Sample:
    """Put into a sample what its finished prompt says: text and label, or the question.

    Raises:
        DataError: the prompt or the answer is not of this template.
    """
    if template.task == "vqa":
        return replace(sample, question=_question(sample, prompt, template))
    label = next((i for i in range(len(template.options)) if template.answer(i) == sample.answer), None)
    if label is None:
        known = ", ".join(template.answer(i) for i in range(len(template.options)))
        raise RowError(sample.source, f"the answer {sample.answer!r} is none of the options.", f"Known: {known}.")
    for variant in VARIANTS:
        for text in ("", None):  # the frame of the prompt, with and without a text
            frame = template.prompt(replace(sample, text=text), variant)
            if text is None:
                if prompt == frame:
                    return replace(sample, label=label)
                continue
            case = template.cases[variant][replace(sample, text="").presence]
            head = f"{template.instruction}{case.basis}.\n"
            tail = frame[len(head) :]
            if prompt.startswith(head) and prompt.endswith(tail) and len(prompt) >= len(frame):
                return replace(sample, text=prompt[len(head) : len(prompt) - len(tail)], label=label)
    raise RowError(
        sample.source,
        f"the prompt is not one of the template {template.name!r}.",
        "Name the template it was made with, or pass the data through data.type own.",
    )


def _question(sample: Sample, prompt: str, template: Template) -> str:
    for variant in reversed(VARIANTS):  # the augmented form is the longer one
        before, _, after = template.cases[variant][sample.presence].question.partition("{question}")
        if prompt.startswith(before) and prompt.endswith(after) and len(prompt) > len(before) + len(after):
            return prompt[len(before) : len(prompt) - len(after)]
    raise RowError(
        sample.source, f"the prompt is not one of the template {template.name!r}.", "Name another template."
    )


def _numbered(samples: list[Sample], root: Path, split: str, found: Findings) -> list[Sample]:
    """The authors' ids repeat over clients in some sets; later rows get a number after theirs."""
    seen: Counter[str] = Counter()
    made = []
    for sample in samples:
        seen[sample.id] += 1
        again = seen[sample.id]
        made.append(sample if again == 1 else replace(sample, id=f"{sample.id}#{again}"))
    repeated = sum(count - 1 for count in seen.values())
    if repeated:
        found.warn(str(root), f"{repeated:,} ids of {split} are used more than once; a number was put after them.")
    return made
