"""Images without torchvision, and around a torchvision that does not fit torch; the one place that knows.

transformers reads images with Pillow when torchvision is absent, but every video processor needs torchvision, and a
processor that has a slot for one refuses to be built without it. Nothing here reads videos, so the slot gets a
stand-in. A torchvision that is installed counts as usable for transformers even if ``import torchvision`` fails, as
it does with a GPU build of it beside a CPU build of torch; :func:`repair` handles that pair and names any other.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.errors import ModelError

#: Keeps the declared operators alive; torch forgets them with the library object.
_DECLARED: list[torch.library.Library] = []


def _cuda_of(folder: Path) -> str | None:
    """The CUDA version that a torchvision was built for, read without importing it."""
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\s*(?::[^=]*)?=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return found.group(1) if found else None


def repair() -> bool:
    """See to it that an installed torchvision can be imported; True if there is one.

    A GPU build beside a CPU torch lacks its compiled operators, and its import fails at the first of them. Declared
    beforehand they are merely unusable, and nothing that reads images calls them.

    Raises:
        ModelError: torchvision is installed and cannot be imported.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    folder = Path(spec.origin).parent
    if not _DECLARED and torch.version.cuda is None and _cuda_of(folder) is not None:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            with contextlib.suppress(RuntimeError):  # a torchvision with its operators is there already
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # whatever its compiled parts run into
        raise ModelError(
            f"torchvision is installed ({folder}) but cannot be imported: {error}. It does not fit torch "
            f"{torch.__version__}. Install the torchvision of this torch, or remove it (pip uninstall torchvision): "
            "images are then read with Pillow."
        ) from error
    return True


class NoVideo:
    """Stands for a video processor; made into one of transformers' classes when first needed."""

    def __new__(cls) -> Any:
        return _stand_in()()


def _stand_in() -> Any:
    """The stand-in's class. It derives from transformers' mixin, so that processors can save and reload it."""
    global _CLASS
    if _CLASS is None:
        from transformers.feature_extraction_utils import FeatureExtractionMixin

        class NoVideoProcessor(FeatureExtractionMixin):
            """Refuses videos, and has the attributes that processors read at construction."""

            model_input_names: tuple[str, ...] = ()
            merge_size = 2
            temporal_patch_size = 2
            slice_mode = False
            downsample_mode = "16x"
            num_frames = 1
            fps = 1

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                raise ModelError("This installation reads images only; videos need torchvision.")

        _CLASS = NoVideoProcessor
    return _CLASS


_CLASS: Any = None


@contextlib.contextmanager
def images_without_torchvision() -> Iterator[None]:
    """While it lasts, processors with a slot for videos can be built and loaded although torchvision is absent."""
    if repair():
        yield
        return
    from transformers.processing_utils import ProcessorMixin

    # By its name: the package's lazy attribute is a dummy without torchvision.
    automatic = importlib.import_module("transformers.models.auto.video_processing_auto").AutoVideoProcessor
    check = ProcessorMixin.check_argument_for_proper_class
    load = automatic.__dict__["from_pretrained"]

    def lenient(self: Any, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return type(argument)
        return check(self, argument_name, argument)

    try:
        ProcessorMixin.check_argument_for_proper_class = lenient  # type: ignore[method-assign]
        automatic.from_pretrained = classmethod(lambda cls, *args, **kwargs: NoVideo())
        yield
    finally:
        ProcessorMixin.check_argument_for_proper_class = check  # type: ignore[method-assign]
        automatic.from_pretrained = load
