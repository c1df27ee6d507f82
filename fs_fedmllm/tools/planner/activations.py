"""How much memory a step needs, from shapes alone.

The step is run for real by PyTorch, forward and backward, on fake tensors: they know their size and device and hold no
values, so an 8-billion-parameter model costs nothing. A dispatch mode sees every tensor that is made and when it goes,
which gives the peak of what is alive at once. What kernels allocate inside themselves is not seen.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fs_fedmllm.models.loader import MLLM

logger = logging.getLogger(__name__)


#: glibc takes blocks of at least this size from the system one by one and gives them back; smaller ones it may keep.
HEAP_BLOCK = 32 << 20


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside the block and are alive.

    Attributes:
        now: bytes alive.
        peak: largest value of ``now`` so far.
        heap_peak: the same of tensors below :data:`HEAP_BLOCK`.

    Args:
        known: tensors that were there before; they are not counted.
    """

    def __init__(self, known: Iterator[torch.Tensor]):
        super().__init__()
        self.now = self.peak = self._heap = self.heap_peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, int] = {}

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)
        if abs(size) < HEAP_BLOCK:
            self._heap += size
            self.heap_peak = max(self.heap_peak, self._heap)

    def _freed(self, key: int) -> None:
        self._add(-self._alive.pop(key, 0))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note what it made."""
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._known or key in self._alive:
                continue
            self._alive[key] = storage.nbytes()
            self._add(storage.nbytes())
            weakref.finalize(storage, self._freed, key)
        return made


@contextlib.contextmanager
def _fake(device: str) -> Iterator[Any]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def step_memory(
    mllm: MLLM, *, train: tuple[int, int, int], scored: tuple[int, int], device: str = "cpu"
) -> tuple[int, int, int]:
    """Peak bytes of a training step and of an evaluation batch, beside weights and optimizer.

    Args:
        mllm: a skeleton (:mod:`fs_fedmllm.models.skeleton`); it is left on fake tensors.
        train: rows of a forward pass, tokens of a row, supervised columns.
        scored: rows of an evaluation batch, tokens of a row.
        device: ``cpu`` or ``cuda``, for the kernels that would be chosen.

    Returns:
        (training, evaluation, heap): the first includes the gradients of the adapter; the last is that part of it that
        a CPU's allocator takes from its heap.

    Raises:
        Exception: whatever a model raises that cannot be run on shapes alone; the caller falls back.
    """
    model, inner = mllm.model, mllm.inner
    with _fake(device):
        model.to_empty(device=device)
        known = [t for t in (*model.parameters(), *model.buffers())]

        def run(rows: int, tokens: int, columns: int) -> torch.Tensor:
            ids = torch.zeros(rows, tokens, dtype=torch.long, device=device)
            # Padded batches bring a mask; four-dimensional, it is used as it stands, whatever its values.
            mask = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool, device=device)
            places = torch.arange(tokens, device=device).expand(rows, -1)
            return inner(
                input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=columns, use_cache=False
            ).logits

        inner.train()
        with LiveBytes(iter(known)) as training:
            rows, tokens, columns = train
            logits = run(rows, tokens, columns)
            labels = torch.zeros(rows * columns, dtype=torch.long, device=device)
            F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), labels, reduction="sum").backward()
            del logits
        inner.eval()
        with LiveBytes(iter(known)) as evaluation, torch.no_grad():
            run(*scored, 1)
    return training.peak, evaluation.peak, training.heap_peak
