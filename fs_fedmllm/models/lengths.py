"""How long a row may be, in tokens, and what is left out of one that is longer.

The paper cuts its rows at 1,200 tokens. Here it is the row's own text that is shortened, from its end, and after it
the row's own question; an image, the options and the answer stay whole. The place of the cut depends on the prompt and
on the room that answers need, never on which answer is right.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.models.mllm import MLLM

#: The paper's maximum length.
PAPER = 1200


@dataclass(frozen=True)
class Lengths:
    """What a row may be at most.

    Attributes:
        limit: tokens of a row with its answer; 0 shortens nothing.
        positions: of the model; 0 where it does not say. A longer row is refused.
        new_tokens: room that is kept for a written answer.
    """

    limit: int
    positions: int
    new_tokens: int

    @property
    def most(self) -> int:
        """The limit, or the model's positions where there is none; 0 for neither."""
        return self.limit or self.positions


def row_lengths(mllm: MLLM, max_length: int = -1, new_tokens: int = 16) -> Lengths:
    """The lengths of a model's rows.

    Raises:
        ConfigError: the limit is above the model's positions.
    """
    text = mllm.inner.config.get_text_config()
    positions = int(getattr(text, "max_position_embeddings", 0) or 0)
    if 0 < positions < max_length:
        raise ConfigError(
            f"fedmllm.train.max_length is {max_length}, but the model has {positions} positions: use at most that, or "
            f"-1 for the smaller of {PAPER} and the model's."
        )
    limit = max_length if max_length >= 0 else min(PAPER, positions or PAPER)
    return Lengths(limit, positions, new_tokens)


def configured_lengths(config: Config, mllm: MLLM) -> Lengths:
    """The lengths of a run's rows."""
    return row_lengths(mllm, config.fedmllm.train.max_length, config.fedmllm.eval.max_new_tokens)


def most_tokens(text: str) -> int:
    """More tokens than a text can have: none is shorter than a byte, of the text or of its longest normal form."""
    forms = (text,) if text.isascii() else (text, unicodedata.normalize("NFKD", text))
    return max(len(form.encode("utf-8", errors="replace")) for form in forms) + 8


def shortened(sample: Sample, tokens: Callable[[Sample], int], room: int, *, asks: bool) -> Sample | None:
    """The row with as much of the beginning of its text, and then of its question, as fits.

    Args:
        sample: a row that does not fit.
        tokens: a row's tokens, without its answer.
        room: how many there may be.
        asks: whether the prompt shows the row's question, of which at least a letter stays.

    Returns:
        The shorter row, which shows the same modalities; None if nothing that may be left out suffices.
    """
    if sample.text:
        kept = _longest(sample.text, lambda text: tokens(dataclasses.replace(sample, text=text)) <= room, 0, room)
        sample = dataclasses.replace(sample, text=kept or "")
        if kept is not None:
            return sample
    if asks and sample.question:
        asked = _longest(sample.question, lambda q: tokens(dataclasses.replace(sample, question=q)) <= room, 1, room)
        if asked is not None:
            return dataclasses.replace(sample, question=asked)
    return None


def _longest(text: str, fits: Callable[[str], bool], least: int, room: int) -> str | None:
    """A longest beginning of a text that fits, of at least so many characters; None if there is none."""
    if not fits(text[:least]):
        return None
    good, bad = least, max(least + 1, min(4 * room, len(text)))
    while bad < len(text) and fits(text[:bad]):  # a million characters are not read over and over
        good, bad = bad, min(2 * bad, len(text))
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(text[:middle]) else (good, middle)
    return text[:good]


def too_long(where: str, tokens: int, lengths: Lengths, image: int = 0) -> DataError:
    """What to say of a row that cannot be made to fit, or may not be.

    Args:
        where: the row.
        tokens: of what cannot be shortened, with room for the answer.
        lengths: what they may be.
        image: how many of them are the image's.
    """
    alone = f", {image} of them its image's" if image else ""
    remedies = "Ask for fewer image tokens (model.fedmllm.image_tokens)"
    if not lengths.limit:
        return DataError(
            f"{where}: the row takes {tokens} tokens with its answer{alone}, and the model has {lengths.positions} "
            "positions. Set fedmllm.train.max_length to -1, which shortens texts, or shorten the row."
        )
    if lengths.limit < (lengths.positions or PAPER + tokens):
        most = f" to at most {lengths.positions}" if lengths.positions else ""
        remedies = f"Raise fedmllm.train.max_length{most} (0 for no limit), or ask for fewer image tokens " \
            "(model.fedmllm.image_tokens)"  # fmt: skip
    return DataError(
        f"{where}: without its text the row still takes {tokens} tokens with its answer{alone}, and it may have "
        f"{lengths.limit} (fedmllm.train.max_length; the model has {lengths.positions or 'unknown'} positions). "
        f"{remedies}, shorten the answer or the options, or remove the row."
    )
