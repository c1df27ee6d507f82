"""The federated tensors of a model, by canonical PEFT name, loaded and stored in place.

PEFT's own state-dict functions walk every module (hundreds of milliseconds on a deep model); the handles here
are collected once, so a client update costs one copy of the adapter and nothing else.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from fs_fedmllm.errors import ModelError, PayloadWarning
from fs_fedmllm.models.families.base import LANGUAGE
from fs_fedmllm.models.peft_methods import ADAPTER, initial_tensor

#: An adapter's tensor of a language layer; one elsewhere (a vision tower's) has no language layer.
_LAYER = re.compile(rf"(?:{LANGUAGE})\.(?:.*\.)?layers\.(\d+)\.")


def canonical_name(parameter_name: str) -> str:
    """PEFT's portable name of a parameter: without the adapter's own name.

    ``...lora_A.default.weight`` becomes ``...lora_A.weight`` and ``x.modules_to_save.default.weight`` becomes
    ``x.weight``, as ``peft.get_peft_model_state_dict`` writes them.
    """
    return parameter_name.replace(".modules_to_save.default.", ".").replace(".default.", ".")


@dataclass(frozen=True)
class Adapter:
    """Handles to the trainable parameters.

    Attributes:
        names: canonical PEFT names, in the model's order.
        parameters: the live parameters, same order.
        layers: index of the language layer that each tensor belongs to, or None (projector, embeddings).
        depth: number of language layers of the model.
        origin: CPU copies of what the tensors were when they were made, same order.
    """

    names: tuple[str, ...]
    parameters: tuple[torch.nn.Parameter, ...]
    layers: tuple[int | None, ...]
    depth: int
    origin: tuple[torch.Tensor, ...] = field(default=(), repr=False)

    @classmethod
    def collect(cls, model: torch.nn.Module, depth: int, layers_path: str = "") -> Adapter:
        """Find the trainable parameters of a PEFT model.

        Args:
            model: the model, fresh from PEFT.
            depth: number of its language layers.
            layers_path: regular expression of a language layer's name, if it is an unusual one; its last group is the
                layer's index.
        """
        pattern = re.compile(rf"{layers_path}\.") if layers_path else _LAYER
        found = [(canonical_name(name), p) for name, p in model.named_parameters() if p.requires_grad]
        if not found:
            raise ModelError("The model has no trainable tensors; check model.fedmllm.lora.target.")
        layers = []
        for name, _ in found:
            match = pattern.search(name) if ADAPTER.search(name) else None
            layers.append(int(match.groups()[-1]) if match else None)
        origin = tuple(  # a model that is only shapes (a plan's) has no values to copy
            p.detach() if p.is_meta else p.detach().to(device="cpu", dtype=torch.float32, copy=True) for _, p in found
        )
        return cls(tuple(n for n, _ in found), tuple(p for _, p in found), tuple(layers), depth, origin)

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

    def base_weights(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The frozen matrix that each B factor adapts, by the B's canonical name."""
        weights = dict(model.named_parameters())
        return {
            name: weights[name.replace("lora_B.weight", "base_layer.weight")].detach()
            for name in self.names
            if name.endswith("lora_B.weight")
        }

    def initial_state(self, seed: int) -> dict[str, torch.Tensor]:
        """A fresh adapter from its own generator; what is not drawn starts from the base model's values.

        For LoRA that is A as PEFT draws it (Kaiming-uniform, a = sqrt(5)), and B zero.
        """
        generator = torch.Generator().manual_seed(seed)
        return {
            name: initial_tensor(name, origin, generator) for name, origin in zip(self.names, self.origin, strict=True)
        }

    @property
    def bytes(self) -> int:
        """Size of the adapter in float32."""
        return sum(4 * p.numel() for p in self.parameters)

    @property
    def lora_bytes(self) -> int:
        """Size in float32 of its low-rank (or other) adapter; the rest is modules in full."""
        sizes = {name: 4 * p.numel() for name, p in zip(self.names, self.parameters, strict=True)}
        return sum(size for name, size in sizes.items() if ADAPTER.search(name))

    def warn_if_mostly_not_lora(self, asked: str) -> None:
        """Say what whole modules cost: with the authors' two, 99 % of what they send is not LoRA.

        Args:
            asked: the keys that name them.
        """
        rest = self.bytes - self.lora_bytes
        if rest > self.lora_bytes:
            warnings.warn(
                f"{asked} makes {rest / self.bytes:.1%} of what each client sends something "
                f"other than LoRA: {rest:,} of {self.bytes:,} bytes in float32. Name fewer modules, or send fewer "
                "bits (fedmllm.compression).",
                PayloadWarning,
                stacklevel=2,
            )
