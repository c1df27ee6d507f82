"""Rows as a model is asked about them: chat template, image placeholders and shortened texts included.

The token ids are those that a run would make; they are turned back into text. No weights are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.lengths import configured_lengths
from fs_fedmllm.models.skeleton import skeleton

#: Placeholders of one image that are written out; more are counted.
WRITTEN_OUT = 3


def seen_prompts(config: Config, template: Template, rows: Sequence[Sample]) -> Iterator[tuple[str, str]]:
    """The prompt of each row, up to where the model goes on, and what it is taught to write there.

    Args:
        config: of the run: its model, prompt variant and lengths.
        template: of the prompts.
        rows: what is asked about.

    Raises:
        ModelError: the model's configuration and processor are not on this machine.
        DataError: an image cannot be read, or a row is too long.
    """
    mllm = skeleton(config.model.fedmllm)
    encoder = Encoder(mllm, template, config.fedmllm.prompt, None, configured_lengths(config, mllm))
    placeholders = {getattr(mllm.processor, "image_token_id", None), *mllm.tokenizer.all_special_ids}
    for row in encoder.encode(rows):
        said = _text(mllm.tokenizer, row.prompt, placeholders)
        cut = "\n(the row is too long: a part of its text is left out)" if row.shortened else ""
        yield f"{said}{cut}", _text(mllm.tokenizer, row.completion, placeholders)


def _text(tokenizer: Any, ids: Sequence[int], placeholders: set[int | None]) -> str:
    """Token ids as text; a placeholder that stands many times in a row is written once, with how often."""
    parts: list[str] = []
    waiting: list[int] = []

    def read(some: Sequence[int]) -> str:
        return str(tokenizer.decode(list(some), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    for token, group in itertools.groupby(ids):
        count = sum(1 for _ in group)
        if token in placeholders and count > WRITTEN_OUT:
            parts += [read(waiting), f"{read([token])} (x {count})"]
            waiting = []
        else:
            waiting += [token] * count
    return "".join([*parts, read(waiting)])
