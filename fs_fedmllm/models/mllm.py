"""A multimodal language model in memory: frozen, with the tensors that are trained and sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.adapter import Adapter
from fs_fedmllm.models.families import GENERIC, Family
from fs_fedmllm.models.peft_methods import ADAPTER
from fs_fedmllm.models.reading import Branches, Reading, as_attention, branch_mask, prompt_mask, shared_opening

#: Tokens that prompts must share for a pass of their own, which has a price as well.
OPENING = 4


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

    @property
    def vocabulary(self) -> int:
        """How many logits a token has."""
        return int(self.inner.config.get_text_config().vocab_size)

    def read(self, inputs: Mapping[str, Any], further: int = 0, branches: Branches | None = None) -> Reading:
        """Read a left-padded batch of prompts once, so that several continuations of them can be scored.

        Texts that begin alike share that part: it is read for one row, where branches can go on from it.

        Args:
            inputs: of the batch.
            further: how many tokens of branches will go on from it in one sequence, at most.
            branches: those that go on first; they are read along where prompts share their opening.

        Raises:
            ModelError: the model keeps nothing of what it has read.
        """
        self.family.forget(self.inner)
        opening = shared_opening(inputs) if self.family.branching else 0
        if opening >= OPENING:
            ids, columns = inputs["input_ids"], int(inputs["attention_mask"][0].sum())
            shared = ids[:1, ids.shape[1] - columns :][:, :opening]
            one = self._read({"input_ids": shared, "attention_mask": torch.ones_like(shared)})
            if self.takes_branches(one, ids.shape[1] + further):
                return self._read_behind(one, inputs, branches or Branches())
        return self._read(inputs)

    def _read(self, inputs: Mapping[str, Any]) -> Reading:
        output = self.inner(**inputs, logits_to_keep=1, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            raise ModelError(
                f"{type(self.inner).__name__} (family {self.family.name}) keeps no cache of a prompt, and options in "
                "words (lettered: false in the template) are scored by continuing one. Set lettered: true."
            )
        return Reading(inputs["attention_mask"], cache, output.logits[:, -1:])

    def _read_behind(self, one: Reading, inputs: Mapping[str, Any], branches: Branches) -> Reading:
        """Prompts of a batch and branches, behind what all prompts begin with, of which ``one`` row was read."""
        mask, opening, count = inputs["attention_mask"], one.mask.shape[1], len(branches.tokens)
        lengths = mask.sum(1, keepdim=True) - opening
        longest = int(lengths.max())
        real = torch.arange(longest, device=mask.device) >= longest - lengths  # padded on the left again
        whole = torch.cat([one.mask.expand(len(mask), -1).to(mask.dtype), real.to(mask.dtype)], dim=1)
        following = whole.sum(1, keepdim=True)
        places = opening + (real.long().cumsum(1) - 1).clamp(min=0)
        visible = torch.nn.functional.pad(prompt_mask(opening, real), (0, count))
        ids = inputs["input_ids"][:, -longest:]
        if count:
            ids = torch.cat([ids, torch.tensor(branches.tokens, device=ids.device).expand(len(ids), -1)], dim=1)
            places = torch.cat([places, following + torch.tensor(branches.depths, device=places.device)], dim=1)
            visible = torch.cat([visible, branch_mask(whole, branches.parents)], dim=1)
        cache = one.rows(torch.zeros(len(mask), dtype=torch.long, device=mask.device))
        visible = as_attention(visible, self._attention, self.inner.dtype)
        logits = self.family.branched(self.inner, ids, visible, places, cache, 1 + count).logits[:, -1 - count :]
        if count:
            cache.crop(-count)
        return Reading(whole, cache, logits[:, :1], following, logits[:, 1:] if count else None)

    def takes_branches(self, reading: Reading, further: int) -> bool:
        """Whether :meth:`branches` is the same as reading each branch by itself.

        Args:
            reading: of the prompts.
            further: tokens of all branches.
        """
        return self.family.branching and reading.takes_branches(self.inner.config, further)

    def branches(self, reading: Reading, branches: Branches) -> torch.Tensor:
        """(rows, branch tokens, vocabulary) logits behind each token of a tree that stands behind every prompt.

        Args:
            reading: of the prompts; it stays as it is. Ask :meth:`takes_branches` first.
            branches: the tree.
        """
        count = len(branches.tokens)
        ids = torch.tensor(branches.tokens, device=self.device).expand(len(reading.mask), -1)
        visible = as_attention(branch_mask(reading.mask, branches.parents), self._attention, self.inner.dtype)
        places = self.family.next_places(self.inner, reading.mask) if reading.places is None else reading.places
        places = places + torch.tensor(branches.depths, device=self.device)
        output = self.family.branched(self.inner, ids, visible, places, reading.cache, count)
        reading.cache.crop(-count)
        return output.logits[:, -count:]  # type: ignore[no-any-return]

    @property
    def _attention(self) -> str:
        """The language model's kind of attention."""
        return str(self.inner.config.get_text_config()._attn_implementation)

    def go_on(self, reading: Reading, ids: torch.Tensor, chosen: torch.Tensor) -> Reading:
        """Further tokens behind rows that were read.

        Args:
            reading: what was read so far; it stays as it is, and can be continued in other ways.
            ids: (new rows, tokens), at least one token.
            chosen: (new rows,) the row of ``reading`` that each goes on from: of the batch that was read first, all
                rows in their order, as often as there are branches.
        """
        ids, chosen = ids.to(self.device), chosen.to(self.device)
        mask = reading.mask[chosen]
        mask = torch.cat([mask, torch.ones_like(ids, dtype=mask.dtype)], dim=1)
        cache = reading.rows(chosen)
        output = self.family.continued(self.inner, ids, mask, cache)
        return Reading(mask, cache, output.logits[:, -ids.shape[1] :])

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
