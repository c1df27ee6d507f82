"""The medical task of FedMLLM: VQA-RAD gives the images, flashcards give the text, clients hold either or both.

Train is VQA-RAD followed by the flashcards, told apart by ``keys["data_type"]`` (``image`` or ``text``).
Test is VQA-RAD's, SLAKE's (zero-shot) or both, told apart by ``keys["set"]``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fs_fedmllm.data import flashcards as cards_adapter
from fs_fedmllm.data import slake as slake_adapter
from fs_fedmllm.data import vqa_rad as rad_adapter
from fs_fedmllm.data.files import folder_in
from fs_fedmllm.data.findings import Findings
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.errors import ConfigError

TESTS = ("vqa_rad", "slake", "both")


def load(
    root: Path,
    *,
    vqa_rad: str = "vqa_rad",
    flashcards: str = "flashcards",
    slake: str = "slake",
    test: str = "vqa_rad",
    flashcards_file: str = "",
    max_repeats: int = 0,
    language: str = "both",
    require_images: bool = True,
    findings: Findings | None = None,
) -> Dataset:
    """Read the sets of the medical task, each from its own folder under ``root``.

    Args:
        root: the folder above the others.
        vqa_rad: folder of VQA-RAD.
        flashcards: folder of the flashcards.
        slake: folder of SLAKE, read only if it is tested on.
        test: what is tested on: ``vqa_rad``, ``slake`` or ``both``.
        flashcards_file: name of the flashcards' file, as the option ``file`` of ``flashcards``.
        max_repeats: as in ``flashcards``.
        language: as in ``slake``.
        require_images: whether a missing image file is an error.
        findings: where to put what is wrong; without it the first error is raised.
    """
    if test not in TESTS:
        raise ConfigError(f"medical: test must be one of {', '.join(TESTS)}, not {test!r}.")
    found = findings or Findings()
    rad = rad_adapter.load(
        folder_in(root, "medical", "vqa_rad", vqa_rad), require_images=require_images, findings=found
    )
    cards_home = folder_in(root, "medical", "flashcards", flashcards)
    cards = cards_adapter.load(cards_home, file=flashcards_file, max_repeats=max_repeats, findings=found)
    tests = {"vqa_rad": rad}
    if test != "vqa_rad":
        home = folder_in(root, "medical", "slake", slake)
        tests["slake"] = slake_adapter.load(home, language=language, require_images=require_images, findings=found)
    used = [rad, cards, *(tests[name] for name in ("slake",) if name in tests)]
    return Dataset(
        name="medical",
        template="medical",
        train=[*_named(rad.train), *_named(cards.train)],
        val=[],
        test=[sample for name, part in tests.items() if test in (name, "both") for sample in _named(part.test)],
        warnings=found.warnings,
        fingerprint=hashlib.sha256("\n".join(part.fingerprint for part in used).encode()).hexdigest(),
    )


def _named(samples: Iterable[Sample]) -> Iterable[Sample]:
    """Ids that stay unique when sets are put together."""
    return (replace(sample, id=f"{sample.keys['set']}-{sample.id}") for sample in samples)
