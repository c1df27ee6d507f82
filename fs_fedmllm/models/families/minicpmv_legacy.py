"""MiniCPM-V 2.6 and MiniCPM-Llama3-V 2.5, the paper's models: code that comes with the checkpoint, for transformers 4.

What that code does differently, and what is done about it here, so that everything else sees an ordinary model:

- Its class never calls ``post_init()``, which transformers 5 relies on when it loads weights.
- It imports names that transformers 5 has dropped.
- Buffers that it computes at construction and does not save are lost by loading in transformers 5.
- ``forward(data)`` takes one dictionary with ragged lists; ``image_bound`` says where in a row its images lie.
  Here the spans travel as one number per token (``image_spans``: 0, or the image's number), so they survive padding,
  and ``forward`` takes the inputs of an ordinary model.
- Features are written into embeddings in place, which gradient checkpointing cannot stand; here they are not.
- A batch without images sends a dummy through the vision tower in training; here it sends nothing.
- ``generate`` has a signature of its own, and answers without the prompt.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.checkpoint_faults import check_whole
from fs_fedmllm.models.families.base import Family, Features, packed

#: What stands for an image in a conversation.
PLACEHOLDER = "(<image>./</image>)\n"
#: Inputs that the replaced ``forward`` uses itself; the rest goes to the language model.
_INPUTS = ("input_ids", "attention_mask", "image_spans", "pixel_values", "tgt_sizes", "mm_encoder_outputs")


@contextlib.contextmanager
def _dropped_names() -> Iterator[None]:
    """Names that the checkpoints' code imports and transformers 5 no longer has."""
    import transformers
    from transformers import modeling_utils

    added: list[tuple[Any, str]] = []
    name = "is_flash_attn_2_available"
    if not hasattr(modeling_utils, name):
        from transformers.utils import is_flash_attn_2_available

        setattr(modeling_utils, name, is_flash_attn_2_available)
        added.append((modeling_utils, name))
    old = "transformers.models.qwen2.tokenization_qwen2_fast"
    try:
        __import__(old)
        made = False
    except ImportError:
        module = types.ModuleType(old)
        module.Qwen2TokenizerFast = transformers.Qwen2Tokenizer  # type: ignore[attr-defined]
        sys.modules[old] = module
        made = True
    try:
        yield
    finally:
        for owner, name in added:
            delattr(owner, name)
        if made:
            del sys.modules[old]


def _finished(cls: Any) -> Any:
    """The class with a constructor that calls ``post_init`` and remembers the buffers that are not saved."""
    original = cls.__init__
    if getattr(original, "finished", False):
        return cls

    @functools.wraps(original)
    def construct(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        original(self, config, *args, **kwargs)
        if not hasattr(self, "all_tied_weights_keys"):
            self.post_init()
        # Past the module's own attribute handling: this is no state of the model.
        self.__dict__["_computed"] = {
            name: buffer.clone() for name, buffer in _unsaved(self) if buffer.device.type != "meta"
        }

    construct.finished = True  # type: ignore[attr-defined]
    cls.__init__ = construct
    return cls


def _unsaved(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers outside the language model (which is transformers' own) that a checkpoint does not hold."""
    for prefix, module in model.named_modules():
        if prefix == "llm" or prefix.startswith("llm."):
            continue
        for name, buffer in module.named_buffers(recurse=False):
            if name in module._non_persistent_buffers_set:
                yield (f"{prefix}.{name}" if prefix else name), buffer


def _restore(model: Any) -> None:
    """Put back the buffers that loading has left without values."""
    computed = model.__dict__.pop("_computed", {})
    for path, buffer in list(_unsaved(model)):
        owner, _, name = path.rpartition(".")
        if path in computed:
            value = computed[path].to(buffer.device)
        elif name == "position_ids":
            value = torch.arange(buffer.shape[-1], device=buffer.device).expand(buffer.shape).to(buffer.dtype)
        else:
            raise ModelError(
                f"The checkpoint's code computes {path!r} when it is constructed, which this transformers "
                "does without values; use the environment that docs/models.md names for this checkpoint."
            )
        model.get_submodule(owner)._buffers[name] = value


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions of tokens in a left-padded batch."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def _embed(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Embeddings of a left-padded batch with the images' features in their places.

    The checkpoint writes them in place, which autograd refuses where embeddings or their inputs need gradients.
    """
    embedding = model.llm.get_input_embeddings()(inputs["input_ids"]) * getattr(model.llm.config, "scale_emb", 1)
    if "mm_encoder_outputs" in inputs:
        pooled = inputs["mm_encoder_outputs"]["image"].pooler_output
    elif "pixel_values" in inputs:
        pooled = _encode(model, inputs["pixel_values"], inputs["tgt_sizes"])
    else:
        return embedding  # type: ignore[no-any-return]
    places = (inputs["image_spans"] > 0)[..., None].expand_as(embedding)
    return embedding.masked_scatter(places, pooled.to(embedding.dtype))  # type: ignore[no-any-return]


def _encode(model: Any, pixels: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """(slices, queries, width): packed slices through the checkpoint's vision tower and resampler, one by one.

    Args:
        model: the checkpoint's.
        pixels: (3, patch, patch times patches of all slices).
        sizes: (slices, 2), patches down and across.
    """
    ids = torch.zeros((1, 1), dtype=torch.long, device=pixels.device)
    found, at = [], 0
    for size in sizes:
        length = int(size.prod()) * pixels.shape[1]
        one = {
            **{"pixel_values": [[pixels[..., at : at + length]]], "tgt_sizes": [size.reshape(1, 2)]},
            **{"input_ids": ids, "image_bound": [torch.zeros((0, 2), dtype=torch.long)]},
        }
        at += length
        # In training it would add a zero to a token's embedding, in place; the features are the same.
        was, model.training = model.training, False
        try:
            found.append(model.get_vllm_embedding(one)[1][0])
        finally:
            model.training = was
    return torch.cat(found)


@dataclass(frozen=True)
class _Legacy(Family):
    def load(self, path: str, config: Any, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
        """The processor and the model, made ordinary."""
        from transformers import AutoProcessor
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        given = dict(arguments)
        common = {name: given[name] for name in ("trust_remote_code", "revision") if name in given}
        if not given.pop("trust_remote_code", False):
            raise ModelError("This family runs the checkpoint's code; set model.fedmllm.trust_remote_code: true.")
        given.setdefault("attn_implementation", "eager")  # their vision tower knows no other but flash attention
        revision = {"revision": given["revision"]} if "revision" in given else {}
        auto = config["auto_map"]
        with _dropped_names():
            processor = AutoProcessor.from_pretrained(path, **common)
            reference = auto.get("AutoModel") or auto.get("AutoModelForCausalLM")
            cls = _finished(get_class_from_dynamic_module(reference, path, **revision))
            settings: Any = get_class_from_dynamic_module(auto["AutoConfig"], path, **revision)
            model, found = cls.from_pretrained(
                path, config=settings.from_pretrained(path, **revision), use_safetensors=True,
                output_loading_info=True, **given,
            )  # fmt: skip
        check_whole(path, found)
        _restore(model)

        def forward(**inputs: Any) -> Any:
            rest = {name: value for name, value in inputs.items() if name not in _INPUTS}
            if "position_ids" not in rest:
                rest["position_ids"] = _positions(inputs["attention_mask"])[:, -inputs["input_ids"].shape[1] :]
            return model.llm(inputs_embeds=_embed(model, inputs), attention_mask=inputs["attention_mask"], **rest)

        model.forward = forward
        return processor, model.eval()

    def checkpointed(self, model: Any) -> Any:
        """The language model; the wrapper around it does not say that it can."""
        return model.llm

    def chat(self, processor: Any, text: str, image: bool) -> str:
        """Images are words of the text in these checkpoints' conversations."""
        content = (PLACEHOLDER if image else "") + text
        return self.render(processor, [{"role": "user", "content": content}], add_generation_prompt=True)

    def render(self, processor: Any, messages: list[dict[str, Any]], **arguments: Any) -> str:
        """Through the tokenizer's template; the processors of that time have none."""
        flat = [
            {**m, "content": m["content"] if isinstance(m["content"], str) else m["content"][-1]["text"]}
            for m in messages
        ]
        return super().render(processor.tokenizer, flat, **arguments)

    def process(
        self, processor: Any, chat: str, picture: Any, arguments: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        """One row: slices packed along the last axis, and the tokens' spans."""
        output = processor(chat, [picture], return_tensors="pt", **arguments)
        ids = torch.as_tensor(output["input_ids"]).reshape(1, -1).long()
        bounds = torch.as_tensor(output["image_bound"][0]).reshape(-1, 2)
        plain = processor.tokenizer(chat, add_special_tokens=False)["input_ids"]
        start = processor.tokenizer.bos_token_id
        if start is not None and int(ids[0, 0]) == start and (plain[:1] != [start] or int(ids[0, 1]) == start):
            ids, bounds = ids[:, 1:], bounds - 1  # rows without an image have no second beginning either
        spans = torch.zeros_like(ids)
        for number, (first, end) in enumerate(bounds.tolist(), 1):
            spans[0, first:end] = number
        slices = [torch.as_tensor(s) for s in output["pixel_values"][0]]
        sizes = torch.cat([torch.as_tensor(s).reshape(-1, 2) for s in output["tgt_sizes"]])
        return {"input_ids": ids, "image_spans": spans, "pixel_values": torch.cat(slices, dim=-1), "tgt_sizes": sizes}

    def image_settings(self, processor: Any, budget: int) -> Iterator[Mapping[str, Any]]:
        """Fewer slices, and then the whole picture alone."""
        images = getattr(processor, "image_processor", processor)
        tokens = int(getattr(images, "image_feature_size", None) or getattr(processor, "query_num", None) or 64)
        for slices in range(min(int(getattr(images, "max_slice_nums", 9)), budget // tokens - 1), 1, -1):
            yield {"max_slice_nums": slices}
        yield {"max_slice_nums": 1}

    def join_pixels(self, parts: Any) -> dict[str, torch.Tensor]:
        """Slices of all rows, packed."""
        return packed(parts)

    def takes_features(self, model: Any) -> bool:
        """Always: the dictionary has a place for them."""
        return True

    def features(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> Features:
        """Through the vision tower and the resampler."""
        return Features(_encode(model, inputs["pixel_values"], inputs["tgt_sizes"]).detach())

    def next_places(self, model: Any, mask: torch.Tensor) -> torch.Tensor:
        """As a batch is read here: padding does not count."""
        return mask.long().sum(-1, keepdim=True)

    def generation_config(self, model: Any) -> Any:
        """The checkpoint's, or that of the language model inside, which is what generates."""
        return getattr(model, "generation_config", None) or getattr(model.llm, "generation_config", None)

    def generate(self, model: Any, inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> torch.Tensor:
        """From the embeddings, so that the language model's own ``generate`` does it; it returns new tokens only."""
        embedding = _embed(model, inputs)
        output = model.llm.generate(inputs_embeds=embedding, attention_mask=inputs["attention_mask"], **arguments)
        return output  # type: ignore[no-any-return]


FAMILY = _Legacy(
    "minicpmv_legacy",
    layers=r"llm\.model\.layers\.(\d+)",
    groups={"resampler": ("resampler",), "embeddings": ("embed_tokens",)},
    precise=("vpm", "resampler", "lm_head"),
    pixels=("pixel_values", "tgt_sizes"),
    splices=False,
    placeholders=(PLACEHOLDER.strip(), "<image>", "</image>"),
    branching=True,
)
