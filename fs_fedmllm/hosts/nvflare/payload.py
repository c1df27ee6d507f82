"""Our messages as NVFlare's: tensors travel through its own decomposers, the header as JSON that is read strictly.

NVFlare has taken a message in before anybody here sees it, so sizes are bounded by its own settings until then; what
comes out is held to the same contract as on our own wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.shareable import Shareable
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.fuel.utils import fobs

from fs_fedmllm.distributed.errors import FrameError
from fs_fedmllm.distributed.frames import Contract, FrameLimits, check_tensors
from fs_fedmllm.distributed.messages import Message, read_header, write_header

#: Where the header is in a ``Shareable``.
HEADER = "fs_fedmllm"
#: What a task's name begins with; the rest is the phase.
PREFIX = "fedmllm_"


def prepare() -> None:
    """Let NVFlare carry tensors in this process."""
    fobs.register(TensorDecomposer)


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
    tensors: dict[str, torch.Tensor] = dxo.data
    if dxo.data_kind != DataKind.WEIGHTS or type(tensors) is not dict:
        raise FrameError("What came through NVFlare holds something else than tensors.")
    check_tensors(tensors, contract_for(kind, header), limits)
    return Message(kind, header, tensors)
