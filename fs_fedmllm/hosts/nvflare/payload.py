"""Our messages as NVFlare's: tensors travel through its own decomposers, the header as JSON that is read strictly.

NVFlare has taken a message in before anybody here sees it, so sizes are bounded by its own settings until then; what
comes out is held to the same contract as on our own wire. At the server it takes tensors in on disk
(:func:`arriving_on_disk`), so that the updates of many sites, which may come all at once, are not in memory together.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.shareable import Shareable
from nvflare.app_common.utils.tensor_disk_offload_context import _TENSOR_DISK_OFFLOAD_ROOT_DIR
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.app_opt.pt.lazy_tensor_dict import _LazyRef
from nvflare.fuel.utils import fobs
from safetensors import SafetensorError

from fs_fedmllm.distributed.contracts import Contract, FrameLimits, check_size, check_tensors
from fs_fedmllm.distributed.errors import FrameError
from fs_fedmllm.distributed.messages import Message, read_header, write_header
from fs_fedmllm.files.atomic import private_folder

#: Where the header is in a ``Shareable``.
HEADER = "fs_fedmllm"
#: Where tensors are that arrive, in the run's folder.
ARRIVING = "arriving"
#: What a task's name begins with; the rest is the phase.
PREFIX = "fedmllm_"


def prepare() -> None:
    """Let NVFlare carry tensors in this process."""
    fobs.register(TensorDecomposer)


@contextmanager
def arriving_on_disk(engine: Any, folder: Path) -> Iterator[None]:
    """Let NVFlare put tensors that arrive into files, for the length of a block; :func:`unpack` reads them.

    Its own way to switch that on puts them below ``/tmp``, where those of a process that was killed would stay.

    Args:
        engine: of NVFlare, in whose cell messages arrive.
        folder: of the run; files that an earlier process left there are removed.
    """
    place = folder / ARRIVING
    shutil.rmtree(place, ignore_errors=True)
    private_folder(place)
    # In the simulator the job has a cell beside the engine's, and messages arrive there.
    cells = [cell for cell in (engine.run_manager.cell, getattr(engine.server, "job_cell", None)) if cell is not None]
    switch = fobs.FOBSContextKey.TENSOR_DISK_OFFLOAD
    for cell in cells:
        cell.update_fobs_context({switch: True, _TENSOR_DISK_OFFLOAD_ROOT_DIR: str(place)})
    try:
        yield
    finally:
        for cell in cells:
            cell.update_fobs_context({switch: False, _TENSOR_DISK_OFFLOAD_ROOT_DIR: None})
        shutil.rmtree(place, ignore_errors=True)


def pack(message: Message) -> Shareable:
    """A message as NVFlare sends it.

    Raises:
        FrameError: the header holds something that JSON has no exact form for.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in message.tensors.items()}
    shareable = DXO(DataKind.WEIGHTS, data=tensors).to_shareable()
    shareable[HEADER] = write_header(message).decode()
    return shareable


def unpack(
    shareable: Any,
    contract_for: Callable[[str, Mapping[str, Any]], Contract],
    limits: FrameLimits | None = None,
) -> Message:
    """A message out of what NVFlare gave us, which may come from anybody with a certificate.

    Args:
        shareable: what came.
        contract_for: kind and header -> what the tensors must be.
        limits: the largest message that is taken.

    Raises:
        FrameError: it is no message of ours (ContractError: not the one that was asked for).
    """
    limits = limits or FrameLimits()
    text = shareable.get(HEADER) if isinstance(shareable, Shareable) else None
    if not isinstance(text, str):
        raise FrameError("What came through NVFlare has no header of fs-fedmllm.")
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > limits.header_bytes:
        raise FrameError(f"A header of {len(data):,} bytes came; the limit is {limits.header_bytes:,}.")
    kind, header = read_header(data)
    try:
        dxo = from_shareable(shareable)
    except Exception as error:  # NVFlare raises what it happens to meet: ValueError, KeyError, AttributeError
        raise FrameError(f"What came through NVFlare holds no tensors ({type(error).__name__}).") from error
    if dxo.data_kind != DataKind.WEIGHTS or type(dxo.data) is not dict:
        raise FrameError("What came through NVFlare holds something else than tensors.")
    contract = contract_for(kind, header)
    tensors = _in_memory(dxo.data, contract, limits)
    check_tensors(tensors, contract, limits)
    return Message(kind, header, tensors)


def _in_memory(given: dict[str, Any], contract: Contract, limits: FrameLimits) -> dict[str, torch.Tensor]:
    """Tensors of which NVFlare has put some into files, read only if all of them together may be as large.

    Raises:
        FrameError: they are too large, or cannot be read.
    """
    if len(given) > limits.tensors:
        raise FrameError(f"A message has {len(given):,} tensors; the limit is {limits.tensors:,}.")
    try:
        # Each tensor counts its file, also where several are said to be in the same one: it would be read for each.
        size = sum(os.path.getsize(found.file_path) for found in given.values() if isinstance(found, _LazyRef))
        if size > limits.message_bytes:
            raise FrameError(f"Tensors of {size:,} bytes came; the limit is {limits.message_bytes:,}.")
        if size:
            check_size(contract, size)
        return {name: found.materialize() if isinstance(found, _LazyRef) else found for name, found in given.items()}
    except (OSError, SafetensorError) as error:
        raise FrameError(
            f"What came through NVFlare cannot be read from the disk ({type(error).__name__})."
        ) from error
