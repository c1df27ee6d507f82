"""Triage by report and picture: real radiology pictures beside real medical questions, with exact ceilings.

A picture (VQA-RAD's, and SLAKE's where its images are at hand) shows head, chest or abdomen; a question of MedQuAD
asks for treatment, frequency, inheritance or outlook of a disease. The label is a function of both: ``4 * organ +
kind``. Three pictures, one of each organ, share one question of each kind, so that the best accuracy follows from
counting: 25 % from the picture alone, 1/3 from the text alone, 1/12 from neither; whoever composes both can reach
100 %.

Pictures are split by their bytes and questions by their disease, for good; pictures of the part ``align`` are in no
row here. The ``seed`` changes only which pictures and questions are paired.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fs_fedmllm.data import flashcards
from fs_fedmllm.data.files import folder_in
from fs_fedmllm.data.findings import Findings
from fs_fedmllm.data.radiographs import ORGANS, Picture, part_of, read_pictures
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import DataError

if TYPE_CHECKING:
    import numpy as np

NAME = "real_triage"
#: MedQuAD's ``qtype``, in the order of the options.
KINDS = ("treatment", "frequency", "inheritance", "outlook")
SPLITS = ("train", "val", "test")
#: Split -> share of the diseases.
TEXTS: Mapping[str, float] = {"train": 0.6, "val": 0.12, "test": 0.28}


def load(
    root: Path,
    *,
    vqa_rad: str = "vqa_rad",
    medquad: str = "medquad",
    slake: str = "",
    medquad_file: str = "",
    seed: int = 0,
    findings: Findings | None = None,
) -> Dataset:
    """Pair pictures and questions.

    Args:
        root: the folder above the sets' own.
        vqa_rad: folder of VQA-RAD below it.
        medquad: folder of MedQuAD's questions and answers, one JSON file with the keys ``input``, ``output``,
            ``qtype`` and ``focus``.
        slake: folder of SLAKE with its images; empty leaves SLAKE out.
        medquad_file: name of MedQuAD's file; empty takes the folder's only JSON file.
        seed: which pictures and questions of a part are paired.
        findings: where to put what is wrong; without it the first error is raised.

    Raises:
        ConfigError: a folder is not there.
        DataError: a row is wrong, or a split has no picture of an organ or no question of a kind.
    """
    import numpy as np

    found = findings or Findings()
    pictures = read_pictures(root, data_set=NAME, vqa_rad=vqa_rad, slake=slake, findings=found)
    home = folder_in(root, NAME, "medquad", medquad)
    questions = _questions(flashcards.read_pairs(flashcards.find_file(home, medquad_file), found))
    made = {
        split: _rows(split, pictures, questions[split], np.random.default_rng([seed, number]), root)
        for number, split in enumerate(SPLITS)
    }
    own = [picture for picture in pictures if picture.part in SPLITS]
    used = {row.image for rows in made.values() for row in rows}
    if len(own) > len(used):
        found.warn(
            str(root), f"{len(own) - len(used):,} of {len(own):,} pictures are in no row: each organ has as many."
        )
    return Dataset(
        name=NAME, template=NAME, train=made["train"], val=made["val"], test=made["test"],
        warnings=found.warnings, fingerprint=_fingerprint(made, pictures), title="triage by report and picture",
    )  # fmt: skip


def _questions(rows: Iterable[Sample]) -> dict[str, dict[str, list[Sample]]]:
    """Split -> kind -> questions, each text once; all questions about a disease are in one split."""
    pools: dict[str, dict[str, list[Sample]]] = {split: {kind: [] for kind in KINDS} for split in SPLITS}
    seen: set[str] = set()
    for row in rows:
        assert row.question is not None
        kind, text = row.keys.get("question_type", ""), row.question.strip()
        if kind not in KINDS or text in seen:
            continue
        seen.add(text)
        disease = row.keys.get("disease", text)
        pools[part_of(disease.casefold(), TEXTS)][kind].append(row)
    for pool in pools.values():
        for rows_of_kind in pool.values():
            rows_of_kind.sort(key=lambda row: str(row.question))
    return pools


def _rows(
    split: str,
    pictures: Iterable[Picture],
    questions: Mapping[str, Sequence[Sample]],
    rng: np.random.Generator,
    root: Path,
) -> list[Sample]:
    """A split's rows, shuffled: pictures in threes, one of each organ, with one question of each kind."""
    by_organ: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        if picture.part == split:
            by_organ[picture.organ].append(picture)
    threes = min(*(len(by_organ[organ]) for organ in ORGANS), *(len(questions[kind]) for kind in KINDS))
    if not threes:
        lacking = [f"picture of the {organ}" for organ in ORGANS if not by_organ[organ]]
        lacking += [f"question of the kind {kind}" for kind in KINDS if not questions[kind]]
        raise DataError(
            f"{root}: the {split} rows of {NAME} have no {lacking[0]}. Pictures and diseases go to a split by their "
            "digests, so small folders may leave one empty: take more of both."
        )
    shown = {organ: [by_organ[organ][i] for i in rng.permutation(len(by_organ[organ]))[:threes]] for organ in ORGANS}
    asked = {kind: [questions[kind][i] for i in rng.permutation(len(questions[kind]))[:threes]] for kind in KINDS}
    answer = load_template(NAME).answer
    rows = []
    for three in range(threes):
        for k, kind in enumerate(KINDS):
            for o, organ in enumerate(ORGANS):
                picture, question = shown[organ][three], asked[kind][three]
                label = len(KINDS) * o + k
                keys = {"organ": organ, "question_type": kind, "image": Path(picture.path).name}
                rows.append(
                    Sample(
                        id=f"{split}-{picture.digest[:16]}-{kind}",
                        image=picture.path,
                        text=str(question.question).strip(),
                        answer=answer(label),
                        label=label,
                        kind="choice",
                        keys=keys | {name: question.keys[name] for name in ("disease",) if name in question.keys},
                        source=question.source,
                    )
                )
    return [rows[i] for i in rng.permutation(len(rows))]


def _fingerprint(made: Mapping[str, Sequence[Sample]], pictures: Iterable[Picture]) -> str:
    """sha256 over the rows and their pictures' bytes, wherever those lie."""
    digests = {picture.path: picture.digest for picture in pictures}
    digest = hashlib.sha256()
    for split, rows in made.items():
        for row in rows:
            digest.update(repr((split, row.id, digests[str(row.image)], row.text, row.answer)).encode())
    return digest.hexdigest()
