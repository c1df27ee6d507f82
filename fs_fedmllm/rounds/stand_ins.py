"""Rows of one modality in the form of complete ones: the missing part filled by something that says nothing.

Where no client has a complete row, training never shows the prompt that the global model is asked at the end. With
probability q a row of one modality is shown here as a complete one: beside its text an image of grey noise, beside its
image a random sentence about nothing of the task. Its answer stays its own. Something that carries no information
cannot carry another client's; it is drawn from the seed, the round, the client and the row's place alone, and neither
the row's content nor its label plays a part. Variety matters: one fixed sentence is learnt as a sign. Random
replacements for absent modalities are older than this (PmcmFL, arXiv 2312.13508, shares prototypes of the modality; no
client here sees anything of another's).

What the server has allowed comes with the round's message, a number each for images and texts
(:mod:`fs_fedmllm.rounds.stand_in_guard`). Evaluation never comes here.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fs_fedmllm.config import StandInsConfig
from fs_fedmllm.data.registry import cache_dir
from fs_fedmllm.data.sample import MODALITIES, Sample
from fs_fedmllm.errors import ConfigError, UpdateError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.rounds.batches import STREAM_STAND_INS

#: What is allowed, in a round's message: (image, text), 1 or 0 each.
ALLOWED = "stand_ins/allowed"
#: Distinct noise images, so that the vision tower sees so many and no more: a process computes them once.
POOL = 128
#: Small and square: a model that cuts images into tiles makes one of it.
SIDE = 32

SUBJECTS = ("the bird", "a cat", "the old tree", "a small fish", "the river", "a grey stone", "the wind", "a leaf")
VERBS = ("rests near", "moves past", "looks like", "stays under", "grows beside", "falls behind")
OBJECTS = ("the hill", "a green field", "the blue lake", "an old wall", "the long road", "a quiet garden")
ENDINGS = ("in spring", "every winter", "at dawn", "very slowly", "as usual", "without a sound")
#: Small words, which a sentence may share with an option.
_COMMON = {"the", "and", "not", "are", "for", "with", "very", "near", "like", "past", "under", "without", "every"}


def pixels(index: int) -> np.ndarray:
    """A noise image of the pool, (SIDE, SIDE) grey values."""
    return np.random.default_rng([20261125, index]).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)


@functools.lru_cache(maxsize=POOL)
def noise_image(index: int) -> str:
    """Path of a noise image; its file is made, or made anew if it is another, when it is first asked for."""
    from PIL import Image

    path, wanted = cache_dir().resolve() / "noise-v1" / f"{index:03d}.png", pixels(index)
    if not _is(path, wanted):
        buffer = io.BytesIO()
        Image.fromarray(wanted).save(buffer, format="PNG")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue(), durable=False)
    return str(path)


def _is(path: Path, wanted: np.ndarray) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.mode == "L" and np.array_equal(np.asarray(picture), wanted)
    except (OSError, ValueError, SyntaxError):
        return False


@functools.lru_cache(maxsize=8)
def neutral_phrases(options: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The parts of neutral sentences, without those that share a word with an option.

    Raises:
        ConfigError: too few are left.
    """
    words = {word for option in options for word in option.lower().replace("-", " ").split() if len(word) > 2}
    words -= _COMMON
    parts = tuple(
        tuple(phrase for phrase in part if not words & set(phrase.split()))
        for part in (SUBJECTS, VERBS, OBJECTS, ENDINGS)
    )
    if min(map(len, parts)) < 2:
        raise ConfigError(
            "fedmllm.stand_ins.text is neutral, and the template's options share so many words with its sentences "
            "that too few are left. Set it to tokens."
        )
    return parts


@functools.lru_cache(maxsize=4)
def plain_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Token ids that are short printable text and none of the model's own."""
    own = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = [i for i in range(len(tokenizer)) if i not in own]
    texts = tokenizer.batch_decode([[i] for i in ids])
    return tuple(
        i
        for i, text in zip(ids, texts, strict=True)
        if len(text.strip()) > 0 and len(text) < 12 and text.isprintable() and "\ufffd" not in text
    )


class StandIns:
    """What stands in for a missing part. It never sees a row.

    Args:
        config: ``fedmllm.stand_ins``.
        options: the template's.
        tokenizer: the model's, for texts of random tokens.
    """

    def __init__(self, config: StandInsConfig, options: Sequence[str], tokenizer: Any):
        self.config = config
        self._options = tuple(options)
        self._tokenizer = tokenizer

    def image(self, rng: np.random.Generator) -> str:
        """Path of an image."""
        return noise_image(int(rng.integers(POOL)))

    def text(self, rng: np.random.Generator) -> str:
        """A text of seven words or so."""
        if self.config.text == "tokens":
            ids = rng.choice(plain_tokens(self._tokenizer), size=8)
            return str(self._tokenizer.decode(ids.tolist())).strip()
        return " ".join(part[int(rng.integers(len(part)))] for part in neutral_phrases(self._options))

    def completed(
        self, rows: Sequence[Sample], batches: Sequence[Sequence[int]], allowed: frozenset[str], place: Sequence[int]
    ) -> tuple[list[list[int]], dict[int, Sample]]:
        """A plan's batches with some rows of one modality as complete ones.

        Args:
            rows: the client's.
            batches: row indices of each step.
            allowed: the modalities that may be stood in for.
            place: seed, round and client. What a row is shown with is a function of that, its index, and how often it
                came before in the plan.

        Returns:
            The batches, where a completed row has an index of its own from ``len(rows)`` on, and those rows by index.
        """
        made: dict[int, Sample] = {}
        seen: dict[int, int] = {}
        changed = []
        for batch in batches:
            shown = []
            for i in batch:
                visit = seen[i] = seen.get(i, -1) + 1
                whole = self._whole(rows[i], allowed, np.random.default_rng([*place, i, visit]))
                if whole is not None:
                    made[len(rows) + len(made)] = whole
                shown.append(i if whole is None else len(rows) + len(made) - 1)
            changed.append(shown)
        return changed, made

    def _whole(self, row: Sample, allowed: frozenset[str], rng: np.random.Generator) -> Sample | None:
        lacks = {"image": "text", "text": "image"}.get(row.presence)
        if lacks is None or lacks not in allowed or rng.random() >= self.config.q:
            return None
        if lacks == "image":
            return dataclasses.replace(row, image=self.image(rng))
        return dataclasses.replace(row, text=self.text(rng))


def place_of(seed: int, round_index: int, client: int) -> tuple[int, ...]:
    """Where a client's draws of a round come from."""
    return (seed, STREAM_STAND_INS, round_index, client)


def allowed_in(message: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """The modalities that a round's message lets clients stand in for.

    Raises:
        UpdateError: the message says it in no form of ours.
    """
    said = message.get(ALLOWED)
    if said is None:
        return frozenset()
    if said.shape != (len(MODALITIES),):
        raise UpdateError(f"the server's {ALLOWED!r} has the shape {tuple(said.shape)} and not ({len(MODALITIES)},)")
    return frozenset(kind for kind, on in zip(MODALITIES, said.tolist(), strict=True) if on)


def telling(allowed: frozenset[str]) -> dict[str, torch.Tensor]:
    """The part of a round's message that says so."""
    return {ALLOWED: torch.tensor([float(kind in allowed) for kind in MODALITIES])}
