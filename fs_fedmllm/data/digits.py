"""Embedded data sets of real handwritten digits, whose unimodal ceilings are exact.

The images are scikit-learn's 1,797 digits of 8x8 pixels. Three tasks are built from them so that the
best score from one input alone follows from counting labels per image and per text:

* ``digits_match``: does the claim name the digit? Image-only and text-only AUC are 0.5.
* ``digits_memes``: the same question where the image tells a part, as in memes: claims about a low digit are
  mostly false, about a high one mostly true. 75 % (AUC 0.75) from the image alone, 50 % (0.5) from the claim.
* ``digits_triage``: the image decides the ward (two), the sentence the desk (four intents). At most 25 %
  from the image alone, 50 % from the text alone; a global model that composes both can reach 100 %.
* ``digits_panel``: two digits side by side, with closed and open questions. 50 % and 10 % from the
  question alone.

The split of the images is fixed: the tiny model that ships is pre-trained on ``pretrain`` images, which
no data set here contains. The ``seed`` of a data set changes only which images and texts are paired.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable
from functools import cache as memoize
from pathlib import Path
from typing import Any

import numpy as np

from fs_fedmllm.data.digit_texts import CLAIMS, INTENTS, WORDS, split_sentences
from fs_fedmllm.data.sample import Dataset, Sample
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.files.atomic import remove_abandoned, write_atomically

#: Changes with the content of the files, which a cache of an older version must not hide.
VERSION = 1
#: Images and sentences are split with this seed once and for all, whatever the data set's own seed.
SPLIT_SEED = 20240604
SIDE = 32
GROUPS = ("lower", "upper")
#: Images of each digit in each part; the rest (at least 14 of each) is left to ``test``.
PER_DIGIT = {"pretrain": 80, "train": 60, "val": 10}
PARTS = ("train", "val", "test")

#: Images of each digit that a part of the triage set uses; each gives one row per intent.
_TRIAGE = {"train": 60, "val": 4, "test": 10}
#: Images of each digit that a part of the match set uses; each gives a true and a false claim.
_MATCH = {"train": 60, "val": 9, "test": 21}
#: The same of the memes set, whose balance needs a multiple of six: two claims an image and three wordings.
_MEMES = {"train": 60, "val": 6, "test": 24}
#: Left digits of each kind in a part of the panel set; each gives two panels of three questions.
_PANEL = {"train": 18, "val": 2, "test": 6}

#: From one digit of a panel to the other; 5 is left out because it would show the same two images twice.
_PANEL_SHIFTS = (1, 2, 3, 4, 6, 7, 8, 9)

LARGER = "is the left digit larger than the right digit"
ON_THE = "which digit is on the {side}"


@memoize
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.asarray(bunch.images), np.asarray(bunch.target)


@memoize
def image_split() -> dict[str, dict[int, tuple[int, ...]]]:
    """Part -> digit -> indices of scikit-learn's images; the parts are disjoint and cover all images."""
    _, target = _digits()
    parts: dict[str, dict[int, tuple[int, ...]]] = {part: {} for part in (*PER_DIGIT, "test")}
    for digit in range(10):
        order = np.random.default_rng([SPLIT_SEED, digit]).permutation(np.flatnonzero(target == digit))
        start = 0
        for part, count in PER_DIGIT.items():
            parts[part][digit] = tuple(int(i) for i in order[start : start + count])
            start += count
        parts["test"][digit] = tuple(int(i) for i in order[start:])
    return parts


def render(*indices: int) -> Any:
    """The digits side by side as a grey ``PIL.Image`` of 32 pixels height and 32 width per digit."""
    from PIL import Image

    grey = np.hstack([_digits()[0][i] for i in indices]) * (255.0 / 16.0)
    image = Image.fromarray(np.rint(grey).astype(np.uint8))
    return image.resize((SIDE * len(indices), SIDE), Image.Resampling.BILINEAR)


class _Images:
    """Writes each image once, under a name that says what it is, and remembers what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        remove_abandoned(folder)
        self.paths: dict[tuple[int, ...], str] = {}

    def path(self, *indices: int) -> str:
        """The absolute path of the image of these digits."""
        if indices not in self.paths:
            target = self.folder / ("-".join(f"{i:04d}" for i in indices) + ".png")
            if not target.is_file():
                buffer = io.BytesIO()
                render(*indices).save(buffer, format="PNG")
                # Two processes may fill one cache; neither sees half a file.
                write_atomically(target, buffer.getvalue(), durable=False)
            self.paths[indices] = str(target)
        return self.paths[indices]


def _chosen(part: str, counts: dict[str, int], rng: np.random.Generator) -> list[np.ndarray]:
    """For each digit, ``counts[part]`` of its images in this part, shuffled."""
    return [rng.permutation(image_split()[part][digit])[: counts[part]] for digit in range(10)]


def _match(part: str, images: _Images, rng: np.random.Generator) -> list[Sample]:
    """Claims. Every digit uses the same list of (template, shift), so each text is as often true as false."""
    answer = load_template("digits_match").answer
    rows = []
    for digit, indices in enumerate(_chosen(part, _MATCH, rng)):
        for j, index in enumerate(indices):
            claim = CLAIMS[j % len(CLAIMS)]
            wrong = (digit + 1 + (j // len(CLAIMS)) % 9) % 10
            for label, word in ((1, WORDS[digit]), (0, WORDS[wrong])):
                rows.append(
                    Sample(
                        id=f"match-{part}-{index:04d}-{label}",
                        image=images.path(int(index)),
                        text=claim.format(word=word),
                        answer=answer(label),
                        label=label,
                        kind="closed",
                        keys={"digit": WORDS[digit], "claimed": word, "image": f"{index:04d}"},
                    )
                )
    return rows


def _memes(part: str, images: _Images, rng: np.random.Generator) -> list[Sample]:
    """Two claims an image; a false one names a digit of the other group, so each text is as often true as false."""
    answer = load_template("digits_match").answer
    told = Counter[tuple[int, int]]()  # claims by label, and digit of a true one or group of a false one
    rows = []
    for digit, indices in enumerate(_chosen(part, _MEMES, rng)):
        group = digit // 5
        for j, index in enumerate(indices):
            # Every other image has a true and a false claim, the others two of what its group is mostly.
            for number, label in enumerate((1, 0) if j % 2 == 0 else (group, group)):
                about = digit if label else group
                nth = told[label, about]
                told[label, about] += 1
                claimed, claim = (digit, nth) if label else (5 * (1 - group) + nth % 5, nth // 5)
                rows.append(
                    Sample(
                        id=f"memes-{part}-{index:04d}-{number}",
                        image=images.path(int(index)),
                        text=CLAIMS[claim % len(CLAIMS)].format(word=WORDS[claimed]),
                        answer=answer(label),
                        label=label,
                        kind="closed",
                        keys={
                            "digit": WORDS[digit],
                            "claimed": WORDS[claimed],
                            "group": GROUPS[group],
                            "image": f"{index:04d}",
                        },
                    )
                )
    return rows


def _triage(part: str, images: _Images, rng: np.random.Generator) -> list[Sample]:
    """Requests. A pair of images, one of each ward, shares one sentence of each intent."""
    answer = load_template("digits_triage").answer
    chosen = _chosen(part, _TRIAGE, rng)
    lower = rng.permutation(np.concatenate(chosen[:5]))
    upper = rng.permutation(np.concatenate(chosen[5:]))
    pools = split_sentences(SPLIT_SEED)[part]
    texts = {intent: rng.permutation(pools[intent])[: len(lower)] for intent in INTENTS}
    target = _digits()[1]
    rows = []
    for pair, wards in enumerate(zip(lower, upper, strict=True)):
        for desk, intent in enumerate(INTENTS):
            for ward, index in enumerate(wards):
                label = 4 * ward + desk
                rows.append(
                    Sample(
                        id=f"triage-{part}-{index:04d}-{intent}",
                        image=images.path(int(index)),
                        text=str(texts[intent][pair]),
                        answer=answer(label),
                        label=label,
                        kind="choice",
                        keys={
                            "digit": WORDS[target[index]],
                            "group": GROUPS[ward],
                            "intent": intent,
                            "image": f"{index:04d}",
                        },
                    )
                )
    return rows


def _panel(part: str, images: _Images, rng: np.random.Generator) -> list[Sample]:
    """Panels. Two digits are shown in both orders, so that half of the closed answers are yes."""
    chosen = _chosen(part, _PANEL, rng)
    rows = []
    for digit, indices in enumerate(chosen):
        for j, index in enumerate(indices):
            other = (digit + _PANEL_SHIFTS[j % 8]) % 10
            partner = chosen[other][j]
            for left, right, l_digit, r_digit in ((index, partner, digit, other), (partner, index, other, digit)):
                panel = f"{left:04d}-{right:04d}"
                common = {
                    "image": panel,
                    "left": WORDS[l_digit],
                    "right": WORDS[r_digit],
                }
                questions = (
                    ("closed", LARGER, "yes" if l_digit > r_digit else "no", WORDS[l_digit]),
                    ("open", ON_THE.format(side="left"), WORDS[l_digit], WORDS[l_digit]),
                    ("open", ON_THE.format(side="right"), WORDS[r_digit], WORDS[r_digit]),
                )
                for number, (kind, question, said, asked) in enumerate(questions):
                    rows.append(
                        Sample(
                            id=f"panel-{part}-{panel}-{number}",
                            image=images.path(int(left), int(right)),
                            text=None,
                            answer=said,
                            question=question,
                            kind=kind,
                            keys={"digit": asked, **common},
                        )
                    )
    return rows


_BUILDERS: dict[str, Callable[[str, _Images, np.random.Generator], list[Sample]]] = {
    "digits_match": _match,
    "digits_memes": _memes,
    "digits_triage": _triage,
    "digits_panel": _panel,
}
#: The template of a data set that has none of its own name.
_TEMPLATES = {"digits_memes": "digits_match"}


def _fingerprint(parts: dict[str, list[Sample]]) -> str:
    """sha256 of the source pixels and of the rows, without the place of the cache."""
    digest = hashlib.sha256(_digits()[0].astype(np.uint8).tobytes())
    for part, rows in parts.items():
        for row in rows:
            digest.update(repr((part, row.id, row.text, row.question, row.answer)).encode())
    return digest.hexdigest()


def load_digits_dataset(name: str, cache: Path, seed: int = 0) -> Dataset:
    """Build an embedded data set; its images are written once, below ``cache``.

    Args:
        name: ``digits_match``, ``digits_memes``, ``digits_triage`` or ``digits_panel``.
        cache: folder for the images; it is made if it does not exist.
        seed: which images of a part are used and which texts they are paired with. The parts themselves,
            and so the images that the tiny model has seen, do not depend on it.

    Raises:
        ConfigError: there is no such data set.
    """
    if name not in _BUILDERS:
        raise ConfigError(f"No embedded data set {name!r}; there are {', '.join(_BUILDERS)}.")
    folder = Path(cache).resolve() / f"digits-v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    images = _Images(folder)
    made: dict[str, list[Sample]] = {}
    for number, part in enumerate(PARTS):
        rng = np.random.default_rng([seed, number])
        rows = _BUILDERS[name](part, images, rng)
        made[part] = [rows[i] for i in rng.permutation(len(rows))]
    return Dataset(
        name=name,
        template=_TEMPLATES.get(name, name),
        train=tuple(made["train"]),
        val=tuple(made["val"]),
        test=tuple(made["test"]),
        fingerprint=_fingerprint(made),
    )
