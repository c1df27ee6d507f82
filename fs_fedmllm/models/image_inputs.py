"""What a model's processor makes of an image: the tokens that stand for it, and the inputs of the vision tower."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fs_fedmllm.data.findings import RowError
from fs_fedmllm.data.images import check_image, open_image, pixels_key
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.models.batch import Encoded
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.models.vision import VisionEntry, VisionFeatures, forward_arguments


@dataclass(frozen=True, slots=True)
class Expansion:
    """What stands for one image among the token ids.

    Attributes:
        placeholder: token id that the chat template writes for an image.
        ids: token ids that take its place.
        extras: the token-aligned inputs over those ids.
    """

    placeholder: int
    ids: tuple[int, ...]
    extras: dict[str, tuple[int, ...]]


def token_aligned(outputs: Mapping[str, torch.Tensor]) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Token ids, and the further inputs of a processor's output with one value per token."""
    ids = outputs["input_ids"]
    extras = {
        name: tuple(tensor[0].tolist())
        for name, tensor in outputs.items()
        if name not in ("input_ids", "attention_mask") and tensor.shape == ids.shape
    }
    return tuple(ids[0].tolist()), extras


def _vision_part(outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs of the vision tower among a processor's output."""
    shape = outputs["input_ids"].shape
    return {name: tensor for name, tensor in outputs.items() if tensor.shape != shape}


class ImageInputs:
    """The images of one model; each goes through its processor once, unless a row has to go there as a whole.

    Args:
        mllm: the model.
        vision: the cache of vision features, or None to send pixels through the model every time.
        tokens: token ids of a text that the chat template wrote.
    """

    def __init__(self, mllm: MLLM, vision: VisionFeatures | None, tokens: Callable[[str], tuple[int, ...]]):
        self.mllm = mllm
        self.vision = vision
        self._tokens = tokens
        self._beside: dict[tuple[int, int], int] = {}
        self._keys: dict[str, str] = {}
        self._expansions: dict[str, Expansion | None] = {}

    @functools.cached_property
    def _probe(self) -> str:
        """A conversation about an image with next to no text."""
        return self.mllm.family.chat(self.mllm.processor, "?", True)

    def tokens_beside(self, image: str, where: str) -> int:
        """Tokens that an image of this size adds to a prompt.

        Raises:
            DataError: the image cannot be read.
        """
        size = check_image(image, where)
        if size not in self._beside:
            ids, _ = token_aligned(self.process(self._probe, image, where))
            self._beside[size] = len(ids) - len(self._tokens(self._probe))
        return self._beside[size]

    def expansion(self, image: str, where: str) -> Expansion | None:
        """What the processor puts in place of an image's placeholder; each image goes through it once.

        None if it does more to a prompt than that; then every row goes through the processor as a whole.
        """
        if image in self._expansions:
            return self._expansions[image]
        outputs = self.process(self._probe, image, where)
        if self.vision is not None:
            key = self.key(image)
            if self.vision.get(key) is None:
                self.vision.compute(key, _vision_part(outputs))
        ids, extras = token_aligned(outputs)
        plain = self._tokens(self._probe)
        placeholder = getattr(self.mllm.processor, "image_token_id", None)
        found = None
        if self.mllm.family.splices and placeholder is not None and plain.count(placeholder) == 1:
            at = plain.index(placeholder)
            end = len(ids) - (len(plain) - at - 1)
            only_inside = all(not any(v[:at]) and not any(v[end:]) for v in extras.values())
            if end > at and ids[:at] == plain[:at] and ids[end:] == plain[at + 1 :] and only_inside:
                found = Expansion(placeholder, ids[at:end], {name: v[at:end] for name, v in extras.items()})
        self._expansions[image] = found
        return found

    def process(self, chat: str, image: str, where: str, processor: Any = None) -> dict[str, torch.Tensor]:
        """The processor's output for a conversation with an image.

        Args:
            chat: as the chat template wrote it.
            image: path.
            where: ``file:line`` of the row, for messages.
            processor: another than the model's.

        Raises:
            DataError: the image cannot be read, or the processor cannot take it.
        """
        picture = open_image(image, where)
        family, arguments = self.mllm.family, self.mllm.image_arguments
        try:
            return family.process(processor or self.mllm.processor, chat, picture, arguments)
        except (FedMLLMError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a processor says in its own words what it cannot take
            said = " ".join(f"{type(error).__name__}: {error}".split())
            given = f" with model.fedmllm.image {dict(arguments)}" if arguments else ""
            problem = (
                f"the model's processor ({family.name}) cannot take the image {image} ({picture.width:,} x "
                f"{picture.height:,} pixels){given}: {said[:400]}."
            )
            raise RowError(where, problem, "Crop, enlarge or scale the image, or remove the row.") from error

    def key(self, path: str) -> str:
        """What decides an image's pixels, computed once."""
        if path not in self._keys:
            self._keys[path] = pixels_key(path)
        return self._keys[path]

    def entry(self, row: Encoded) -> VisionEntry:
        """The cached vision features of a row's image."""
        assert self.vision is not None and row.image is not None
        key = self.key(row.image)
        entry = self.vision.get(key)
        return entry if entry is not None else self.vision.compute(key, self._vision_inputs(row))

    def forward_inputs(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        """The part of a forward pass's arguments that stands for the images of rows that have one."""
        if self.vision is not None:
            return forward_arguments(self.mllm.family, [self.entry(row) for row in rows])
        if not rows:
            return {}
        inputs = {}
        for name, pixels in self.mllm.family.join_pixels([self._vision_inputs(row) for row in rows]).items():
            tensor = pixels.to(self.mllm.device)
            inputs[name] = tensor.to(self.mllm.inner.dtype) if tensor.is_floating_point() else tensor
        return inputs

    def _vision_inputs(self, row: Encoded) -> dict[str, torch.Tensor]:
        """The processor's vision outputs for a row's image, computed again (after eviction, or without a cache)."""
        assert row.image is not None
        return _vision_part(self.process(self._probe, row.image, row.source))
