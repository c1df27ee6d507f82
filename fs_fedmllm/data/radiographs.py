"""Radiology pictures and what their annotations say of each: organ, modality and plane.

The pictures are those of VQA-RAD and, where its images are at hand, of SLAKE. Each belongs to one part for good, by
the bytes of its file, whatever else there is: a base that is aligned on the part ``align`` has seen no picture of the
others.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fs_fedmllm.data import slake as slake_adapter
from fs_fedmllm.data import vqa_rad as rad_adapter
from fs_fedmllm.data.files import folder_in
from fs_fedmllm.data.findings import Findings, RowError
from fs_fedmllm.data.images import image_sha256
from fs_fedmllm.data.sample import Sample

ORGANS = ("head", "chest", "abdomen")
#: Part -> share of the pictures. ``align`` is for alignment alone, the others are a federation's.
PARTS: Mapping[str, float] = {"align": 0.45, "train": 0.32, "val": 0.06, "test": 0.17}

#: What the annotations call an organ -> its name here; others (neck, pelvis) are left out and counted.
_CALLED = {
    **{"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"},
    **{"Brain": "head", "Brain_Tissue": "head", "Brain_Face": "head", "Abdomen": "abdomen", "Lung": "chest"},
    **{"Chest_lung": "chest", "Chest_heart": "chest", "Chest_mediastinal": "chest"},
}
_MODALITIES = {
    "CT": r"\bct\b|computed tomography|\bcat scan",
    "MRI": r"\bmri?\b|magnetic resonance|\bflair\b|\bt[12]\b|\bdwi\b|diffusion[- ]weighted",
    "X-ray": r"\bx[- ]?rays?\b|\bcxr\b|radiograph|plain film",
}
_PLANES = {
    "axial": r"\baxial\b|transverse",
    "coronal": r"\bcoronal\b",
    "sagittal": r"\bsagg?itt?al\b",
    "frontal": r"\bpa\b|\bap\b|postero-?anterior|antero-?posterior|posterior[- ]anterior|anterior[- ]posterior",
}


@dataclass(frozen=True)
class Picture:
    """A picture and what its annotations say.

    Attributes:
        path: absolute, of the file.
        digest: sha256 of the file.
        organ: one of :data:`ORGANS`.
        modality: ``CT``, ``MRI`` or ``X-ray``; empty where no row says it, or rows contradict each other.
        plane: ``axial``, ``coronal``, ``sagittal`` or ``frontal``; empty likewise.
        part: one of :data:`PARTS`.
    """

    path: str
    digest: str
    organ: str
    modality: str
    plane: str
    part: str


def part_of(key: str, shares: Mapping[str, float]) -> str:
    """The part that a key falls into, on every machine the same.

    Args:
        key: anything that names what is dealt: a file's digest, a disease.
        shares: part -> share, which sum to 1.
    """
    point = int.from_bytes(hashlib.sha256(f"radiographs:{key}".encode()).digest()[:8], "big") / 2**64
    last = ""
    for part, share in shares.items():
        last = part
        if (point := point - share) < 0:
            break
    return last


def read_pictures(
    root: Path, *, data_set: str, vqa_rad: str = "vqa_rad", slake: str = "", findings: Findings | None = None
) -> list[Picture]:
    """Every picture of head, chest or abdomen, once each, in the order of their digests.

    Args:
        root: the folder above the sets' own.
        data_set: who asks, for messages.
        vqa_rad: folder of VQA-RAD below it.
        slake: folder of SLAKE with its images; empty leaves SLAKE out.
        findings: where to put what is wrong; without it the first error is raised.

    Raises:
        ConfigError: a folder is not there.
        DataError: a file is wrong, or one picture is said to show two organs.
    """
    found = findings or Findings()
    home = folder_in(root, data_set, "vqa_rad", vqa_rad)
    read = rad_adapter.load(home, findings=found)
    rows: list[Sample] = [*read.train, *read.test]
    told: list[Sample] = [*read.train]
    if slake:
        home = folder_in(root, data_set, "slake", slake)
        for split in slake_adapter.FILES:
            more = slake_adapter.read_split(home, split, language="en", require_images=True, findings=found)
            rows += more
            told += more if split == "train" else ()
    return _pictures(rows, told, str(root), found)


def _pictures(rows: Iterable[Sample], told: Iterable[Sample], root: str, found: Findings) -> list[Picture]:
    """Pictures of all rows; what they show beside the organ is told by training rows alone."""
    digests: dict[str, str] = {}
    organs: dict[str, tuple[str, Sample]] = {}
    paths: dict[str, str] = {}
    others: set[str] = set()
    for row in rows:
        assert row.image is not None
        organ = _CALLED.get(row.keys.get("organ", ""), "")
        if not organ:
            others.add(row.image)
            continue
        if row.image not in digests:
            digests[row.image] = _sha256(row.image, row.source)
        digest = digests[row.image]
        first = organs.setdefault(digest, (organ, row))
        if first[0] != organ:
            problem = f"the picture shows the {organ} here and the {first[0]} in {first[1].source}."
            found.error(RowError(row.source, problem, "Correct one of the two."))
        paths.setdefault(digest, row.image)
    others -= digests.keys()
    if others:
        found.warn(root, f"{len(others):,} pictures of other parts than {', '.join(ORGANS)} were left out.")
    said: dict[str, list[Sample]] = defaultdict(list)
    for row in told:
        if row.image in digests:
            said[digests[row.image]].append(row)
    return [
        Picture(
            path=paths[digest],
            digest=digest,
            organ=organs[digest][0],
            modality=told_by(said[digest], _MODALITIES),
            plane=told_by([row for row in said[digest] if "PLANE" in _kind(row)], _PLANES),
            part=part_of(digest, PARTS),
        )
        for digest in sorted(paths)
    ]


def _kind(row: Sample) -> str:
    return row.keys.get("question_type", "").upper()


def told_by(rows: Sequence[Sample], words: Mapping[str, str]) -> str:
    """What rows about modality or plane agree upon; empty where none tells or they contradict each other.

    Args:
        rows: of one picture. An open answer tells by its words, a ``yes`` by those of the question, a ``no`` nothing.
        words: name -> regular expression of what it is called.
    """
    names: set[str] = set()
    for row in rows:
        question, answer = (row.question or "").lower(), row.answer.strip().lower()
        if not {"MODALITY", "PLANE"} & set(re.split(r"\W+", _kind(row))) or answer == "no" or " not " in question:
            continue
        text = question if answer == "yes" else answer
        named = {name for name, pattern in words.items() if re.search(pattern, text)}
        if len(named) == 1:
            names |= named
    return names.pop() if len(names) == 1 else ""


def _sha256(path: str, where: str) -> str:
    try:
        return image_sha256(path)
    except OSError as error:
        raise RowError(where, f"the image {path} cannot be read: {error.strerror}.", "Check the file.") from error
