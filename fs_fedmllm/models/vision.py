"""Outputs of the frozen vision tower and projector, computed once per image.

A client's images return every time it is drawn, and the part of the model that reads them is frozen, so its
output is a constant. It is computed one image at a time: then the values do not depend on which images happened
to share a batch, and a resumed run has the bytes of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.errors import StorageError
from fs_fedmllm.files.atomic import remove_abandoned, write_atomically
from fs_fedmllm.models.families import Family
from fs_fedmllm.models.families.base import Features
from fs_fedmllm.models.mllm import MLLM

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VisionEntry:
    """What the language model needs of one image.

    Attributes:
        features: list of tensors (tokens, width), or one tensor with a leading image axis, as the model returns it.
        side: further inputs that ``forward`` wants beside the features, such as ``image_grid_thw``.
        deep: features for single language layers.
    """

    features: list[torch.Tensor] | torch.Tensor
    side: Mapping[str, torch.Tensor]
    deep: tuple[torch.Tensor, ...] = ()

    @property
    def bytes(self) -> int:
        """Memory that the entry holds."""
        pooled = self.features if isinstance(self.features, list) else [self.features]
        tensors = [*pooled, *self.side.values(), *self.deep]
        return sum(t.numel() * t.element_size() for t in tensors)


class VisionFeatures:
    """Memory first, then disk, under a byte budget; the least recently used entry goes first.

    A disk that is full or cannot be written to (or read) costs time and not the run: the disk's part is switched off.

    Args:
        mllm: the model; its identity is part of every key.
        memory_bytes: budget in memory.
        folder: folder of the disk cache, or None. Files are written beside and renamed, so several processes can
            share it. They are their owner's alone: much of an image can be told from its features.
    """

    def __init__(self, mllm: MLLM, memory_bytes: int, folder: Path | None = None):
        self._mllm = mllm
        self._budget = memory_bytes
        self._folder = folder
        if folder is not None:  # what killed processes left; others may be writing right now
            with contextlib.suppress(OSError):
                for part in folder.glob("[0-9a-f][0-9a-f]/"):
                    remove_abandoned(part)
        self._entries: OrderedDict[str, VisionEntry] = OrderedDict()
        self.bytes = 0
        self.computed = 0

    def get(self, image_key: str) -> VisionEntry | None:
        """The entry of an image, or None if it must be computed."""
        entry = self._entries.get(image_key)
        if entry is not None:
            self._entries.move_to_end(image_key)
            return entry
        entry = self._read(image_key)
        if entry is not None:
            self._store(image_key, entry)
        return entry

    def compute(self, image_key: str, inputs: Mapping[str, torch.Tensor]) -> VisionEntry:
        """Run the vision tower on one image and keep the result.

        Args:
            image_key: content hash of the image.
            inputs: the processor's vision outputs for that image.
        """
        device = self._mllm.device
        arguments = {name: tensor.to(device) for name, tensor in inputs.items()}
        if "pixel_values" in arguments:
            arguments["pixel_values"] = arguments["pixel_values"].to(self._mllm.inner.dtype)
        was_training = self._mllm.inner.training
        self._mllm.set_training(False)
        with torch.inference_mode(False), torch.no_grad():
            found = self._mllm.family.features(self._mllm.inner, arguments)
        self._mllm.set_training(was_training)
        side = {name: tensor for name, tensor in arguments.items() if name not in self._mllm.family.pixels}
        entry = VisionEntry(found.pooled, side, found.deep)
        self.computed += 1
        self._store(image_key, entry)
        self._write(image_key, entry)
        return entry

    def _store(self, image_key: str, entry: VisionEntry) -> None:
        self._entries[image_key] = entry
        self.bytes += entry.bytes
        while self.bytes > self._budget and len(self._entries) > 1:
            _, old = self._entries.popitem(last=False)
            self.bytes -= old.bytes

    def expected_bytes(self, images: int) -> int:
        """Memory that so many images will hold, if they are as large as those that are held now."""
        return min(self._budget, self.bytes * images // max(1, len(self._entries)))

    def _path(self, image_key: str) -> Path | None:
        if self._folder is None:
            return None
        digest = hashlib.sha256(f"{self._mllm.identity}:{image_key}".encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.safetensors"

    def _write(self, image_key: str, entry: VisionEntry) -> None:
        path = self._path(image_key)
        if path is None:
            return
        from safetensors.torch import save

        tensors = {f"side.{name}": t.cpu().contiguous() for name, t in entry.side.items()}
        tensors |= {f"deep.{i:04d}": t.cpu().contiguous() for i, t in enumerate(entry.deep)}
        if isinstance(entry.features, list):
            tensors |= {f"list.{i:04d}": t.cpu().contiguous() for i, t in enumerate(entry.features)}
        else:
            tensors["tensor"] = entry.features.cpu().contiguous()
        try:
            write_atomically(path, save(tensors), durable=False, private=True)
        except (OSError, StorageError) as error:
            self._switch_off("written to", error)

    def _switch_off(self, what: str, error: Exception) -> None:
        said = str(getattr(error.__cause__ or error, "strerror", None) or error)
        logger.warning(
            "The vision cache %s (fedmllm.vision_cache.folder) cannot be %s: %s. The run goes on without it; features "
            "that do not fit into memory are computed again.", self._folder, what, said,
        )  # fmt: skip
        self._folder = None

    def _read(self, image_key: str) -> VisionEntry | None:
        path = self._path(image_key)
        if path is None:
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = {name: t.to(self._mllm.device) for name, t in load(path.read_bytes()).items()}
        except FileNotFoundError:
            return None
        except OSError as error:
            self._switch_off("read", error)
            return None
        except SafetensorError:  # a torn file is a miss; it is written anew
            return None
        side = {name[5:]: t for name, t in tensors.items() if name.startswith("side.")}
        listed = [tensors[name] for name in sorted(tensors) if name.startswith("list.")]
        deep = tuple(tensors[name] for name in sorted(tensors) if name.startswith("deep."))
        return VisionEntry(listed if listed else tensors["tensor"], side, deep)


def forward_arguments(family: Family, entries: Sequence[VisionEntry]) -> dict[str, Any]:
    """The model's keyword arguments for the images of a batch, in row order; {} for a batch without images."""
    if not entries:
        return {}
    first = entries[0].features
    pooled: Any
    if isinstance(first, list):
        pooled = [tensor for entry in entries for tensor in entry.features]
    else:
        pooled = torch.cat([entry.features for entry in entries])  # type: ignore[misc]
    deep = tuple(torch.cat(layer) for layer in zip(*(entry.deep for entry in entries), strict=True))
    side = family.join_pixels([entry.side for entry in entries])
    return {**family.feature_inputs(Features(pooled, deep)), **side}
