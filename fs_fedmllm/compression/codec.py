"""What a client sends in place of its adapter, and what the server makes of it.

A quantised update is the difference between the client's adapter and the one that it received, so the server's
copy never loses precision. What rounding took is kept by the client and added to its next update (error feedback:
Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014; Karimireddy et al., "Error Feedback Fixes
SignSGD", ICML 2019): summed over a client's updates, what arrived is what was meant, up to the last remainder.

The convergence theory of error feedback asks of the rounding that it shortens a vector, ``|x - Q(x)|^2 < |x|^2``.
Rounding to the nearest level does so in a group of n values if ``n < 4 levels^2``: 196 for 4 bits, 64,516 for 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fs_fedmllm.compression.quantize import LEVELS, dequantize, groups, pack_nibbles, quantize, unpack_nibbles
from fs_fedmllm.errors import UpdateError

if TYPE_CHECKING:
    from fs_fedmllm.config import CompressionConfig

#: Name -> tensor.
Tensors = dict[str, torch.Tensor]

#: What a compressed update consists of. One header entry each instead of one per tensor of the adapter: the
#: receiver knows names and shapes from the adapter that it sent. Tensors come by ascending name, since a dictionary
#: that was saved and read has another order.
SENT, SCALES, VALUES = (f"compressed/{part}" for part in ("sent", "scales", "values"))


def download(state: Mapping[str, torch.Tensor], precision: str) -> Tensors:
    """The adapter as the server sends it.

    Whoever receives it computes in float32 with these values, and the server takes differences to them, not to its
    own more precise copy: both sides speak of the same start.

    Args:
        state: the server's adapter, float32.
        precision: ``float32`` or ``bfloat16``.
    """
    return {name: tensor.to(getattr(torch, precision)) for name, tensor in state.items()}


@dataclass(frozen=True)
class Codec:
    """How updates are written; pure functions of their arguments.

    Attributes:
        kind: ``float32`` (the client's adapter itself), ``bfloat16``, ``int8`` or ``int4`` (differences).
        group: values that share a scale in ``int8`` and ``int4``; 0 is a whole tensor.
        error_feedback: whether remainders are kept.
    """

    kind: str = "float32"
    group: int = 64
    error_feedback: bool = True

    @classmethod
    def of(cls, chosen: CompressionConfig) -> Codec:
        """As ``fedmllm.compression`` says."""
        return cls(chosen.upload, chosen.group, chosen.error_feedback)

    def encode(
        self,
        start: Mapping[str, torch.Tensor],
        state: Mapping[str, torch.Tensor],
        residual: Mapping[str, torch.Tensor],
    ) -> tuple[Tensors, Tensors]:
        """Write an update.

        Args:
            start: the adapter that the client received, float32, by canonical name.
            state: the client's adapter, or a part of it; what has other names goes along as it is.
            residual: what the client's last call returned; empty before its first update.

        Returns:
            What to send, and the client's next residual. A tensor that is not finite is sent so that it decodes as
            such, for the server to refuse, and leaves the residual as it was.
        """
        if self.kind == "float32":
            return dict(state), {}
        values, scales, kept = [], [], dict(residual)
        for name in sorted(start):
            if name not in state:
                continue
            target = (state[name].float() - start[name]).flatten()
            if name in residual:
                target = target + residual[name].flatten()
            steps, scale = self._round(target)
            values.append(steps)
            scales.append(scale)
            remainder = target - self._restore(steps, scale)
            if self.error_feedback and bool(remainder.isfinite().all()):
                kept[name] = remainder.view(start[name].shape)
        sent = torch.tensor([name in state for name in sorted(start)], dtype=torch.uint8)
        tensors = {name: tensor for name, tensor in state.items() if name not in start}
        tensors |= {SENT: sent, VALUES: torch.cat(values)}
        if self.kind in LEVELS:
            tensors[SCALES] = torch.cat(scales)
        if self.kind == "int4":
            tensors[VALUES] = pack_nibbles(tensors[VALUES])
        return tensors, kept

    def decode(self, tensors: Mapping[str, torch.Tensor], start: Mapping[str, torch.Tensor]) -> Tensors:
        """The client's adapter, as far as it was sent, and what came along with it.

        Args:
            tensors: what :meth:`encode` returned, from a sender that may be anybody.
            start: the adapter that was sent to the client.

        Raises:
            UpdateError: the tensors are not an update of this kind to an adapter of these shapes.
        """
        if self.kind == "float32":
            return dict(tensors)
        parts = {SENT, VALUES} | ({SCALES} if self.kind in LEVELS else set())
        state = {name: tensor for name, tensor in tensors.items() if name not in parts}
        if len(state) != len(tensors) - len(parts) or any(name in start for name in state):
            raise UpdateError(
                f"this is not an update in {self.kind}; both sides need the same fedmllm.compression.upload"
            )
        sent = _checked(tensors, SENT, torch.uint8, len(start))
        names = [name for name, flag in zip(sorted(start), sent.tolist(), strict=True) if flag]
        counts = [start[name].numel() for name in names]
        total = sum(counts)
        if self.kind == "bfloat16":
            values = _checked(tensors, VALUES, torch.bfloat16, total)
            sizes, scales = [0] * len(names), torch.empty(0)
        else:
            sizes = [groups(count, self.group) for count in counts]
            scales = _checked(tensors, SCALES, torch.float32, sum(sizes))
            if self.kind == "int4":
                values = unpack_nibbles(_checked(tensors, VALUES, torch.uint8, -(-total // 2)), total)
            else:
                values = _checked(tensors, VALUES, torch.int8, total)
        for name, steps, scale in zip(names, values.split(counts), scales.split(sizes), strict=True):
            delta = self._restore(steps, scale).view(start[name].shape)
            # The very bits of the start where nothing changed: -0.0 + 0.0 would be 0.0.
            state[name] = torch.where(delta == 0, start[name], start[name] + delta)
        return state

    def _round(self, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.kind == "bfloat16":
            return target.to(torch.bfloat16), torch.empty(0)
        return quantize(target, LEVELS[self.kind], self.group)

    def _restore(self, steps: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return steps.float() if self.kind == "bfloat16" else dequantize(steps, scales, self.group)


def _checked(tensors: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype, count: int) -> torch.Tensor:
    tensor = tensors[name]
    if tensor.dtype != dtype or tensor.shape != (count,):
        raise UpdateError(
            f"the update's {name!r} is {tensor.dtype} {tuple(tensor.shape)} instead of {dtype} ({count},); both sides "
            "need the same model.fedmllm.lora and fedmllm.compression"
        )
    return tensor
