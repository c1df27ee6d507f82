"""From samples to token ids and model inputs, through the processor's own chat template.

A row is encoded once and kept as integers. Batches are padded on the left, for training and for scoring alike:
then the answers of all rows end in the last columns, and the language-model head is asked for those alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.batch import IGNORED, Batch, Encoded
from fs_fedmllm.models.chat_template import PROBE, check, check_image, check_text
from fs_fedmllm.models.completions import Completions, end_tokens
from fs_fedmllm.models.image_inputs import ImageInputs, token_aligned
from fs_fedmllm.models.lengths import Lengths, most_tokens, row_lengths, shortened, too_long
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.row_text import Hidden, RowText
from fs_fedmllm.models.vision import VisionFeatures


class Encoder:
    """Encodes rows for one model, template and prompt variant, and remembers them.

    Args:
        mllm: the model.
        template: what rows are asked.
        variant: ``original`` or ``augmented``.
        vision: the cache of vision features, or None to send pixels through the model every time.
        lengths: how long rows may be; None takes the defaults.
    """

    def __init__(
        self,
        mllm: MLLM,
        template: Template,
        variant: str,
        vision: VisionFeatures | None,
        lengths: Lengths | None = None,
    ):
        self.mllm = mllm
        self.template = template
        self.variant = variant
        self.lengths = lengths or row_lengths(mllm)
        self._rows: dict[tuple[str, str | None, str, bool], Encoded] = {}
        self._frames: dict[bool, tuple[int, ...]] = {}
        self._around: dict[bool, int | None] = {}
        self._row_text = RowText(mllm.processor, mllm.family)
        self.images = ImageInputs(mllm, vision, self._row_text.tokens)
        ends = end_tokens(mllm.tokenizer, mllm.family.generation_config(mllm.inner))
        self._writes_images = False
        check(mllm.processor, self._chat)
        self.completions = Completions(mllm.family, mllm.processor, self._row_text, ends)

    @property
    def vision(self) -> VisionFeatures | None:
        """The cache of vision features."""
        return self.images.vision

    def _chat(self, text: str, image: bool) -> str:
        written = self.mllm.family.chat(self.mllm.processor, text, image)
        check_text(text, written)
        return written

    @contextlib.contextmanager
    def _told_of(self, sample: Sample) -> Iterator[None]:
        """Say of a template's fault in which row it came up; how it writes images is looked at where a row has one."""
        try:
            if sample.image is not None and not self._writes_images:
                check_image(self.mllm.processor, self._chat)
                self._writes_images = True
            yield
        except ModelError as error:
            raise ModelError(f"{sample.source or f'row {sample.id}'}: {error}") from error

    def tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, without special tokens of the tokenizer's own."""
        return self._row_text.tokens(text)

    def text_tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a row's text alone, none of them the model's own."""
        hidden, ids = self._row_text.hidden(text, lambda shown: shown, ())
        return self._row_text.restore(ids, {}, hidden.pieces)[0]

    def completion(self, answer: str) -> tuple[int, ...]:
        """Token ids of what a model is to write for an answer: :meth:`Completions.ids`."""
        return self.completions.ids(answer)

    def _frame(self, image: bool) -> tuple[int, ...]:
        """The model's own tokens around a user's text."""
        if image not in self._frames:
            self._frames[image] = self._row_text.commands(self.tokens(self._chat("?", image)))
        return self._frames[image]

    def encode(self, samples: Sequence[Sample], *, answered: bool = True, keep: bool = True) -> list[Encoded]:
        """Encode rows; each distinct row goes through the processor once.

        Args:
            samples: rows.
            keep: remember them; not rows that are made for one update and never come again.
            answered: whether room is kept for each row's own answer; without it, for one that is yet to be written.

        Raises:
            DataError: an image cannot be read, or a row is too long whatever is left out of it (with its row).
            ModelError: the checkpoint's chat template cannot write a row, or changes it (with its row).
        """
        encoded = []
        for sample in samples:
            prompt = self.template.prompt(sample, self.variant)
            key = (prompt, sample.image, self.template.answer_of(sample), answered)
            found = self._rows.get(key)
            if found is None:
                with self._told_of(sample):
                    found = self._encode_one(sample, answered)
                if keep:
                    self._rows[key] = found
            encoded.append(found)
        return encoded

    def _encode_one(self, sample: Sample, answered: bool) -> Encoded:
        where = sample.source or f"row {sample.id}"
        completion = self.completion(self.template.answer_of(sample))
        ids, extras = self._prompt(sample, where)
        answer = self._answer_tokens(sample, answered)
        cut = bool(self.lengths.most) and len(ids) + answer > self.lengths.most
        if cut:
            ids, extras = self._fitting(sample, ids, answer, where)
        return Encoded(ids, completion, extras, sample.image, where, cut)

    def _hidden_prompt(self, sample: Sample) -> tuple[Hidden, tuple[int, ...]]:
        """A row's prompt with what a model would obey hidden, and its token ids before images are expanded."""
        pictured = sample.image is not None
        prompt = self.template.prompt(sample, self.variant)
        return self._row_text.hidden(prompt, lambda shown: self._chat(shown, pictured), self._frame(pictured))

    def _plain_tokens(self, sample: Sample) -> int:
        """Number of tokens of a row's prompt before images are expanded."""
        hidden, ids = self._hidden_prompt(sample)
        return len(self.completions.lead) + len(self._row_text.restore(ids, {}, hidden.pieces)[0])

    def _prompt(self, sample: Sample, where: str) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
        """Token ids of a row's prompt, and the further inputs over them."""
        hidden, ids = self._hidden_prompt(sample)
        extras: dict[str, tuple[int, ...]] = {}
        expansion = self.images.expansion(sample.image, where) if sample.image is not None else None
        if expansion is not None and ids.count(expansion.placeholder) == 1:
            at = ids.index(expansion.placeholder)
            ids = (*ids[:at], *expansion.ids, *ids[at + 1 :])
            after = len(ids) - at - len(expansion.ids)
            extras = {name: (0,) * at + values + (0,) * after for name, values in expansion.extras.items()}
        elif sample.image is not None and (text := self._written(hidden.text)) is not None:
            ids = self._row_text.tokens(text, marked=bool(hidden.pieces))
            extras = self.mllm.family.token_inputs(self.mllm.processor, ids)
        elif sample.image is not None:
            processor = self._row_text.processor if hidden.pieces else self.mllm.processor
            ids, extras = token_aligned(
                self.images.process(self._chat(hidden.text, True), sample.image, where, processor)
            )
        ids, extras = self._row_text.restore(ids, extras, hidden.pieces)
        lead = self.completions.lead
        return (*lead, *ids), {name: (*(0 for _ in lead), *values) for name, values in extras.items()}

    def _written(self, prompt: str) -> str | None:
        """The conversation of a prompt with an image in it, if the family writes it without looking at the image."""
        mllm = self.mllm
        return mllm.family.written(mllm.processor, self._chat(prompt, True), mllm.image_arguments)

    # Lengths ------------------------------------------------------------------------------------------------------

    def _answer_tokens(self, sample: Sample, answered: bool) -> int:
        """Room for the answer: the longest option's, so that the cut does not tell which is right."""
        if self.template.task == "choice":
            return self._option_tokens
        own = len(self.completion(sample.answer)) if answered else 0
        return max(own, self.lengths.new_tokens)

    @functools.cached_property
    def _option_tokens(self) -> int:
        return max(len(self.completion(self.template.answer(i))) for i in range(len(self.template.options)))

    def _fitting(
        self, sample: Sample, ids: tuple[int, ...], answer: int, where: str
    ) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
        """The prompt of a row that is too long, with less of its text."""
        if not self.lengths.limit:
            raise too_long(where, len(ids) + answer, self.lengths, self._beside(sample))
        room = most = self.lengths.limit - answer
        beside = len(ids) - self._plain_tokens(sample)  # the image's
        asks = self.template.task == "vqa"
        while True:
            shorter = shortened(sample, lambda row: beside + self._plain_tokens(row), room, asks=asks)
            if shorter is None:
                bare = dataclasses.replace(sample, text="" if sample.text is not None else None)
                raise too_long(where, beside + self._plain_tokens(bare) + answer, self.lengths, beside)
            ids, extras = self._prompt(shorter, where)
            if len(ids) <= most:
                return ids, extras
            room -= len(ids) - most  # the processor joins an image and a text in its own way

    def tokens_of(self, sample: Sample) -> tuple[int, int, int]:
        """Tokens of a row's image (by one of its size), of the rest of its prompt, and of its answer.

        Raises:
            DataError: the image cannot be read.
            ModelError: as :meth:`encode`.
        """
        with self._told_of(sample):
            completion = self.completion(self.template.answer_of(sample))
            return self._beside(sample), self._plain_tokens(sample), len(completion)

    def count_shortened(self, samples: Sequence[Sample]) -> int:
        """How many rows are shortened. Those that cannot be are told by their bytes, and by one image of their size.

        Raises:
            DataError, ModelError: as :meth:`encode`.
        """
        count = 0
        for row in samples:
            with self._told_of(row):
                long = self._may_be_long(row)
            count += long and self.encode([row])[0].shortened
        return count

    def _may_be_long(self, sample: Sample) -> bool:
        if not self.lengths.most:
            return False
        room = self.lengths.most - self._answer_tokens(sample, True) - self._beside(sample)
        prompt, pictured = self.template.prompt(sample, self.variant), sample.image is not None
        around = self._most_around(pictured)
        if around is not None and around + most_tokens(prompt) <= room:
            return False
        if most_tokens(self._chat(prompt, pictured)) <= room:
            return False
        return self._plain_tokens(sample) > room

    def _most_around(self, image: bool) -> int | None:
        """More tokens than the chat template adds to a prompt; None where it changes the text that it is given.

        It is rendered once, for a data set has many rows and nearly all of them are short.
        """
        if image not in self._around:
            before, found, after = self._chat(PROBE, image).partition(PROBE)
            self._around[image] = most_tokens(before + after) if found and PROBE not in after else None
        return self._around[image]

    def _beside(self, sample: Sample) -> int:
        """Tokens that an image of this size adds."""
        if sample.image is None or not Path(sample.image).is_file():
            return 0
        where = sample.source or f"row {sample.id}"
        return self.images.tokens_beside(sample.image, where)

    def collate(self, rows: Sequence[Encoded], *, completions: bool, suffix: Sequence[int] = ()) -> Batch:
        """A left-padded batch.

        Args:
            rows: encoded rows with or without images, mixed as they come.
            completions: append each row's completion and return labels for it.
            suffix: token ids appended to every prompt (the forced opening of an answer).
        """
        device = self.mllm.device
        sequences = [[*row.prompt, *suffix, *(row.completion if completions else ())] for row in rows]
        longest = max(len(s) for s in sequences)
        pad = self.mllm.tokenizer.pad_token_id
        ids = torch.full((len(rows), longest), pad, dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, sequence in enumerate(sequences):
            ids[i, longest - len(sequence) :] = torch.tensor(sequence)
            mask[i, longest - len(sequence) :] = 1
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        for name in {name for row in rows for name in row.extras}:
            values = torch.zeros((len(rows), longest), dtype=torch.long)
            for i, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
                if name in row.extras:
                    start = longest - len(sequence)
                    values[i, start : start + len(row.extras[name])] = torch.tensor(row.extras[name])
            inputs[name] = values.to(device)
        pictured = [row for row in rows if row.image is not None]
        inputs |= self.images.forward_inputs(pictured)
        if not completions:
            return Batch(inputs)
        widest = max(len(row.completion) for row in rows)
        labels = torch.full((len(rows), widest + 1), IGNORED, dtype=torch.long)
        for i, row in enumerate(rows):
            labels[i, widest + 1 - len(row.completion) :] = torch.tensor(row.completion)
        return Batch(inputs, labels.to(device))
