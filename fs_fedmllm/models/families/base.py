"""What a family of models is, and the behaviour that most of them share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fs_fedmllm.errors import ModelError
from fs_fedmllm.extras import EXTRAS, is_installed
from fs_fedmllm.models.chat_template import conversation
from fs_fedmllm.models.checkpoint_faults import check_whole

#: Paths under which language models keep their layers.
LANGUAGE = r"language_model|text_model|llm\.model"


@dataclass(frozen=True)
class Features:
    """What a frozen vision tower and its projector make of images, as the language model takes it in.

    Attributes:
        pooled: list of tensors (tokens, width), or one tensor with a leading image axis, as the model returns it.
        deep: further features for single language layers (Qwen3-VL), each (tokens of all images, width).
    """

    pooled: list[torch.Tensor] | torch.Tensor
    deep: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Family:
    """A family of models. A module of a family makes one of these; methods are overridden where a model differs.

    Attributes:
        name: for messages.
        layers: regular expression of a language layer's module name; its one group is the layer's index.
        adapted: regular expression, within a layer, of the linear maps that low-rank adapters go to.
        scaled: the same for IA3, which scales keys, values and the feed-forward's input.
        feed_forward: those of ``scaled`` whose input, not output, is scaled.
        groups: what can be trained in full beside the adapter: name -> module names as ``modules_to_save`` has them.
        precise: modules that stay in ``dtype`` when the language model is quantised.
        pixels: outputs of the processor that the vision tower alone consumes; the rest goes on to ``forward`` even
            when the features are precomputed.
        splices: whether what the processor puts in place of an image does not depend on the text around it.
        widest: the largest ratio of an image's sides that the processor takes; 0 where it takes any.
        placeholders: what else than tokens the processor looks for in a conversation.
        requires: packages without which the processor does not work.
        branching: whether :meth:`branched` is tested with this family; without it branches are rows of a batch.
    """

    name: str
    layers: str = rf".*({LANGUAGE})\.layers\.(\d+)"
    adapted: str = r"self_attn\.(q_proj|k_proj|v_proj|o_proj)"
    scaled: str = r"(self_attn\.(k_proj|v_proj)|mlp\.down_proj)"
    feed_forward: str = r"mlp\.down_proj"
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"embeddings": ("embed_tokens",)})
    precise: tuple[str, ...] = ("vision_tower", "vision_model", "visual", "multi_modal_projector", "lm_head")
    pixels: tuple[str, ...] = ("pixel_values", "pixel_attention_mask")
    splices: bool = True
    widest: float = 0.0
    placeholders: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    branching: bool = False

    # Where things are ---------------------------------------------------------------------------------------------

    @property
    def target(self) -> str:
        """The default of ``model.fedmllm.lora.target``."""
        return rf"{self.layers}\.{self.adapted}"

    def feeds_vision(self, parameter: str) -> bool:
        """Whether a parameter has a part in the vision features: it lies outside of the language model."""
        if re.search(rf"{self.layers}\.", parameter):  # a model that calls its language layers otherwise
            return False
        return re.search(rf"(^|\.)({LANGUAGE}|llm)\.|(^|\.)lm_head\.", parameter) is None

    # Loading ------------------------------------------------------------------------------------------------------

    def load(self, path: str, config: Any, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
        """The processor and the model of a checkpoint.

        Args:
            path: folder or hub id.
            config: the mapping in its config.json.
            arguments: ``trust_remote_code``, ``revision`` and the model's further keyword arguments.

        Raises:
            ModelError: a package is missing, transformers has no such image-text-to-text model, or weights of it are
                not in the checkpoint.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        for package in self.requires:
            if not is_installed(package):
                install = f"'fs-fedmllm[{self.name}]'" if package in EXTRAS.get(self.name, ()) else package
                raise ModelError(f"Models of the family {self.name} need the package {package}: pip install {install}")
        common = {name: arguments[name] for name in ("trust_remote_code", "revision") if name in arguments}
        processor = AutoProcessor.from_pretrained(path, **common)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            path, use_safetensors=True, output_loading_info=True, **arguments
        )
        model, found = loaded
        check_whole(path, found)
        return processor, model

    def checkpointed(self, model: Any) -> Any:
        """The module whose activations gradient checkpointing recomputes."""
        return model

    # Rows to inputs -----------------------------------------------------------------------------------------------

    def chat(self, processor: Any, text: str, image: bool) -> str:
        """A user's turn and the opening of the assistant's, through the chat template."""
        content: list[dict[str, str]] = [{"type": "text", "text": text}]
        if image:
            content.insert(0, {"type": "image"})
        return self.render(processor, [{"role": "user", "content": content}], add_generation_prompt=True)

    def render(self, processor: Any, messages: list[dict[str, Any]], **arguments: Any) -> str:
        """Messages as text, through the chat template.

        Raises:
            ModelError: the checkpoint has no chat template, or one with a fault.
        """
        return conversation(processor, messages, arguments)

    def process(
        self, processor: Any, chat: str, picture: Any, arguments: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        """One row with an image through the processor.

        Args:
            processor: the checkpoint's.
            chat: the rendered conversation, with one image in it.
            picture: the image.
            arguments: ``model.fedmllm.image``.

        Returns:
            ``input_ids`` (1, tokens), further tensors of that shape, and the inputs of the vision tower.
        """
        return dict(
            processor(text=[chat], images=[picture], return_tensors="pt", add_special_tokens=False, **arguments)
        )

    def written(self, processor: Any, chat: str, arguments: Mapping[str, Any]) -> str | None:
        """A conversation with what the processor writes in place of an image; None where that depends on the image.

        Args:
            processor: the checkpoint's.
            chat: with one image's placeholder.
            arguments: ``model.fedmllm.image``.
        """
        return None

    def token_inputs(self, processor: Any, ids: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The further inputs over a prompt's tokens, where :meth:`written` gives the prompt."""
        return {}

    def image_settings(self, processor: Any, budget: int) -> Iterator[Mapping[str, Any]]:
        """Arguments of the processor under which an image has fewer and fewer tokens, whatever its size.

        Where the number is fixed that is nothing but the checkpoint's own setting.

        Args:
            processor: the checkpoint's.
            budget: tokens. What an image of some size would pass it with is left out, for it is tried on few.
        """
        return iter(({},))

    def join_pixels(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Inputs of the vision tower for several images, in the order of the rows.

        Parts that differ beyond the first axis (an image cut into more pieces than another) are padded with zeros,
        which is how the processors themselves batch them.
        """
        return {name: _concatenate([part[name] for part in parts]) for name in parts[0]}

    # The vision part ----------------------------------------------------------------------------------------------

    def takes_features(self, model: Any) -> bool:
        """Whether ``forward`` accepts precomputed vision features."""
        import inspect

        return "mm_encoder_outputs" in inspect.signature(model.forward).parameters

    def features(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> Features:
        """The vision features of images.

        Args:
            model: in evaluation mode.
            inputs: the processor's vision outputs, on the model's device.
        """
        output = model.get_image_features(**inputs, return_dict=True)
        pooled = output.pooler_output
        pooled = [f.detach() for f in pooled] if isinstance(pooled, list | tuple) else pooled.detach()
        deep = getattr(output, "deepstack_features", None) or ()  # per layer a tensor, or one for each image
        return Features(pooled, tuple((f if isinstance(f, torch.Tensor) else torch.cat(f)).detach() for f in deep))

    def feature_inputs(self, features: Features) -> dict[str, Any]:
        """The arguments of ``forward`` that carry precomputed features."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        output = BaseModelOutputWithPooling(pooler_output=features.pooled)  # type: ignore[arg-type]
        if features.deep:
            output.deepstack_features = [(layer,) for layer in features.deep]
        return {"mm_encoder_outputs": {"image": output}}

    # Answers ------------------------------------------------------------------------------------------------------

    def generation_config(self, model: Any) -> Any:
        """The checkpoint's generation configuration; None where it has none."""
        return getattr(model, "generation_config", None)

    def forget(self, model: Any) -> None:
        """Put away what a forward pass left on the model for one that continues it (positions, in Qwen-VL)."""

    def continued(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> Any:
        """The output of a forward pass over further tokens of a batch that was read.

        Args:
            model: the model that read it.
            ids: (rows, further tokens).
            mask: (rows, all tokens).
            cache: what the model kept; it is written into.
        """
        return model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)

    def next_places(self, model: Any, mask: torch.Tensor) -> torch.Tensor:
        """(rows, 1) the position of what comes behind a batch that was read: padding counts, as it did in reading.

        Args:
            model: the model that read it.
            mask: (rows, tokens that were read).
        """
        return torch.full_like(mask[:, :1], mask.shape[1], dtype=torch.long)

    def branched(
        self, model: Any, ids: torch.Tensor, visible: torch.Tensor, places: torch.Tensor, cache: Any, columns: int
    ) -> Any:
        """The output of a forward pass over further tokens, each with what it sees and its position.

        Args:
            model: the model that read what is in the cache.
            ids: (rows, further tokens).
            visible: (rows, 1, further tokens, all tokens) what each token sees.
            places: (rows, further tokens) positions.
            cache: what the model kept; it is written into.
            columns: how many of the last tokens have logits.
        """
        return model(
            input_ids=ids, attention_mask=visible, position_ids=places, past_key_values=cache, use_cache=True,
            logits_to_keep=columns,
        )  # fmt: skip

    def generate(self, model: Any, inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> torch.Tensor:
        """Token ids of the answers, (rows, new tokens)."""
        output = model.generate(**inputs, **arguments)
        return output[:, inputs["input_ids"].shape[1] :]  # type: ignore[no-any-return]


def packed(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Inputs of several images where pixels are packed along the last axis: (1, 3, patch, patches times patch)."""
    return {
        name: torch.cat([part[name] for part in parts], dim=-1 if name == "pixel_values" else 0) for name in parts[0]
    }


def _concatenate(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Along the first axis, after padding the others with zeros to the largest."""
    if any(t.dim() != tensors[0].dim() for t in tensors):
        raise ModelError("The processor gives images of different ranks; this family needs join_pixels of its own.")
    widest = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        missing = [n for size, wide in zip(reversed(tensor.shape[1:]), reversed(widest), strict=True)
                   for n in (0, wide - size)]  # fmt: skip
        padded.append(torch.nn.functional.pad(tensor, missing) if any(missing) else tensor)
    return torch.cat(padded)
