"""What hundreds of runs of one test process have in common, made once: rows, their lengths, and what images become.

Each is kept by all that it depends on. Of rows and images only those of the embedded data and model are kept; whatever
a test makes itself is read, and goes through its own model, every time.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def _file(path: Any) -> tuple[Any, ...]:
    """What changes when a file does."""
    stat = os.stat(path)
    return str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size


@contextmanager
def rows_made_once() -> Iterator[None]:
    """The embedded data set of a name and seed is made once, for as long as its folder of images stays as it is."""
    from fs_fedmllm.data import digits

    kept: dict[Any, Any] = {}
    make = digits.load_digits_dataset

    def made(name: str, cache: Path, seed: int = 0) -> Any:
        folder = Path(cache).resolve() / f"digits-v{digits.VERSION}"
        key = (name, folder, seed)
        found, stands = kept.get(key, (None, None))
        if found is None or not folder.is_dir() or stands != _file(folder):
            found = make(name, cache, seed)
            kept[key] = (found, _file(folder))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "load_digits_dataset", made)
        yield


@contextmanager
def rows_measured_once() -> Iterator[None]:
    """Runs begin with the same question of the same rows: which are too long?

    The answer is kept by the prompt, the image file, the model's processor and the limits.
    """
    from fs_fedmllm.models.encoding import Encoder

    kept: dict[Any, bool] = {}
    measure = Encoder._may_be_long

    def measured(self: Encoder, sample: Any) -> bool:
        try:
            image = sample.image and _file(sample.image)
        except OSError:
            return measure(self, sample)
        prompt = self.template.prompt(sample, self.variant)
        key = (prompt, image, self._answer_tokens(sample, True), self.lengths, self.mllm.processor)
        if key not in kept:
            kept[key] = measure(self, sample)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "_may_be_long", measured)
        yield


@contextmanager
def images_seen_once() -> Iterator[None]:
    """The embedded model's processor and vision tower see each image once."""
    from fs_fedmllm.models.image_inputs import ImageInputs
    from fs_fedmllm.models.loader import TINY
    from fs_fedmllm.models.vision import VisionEntry, VisionFeatures

    outputs: dict[Any, Any] = {}
    entries: dict[Any, VisionEntry] = {}
    models: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # an id can be another's later
    process, compute = ImageInputs.process, VisionFeatures.compute

    def number(mllm: Any, vision: VisionFeatures | None) -> int | None:
        # A run without a budget is about what lives in memory: nothing is kept for it, nor for another kind of cache.
        budget = vision is None or (isinstance(vision, VisionFeatures) and vision._budget > 0)
        kept = mllm.source in ("tiny", str(TINY)) and budget
        return models.setdefault(mllm, len(models)) if kept else None

    def processed(self: ImageInputs, chat: str, image: str, where: str, processor: Any = None) -> Any:
        model = number(self.mllm, self.vision)
        if model is None or processor is not None or not os.path.isfile(image):
            return process(self, chat, image, where, processor)
        key = (model, chat, _file(image), repr(self.mllm.image_arguments))
        if key not in outputs:
            outputs[key] = process(self, chat, image, where)
        return dict(outputs[key])

    def computed(self: VisionFeatures, image_key: str, inputs: Any) -> VisionEntry:
        model = number(self._mllm, self)
        if model is None:
            return compute(self, image_key, inputs)
        key = (model, image_key)
        if key not in entries:
            entries[key] = compute(self, image_key, inputs)
            return entries[key]
        self.computed += 1
        self._store(image_key, entries[key])
        self._write(image_key, entries[key])
        return entries[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageInputs, "process", processed)
        patch.setattr(VisionFeatures, "compute", computed)
        yield
