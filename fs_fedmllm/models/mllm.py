"""A multimodal language model in memory: frozen, with the tensors that are trained and sent."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.adapter import Adapter
from fs_fedmllm.models.families import GENERIC, Family
from fs_fedmllm.models.peft_methods import ADAPTER


@dataclass(frozen=True)
class Reading:
    """A batch of prompts that the model has read, with what it keeps of them.

    Attributes:
        mask: (rows, tokens), 0 where a row is padded.
        cache: the model's, over these tokens.
        logits: (rows, tokens read last, vocabulary); of a prompt, those behind its last token.
    """

    mask: torch.Tensor
    cache: Any
    logits: torch.Tensor


@dataclass(eq=False)
class MLLM:
    """A frozen multimodal language model with federated slots.

    Attributes:
        model: the PEFT model; ``inner`` is the transformers model inside.
        processor: tokenizer and image processor.
        adapter: handles to what is trained and sent.
        device: where the base lives.
        identity: sha256 over path, configuration files, weights, revision, precision and device: the part of a
            vision-cache key that stands for the model.
        source: what ``base_model_name_or_path`` says in a saved adapter.
        family: what differs from other models.
        image_arguments: of the processor for every image: ``model.fedmllm.image``, and what keeps ``image_tokens``.
        groups: modules trained in full, by the name of their group.
    """

    model: Any
    inner: Any
    processor: Any
    adapter: Adapter
    device: torch.device
    identity: str
    source: str
    family: Family = GENERIC
    image_arguments: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inner.eval()  # PEFT's new modules come in training mode inside a model that is not
        self._modules = list(self.inner.modules())

    def set_training(self, training: bool) -> None:
        """Switch dropout and checkpointing on or off.

        ``Module.train`` walks a deep model through ``__setattr__``, 15 ms on one of 700 modules; this is the same
        flag on the same modules.
        """
        if self.inner.training != training:
            for module in self._modules:
                module.__dict__["training"] = training

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def takes_vision_features(self) -> bool:
        """Whether ``forward`` accepts precomputed vision features (transformers 5.18 and newer)."""
        return self.family.takes_features(self.inner)

    @property
    def vision_is_frozen(self) -> bool:
        """Whether nothing that feeds the vision features is trainable."""
        return not any(self.family.feeds_vision(name) for name in self.adapter.names)

    def last_logits(self, inputs: Mapping[str, Any], columns: int) -> torch.Tensor:
        """Logits of a left-padded batch's last columns, (rows, columns, vocabulary).

        Most models compute the head for these alone; one that does not know how computes all.
        """
        output = self.inner(**inputs, logits_to_keep=columns, use_cache=False)
        return output.logits[:, -columns:]  # type: ignore[no-any-return]

    def read(self, inputs: Mapping[str, Any]) -> Reading:
        """Read a left-padded batch of prompts once, so that several continuations of them can be scored.

        Raises:
            ModelError: the model keeps nothing of what it has read.
        """
        self.family.forget(self.inner)
        output = self.inner(**inputs, logits_to_keep=1, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            raise ModelError(
                f"{type(self.inner).__name__} (family {self.family.name}) keeps no cache of a prompt, and options in "
                "words (lettered: false in the template) are scored by continuing one. Set lettered: true."
            )
        return Reading(inputs["attention_mask"], cache, output.logits[:, -1:])

    def go_on(self, reading: Reading, ids: Sequence[int]) -> Reading:
        """The same tokens behind every prompt of a batch.

        Args:
            reading: what was read so far; it stays as it is, and can be continued in other ways.
            ids: at least one token.
        """
        rows = len(reading.mask)
        tokens = torch.tensor(ids, device=self.device).expand(rows, -1)
        mask = torch.cat([reading.mask, torch.ones_like(tokens, dtype=reading.mask.dtype)], dim=1)
        cache = copy.deepcopy(reading.cache)  # a forward pass writes into it
        output = self.family.continued(self.inner, tokens, mask, cache)
        return Reading(mask, cache, output.logits[:, -len(ids) :])

    def generate(self, inputs: Mapping[str, Any], **arguments: Any) -> torch.Tensor:
        """Token ids of the answers to a left-padded batch, (rows, new tokens)."""
        return self.family.generate(self.inner, inputs, arguments)

    def federated_bytes(self) -> dict[str, int]:
        """What one client sends in a round, in float32 bytes: the adapter as ``lora``, then group by group."""
        sizes = {"lora": 0, **dict.fromkeys(self.groups, 0)}
        for name, parameter in zip(self.adapter.names, self.adapter.parameters, strict=True):
            owner = "lora"
            if not ADAPTER.search(name):
                owner = next(
                    group
                    for group, endings in self.groups.items()
                    if any(re.search(rf"(^|\.){re.escape(ending)}\.", name) for ending in endings)
                )
            sizes[owner] += 4 * parameter.numel()
        return sizes
