"""The federated tensors of a model, by canonical PEFT name, loaded and stored in place.

PEFT's own state-dict functions walk every module (hundreds of milliseconds on a deep model); the handles here
are collected once, so a client turn costs one copy of the adapter and nothing else.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fs_fedmllm.errors import ModelError, PayloadWarning

#: A LoRA factor of a language layer; one elsewhere (a vision tower's) has no language layer.
_LAYER = re.compile(r"(?:language_model|text_model|llm\.model)\.(?:.*\.)?layers\.(\d+)\.")


def canonical_name(parameter_name: str, adapter: str = "default") -> str:
    """PEFT's portable name of a parameter: without the adapter's own name.

    ``...lora_A.default.weight`` becomes ``...lora_A.weight`` and ``x.modules_to_save.default.weight`` becomes
    ``x.weight``, as ``peft.get_peft_model_state_dict`` writes them.
    """
    name = parameter_name.replace(f".modules_to_save.{adapter}.", ".")
    return name.replace(f".{adapter}.", ".")


@dataclass(frozen=True)
class Adapter:
    """Handles to the trainable parameters.

    Attributes:
        names: canonical PEFT names, in the model's order.
        parameters: the live parameters, same order.
        layers: index of the language layer that each tensor belongs to, or None (projector, embeddings).
        depth: number of language layers of the model.
    """

    names: tuple[str, ...]
    parameters: tuple[torch.nn.Parameter, ...]
    layers: tuple[int | None, ...]
    depth: int

    @classmethod
    def collect(cls, model: torch.nn.Module, depth: int) -> Adapter:
        """Find the trainable parameters of a PEFT model."""
        found = [(canonical_name(name), p) for name, p in model.named_parameters() if p.requires_grad]
        if not found:
            raise ModelError("The model has no trainable tensors; check model.fedmllm.lora.target.")
        layers = []
        for name, _ in found:
            match = _LAYER.search(name) if "lora_" in name else None
            layers.append(int(match.group(1)) if match else None)
        return cls(tuple(n for n, _ in found), tuple(p for _, p in found), tuple(layers), depth)

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy values into the live parameters, in place.

        Args:
            state: every canonical name, each with the parameter's shape.

        Raises:
            ModelError: a name is missing or a shape differs.
        """
        try:
            values = [state[name] for name in self.names]
        except KeyError as error:
            raise ModelError(f"The adapter state lacks the tensor {error.args[0]!r}.") from error
        for name, value, parameter in zip(self.names, values, self.parameters, strict=True):
            if value.shape != parameter.shape:
                raise ModelError(
                    f"The adapter state has {name!r} with shape {tuple(value.shape)}, the model needs "
                    f"{tuple(parameter.shape)}."
                )
        with torch.no_grad():
            torch._foreach_copy_([p.data for p in self.parameters], values)

    def export(self) -> dict[str, torch.Tensor]:
        """A float32 copy of the live parameters on the CPU, by canonical name."""
        return {
            name: p.detach().to(device="cpu", dtype=torch.float32, copy=True)
            for name, p in zip(self.names, self.parameters, strict=True)
        }

    def initial_state(self, seed: int) -> dict[str, torch.Tensor]:
        """A fresh adapter: A as PEFT draws it (Kaiming-uniform, a = sqrt(5)), B zero; from its own generator.

        Tensors that are not LoRA factors (``modules_to_save``) start from the base model's values.
        """
        generator = torch.Generator().manual_seed(seed)
        state = self.export()
        for name, tensor in state.items():
            if "lora_A" in name or "lora_embedding_A" in name:
                bound = 1.0 / math.sqrt(tensor.shape[1])
                state[name] = torch.empty_like(tensor).uniform_(-bound, bound, generator=generator)
            elif "lora_B" in name or "lora_embedding_B" in name:
                state[name] = torch.zeros_like(tensor)
        return state

    @property
    def bytes(self) -> int:
        """Size of the adapter in float32."""
        return sum(4 * p.numel() for p in self.parameters)

    @property
    def lora_bytes(self) -> int:
        """Size in float32 of its LoRA factors; the rest is ``modules_to_save``."""
        sizes = {name: 4 * p.numel() for name, p in zip(self.names, self.parameters, strict=True)}
        return sum(size for name, size in sizes.items() if "lora_" in name)

    def warn_if_mostly_not_lora(self) -> None:
        """Say what whole modules cost: with the authors' two, 99 % of what they send is not LoRA."""
        rest = self.bytes - self.lora_bytes
        if rest > self.lora_bytes:
            warnings.warn(
                f"model.fedmllm.modules_to_save makes {rest / self.bytes:.1%} of what each client sends something "
                f"other than LoRA: {rest:,} of {self.bytes:,} bytes in float32. Name fewer modules, or send fewer "
                "bits (fedmllm.compression).",
                PayloadWarning,
                stacklevel=2,
            )
