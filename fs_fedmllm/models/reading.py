"""What a model keeps of prompts that it has read, and how several continuations go on from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

#: Attention that takes a mask of its own for every pair of tokens; flash attention does not.
_MASKED = ("sdpa", "eager")


@dataclass(frozen=True)
class Reading:
    """A batch of prompts that the model has read, with what it keeps of them.

    Attributes:
        mask: (rows, tokens), 0 where a row is padded.
        cache: the model's, over these tokens.
        logits: (rows, tokens read last, vocabulary); of a prompt, those behind its last token.
        places: (rows, 1) the position of what comes behind it, where prompts were read behind an opening that all of
            them share; None where the family knows it. Only branches go on from such a reading.
        ahead: (rows, branch tokens, vocabulary) logits of branches that were read along with the prompts.
    """

    mask: torch.Tensor
    cache: Any
    logits: torch.Tensor
    places: torch.Tensor | None = None
    ahead: torch.Tensor | None = None

    @property
    def spreads(self) -> bool:
        """Whether rows of the cache can be chosen and repeated."""
        return all(hasattr(layer, "reorder_cache") for layer in getattr(self.cache, "layers", (None,)))

    @property
    def row_bytes(self) -> int:
        """Memory that the cache takes for one row."""
        layers = getattr(self.cache, "layers", ())
        return sum(map(_bytes, layers)) // max(1, len(self.mask))

    def rows(self, chosen: torch.Tensor) -> Any:
        """A cache with these rows, apart from this one, which stays as it is when a pass writes into it.

        Args:
            chosen: (any number,) indices of rows.
        """
        if not self.spreads:
            return copy.deepcopy(self.cache)
        cache = copy.copy(self.cache)
        cache.layers = [_apart(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            layer.reorder_cache(chosen)  # makes tensors of its own
        return cache

    def takes_branches(self, config: Any, further: int) -> bool:
        """Whether branches can stand behind one another in one sequence: a mask then says what each token follows.

        That is the same as reading each by itself where every layer attends and keeps all that was read. Linear
        attention sees whatever stands before, and a sliding window counts tokens of other branches.

        Args:
            config: of the model.
            further: tokens of all branches.
        """
        if config.get_text_config()._attn_implementation not in _MASKED:
            return False
        tokens = self.mask.shape[1] + further
        layers: list[Any] = getattr(self.cache, "layers", [None])
        return all(
            type(layer).__name__ == "DynamicLayer"
            or (type(layer).__name__ == "DynamicSlidingWindowLayer" and tokens < layer.sliding_window)
            for layer in layers
        )


def shared_opening(inputs: Mapping[str, Any]) -> int:
    """How many tokens all prompts of a left-padded batch begin with; 0 where the batch is more than texts.

    Every prompt has at least one token more.
    """
    if set(inputs) != {"input_ids", "attention_mask"} or len(inputs["input_ids"]) < 2:
        return 0
    lengths = inputs["attention_mask"].sum(1).tolist()
    shortest = min(lengths)
    heads = torch.stack(
        [
            ids[len(ids) - own : len(ids) - own + shortest]
            for ids, own in zip(inputs["input_ids"], lengths, strict=True)
        ]
    )
    alike = (heads == heads[0]).all(0).long().cumprod(0).sum()
    return min(int(alike), shortest - 1)


def branch_mask(mask: torch.Tensor, parents: Sequence[int]) -> torch.Tensor:
    """(rows, branch tokens, all tokens), true for what a token sees: its prompt, what it follows and itself.

    Args:
        mask: (rows, prompt tokens), 0 where a row is padded.
        parents: of each further token the one that it follows, an earlier one; -1 for the prompt.
    """
    count = len(parents)
    own = torch.eye(count, dtype=torch.bool)
    for token, parent in enumerate(parents):
        if parent >= 0:
            own[token] |= own[parent]
    seen = mask.bool()[:, None].expand(-1, count, -1)
    return torch.cat([seen, own.to(mask.device).expand(len(mask), -1, -1)], dim=-1)


def prompt_mask(opening: int, mask: torch.Tensor) -> torch.Tensor:
    """(rows, tokens, opening + tokens), true for what a token sees: the opening, what stands before it, and itself.

    Args:
        opening: tokens that all rows begin with.
        mask: (rows, tokens) of what follows it, 0 where a row is padded on the left.
    """
    count = mask.shape[1]
    before = torch.ones((count, count), dtype=torch.bool, device=mask.device).tril()
    own = before & mask.bool()[:, None] | torch.eye(count, dtype=torch.bool, device=mask.device)
    whole = torch.ones((len(mask), count, opening), dtype=torch.bool, device=mask.device)
    return torch.cat([whole, own], dim=-1)


def as_attention(visible: torch.Tensor, attention: str, dtype: torch.dtype) -> torch.Tensor:
    """A mask as attention takes it: ``eager`` adds it to what it weighs, others look at what is true in it.

    Args:
        visible: (rows, tokens, all tokens).
        attention: the kind of attention.
        dtype: of the model.
    """
    visible = visible[:, None]
    if attention != "eager":
        return visible
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


@dataclass(frozen=True)
class Branches:
    """Tokens that stand behind every prompt of a batch, as a tree.

    Attributes:
        tokens: ids.
        parents: of each the one that it follows, an earlier one; -1 for the prompt.
        depths: how many of them stand before each on its way.
    """

    tokens: Sequence[int] = ()
    parents: Sequence[int] = ()
    depths: Sequence[int] = ()


def _apart(layer: Any) -> Any:
    """A layer's cache whose lists are its own; tensors are still shared."""
    own = copy.copy(layer)
    own.__dict__.update({k: copy.copy(v) for k, v in vars(layer).items() if isinstance(v, list | dict)})
    return own


def _bytes(layer: Any) -> int:
    """Memory of a layer's tensors, those in lists and dictionaries (states of linear attention) included."""
    total = 0
    for value in vars(layer).values():
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        total += sum(part.numel() * part.element_size() for part in parts if isinstance(part, torch.Tensor))
    return total
