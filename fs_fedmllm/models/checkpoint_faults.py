"""What libraries say of a checkpoint whose files are not what they should be, as one error that names it.

A configuration or a tokenizer that somebody damaged, or a chat template with a fault, ends in any error of Python's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from fs_fedmllm.errors import FedMLLMError, ModelError


@contextlib.contextmanager
def told_of(problem: str, remedy: str = "") -> Iterator[None]:
    """Turn what is raised inside into a ``ModelError`` of one paragraph; our own errors pass.

    Args:
        problem: what could not be done, with the checkpoint's name.
        remedy: what to do.

    Raises:
        ModelError: with the library's words.
    """
    try:
        yield
    except (FedMLLMError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        if not isinstance(error, OSError | ValueError | ImportError):  # their words need their name
            said = f"{type(error).__name__}: {said}"
        raise ModelError(f"{problem}: {said}{f'. {remedy}' if remedy else ''}") from error


def check_whole(path: str, found: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks weights: transformers draws them at random, with a warning.

    Args:
        path: of the checkpoint.
        found: what ``from_pretrained`` tells with ``output_loading_info``.

    Raises:
        ModelError: names the first that is missing.
    """
    missing = sorted(found.get("missing_keys") or ())
    if missing:
        raise ModelError(
            f"The checkpoint {path!r} lacks {len(missing):,} weights of its model, the first {missing[0]!r}; they "
            "would be drawn at random. Download it again, or correct its config.json."
        )
