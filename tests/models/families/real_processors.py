"""Processors with the settings of real checkpoints, without a model: what they make of an image is what is tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import twins


def smolvlm() -> Any:
    """HuggingFaceTB/SmolVLM-256M-Instruct: pieces of 512, 64 tokens each; the longest side is 2048."""
    from transformers import SmolVLMImageProcessorPil, SmolVLMProcessor

    images = SmolVLMImageProcessorPil(
        size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}, do_image_splitting=True
    )
    tok = twins.tokenizer("smolvlm", bos_token="<|im_start|>")
    tok.add_special_tokens(
        {"additional_special_tokens": [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]}
    )
    return SmolVLMProcessor(images, tok, twins.stand_in(), image_seq_len=64, chat_template=twins.template("smolvlm"))


def idefics3() -> Any:
    """HuggingFaceM4/Idefics3-8B-Llama3: pieces of 364, 169 tokens each; the longest side is 1456."""
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor

    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 1456}, max_image_size={"longest_edge": 364}, do_image_splitting=True
    )
    tok = twins.tokenizer("idefics3", bos_token="<|begin_of_text|>")
    tok.add_special_tokens(
        {"additional_special_tokens": [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]}
    )
    return Idefics3Processor(images, tok, image_seq_len=169, chat_template=twins.template("idefics3"))


def llava() -> Any:
    """llava-hf/llava-1.5-7b-hf: CLIP at 336, 24 x 24 patches, whatever the image's size."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    images = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    return LlavaProcessor(
        images, twins.metaspace("llava", first=True, image_token="<image>"), patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=twins.template("llava"),
    )  # fmt: skip


def qwen2_5_vl() -> Any:
    """Qwen/Qwen2.5-VL-*: patches of 14 merged two by two, 3,136 to 12,845,056 pixels."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil

    images = Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, size={"shortest_edge": 3136, "longest_edge": 12845056}
    )
    tok = twins.tokenizer("qwen2_5_vl", image_token="<|image_pad|>", video_token="<|video_pad|>")
    return Qwen2_5_VLProcessor(images, tok, twins.stand_in(), chat_template=twins.template("qwen2_5_vl"))


def qwen3_vl() -> Any:
    """Qwen/Qwen3-VL-*-Instruct: patches of 16 merged two by two, 65,536 to 16,777,216 pixels."""
    from transformers import Qwen2VLImageProcessorPil, Qwen3VLProcessor

    images = Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, size={"shortest_edge": 65536, "longest_edge": 16777216},
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    tok = twins.tokenizer(
        "qwen3_vl", image_token="<|image_pad|>", video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>", vision_end_token="<|vision_end|>",
    )  # fmt: skip
    return Qwen3VLProcessor(images, tok, twins.stand_in(), chat_template=twins.template("qwen3_vl"))


def internvl() -> Any:
    """OpenGVLab/InternVL3-*-hf: tiles of 448, 256 tokens each, at most twelve and the whole."""
    from transformers import GotOcr2ImageProcessorPil, InternVLProcessor

    images = GotOcr2ImageProcessorPil(
        size={"height": 448, "width": 448}, crop_to_patches=False, min_patches=1, max_patches=12,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    tok = twins.tokenizer(
        "internvl", start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )  # fmt: skip
    return InternVLProcessor(
        images, tok, twins.stand_in(), image_seq_length=256, chat_template=twins.template("internvl")
    )


def gemma3() -> Any:
    """google/gemma-3-*-it: SigLIP at 896, 256 tokens, whatever the image's size; no pan and scan unless asked."""
    from transformers import AddedToken, Gemma3ImageProcessorPil, Gemma3Processor

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tok = twins.metaspace("gemma3", first=False, **named)
    tok.add_tokens([AddedToken("\n" * n, normalized=False) for n in (1, 2, 3, 4)])
    images = Gemma3ImageProcessorPil(size={"height": 896, "width": 896}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Gemma3Processor(images, tok, twins.template("gemma3"), image_seq_length=256)


def minicpmv4_6() -> Any:
    """openbmb/MiniCPM-V-4.6: slices of 448 with patches of 14, sixteen of which become a token; at most nine."""
    from transformers import MiniCPMV4_6ImageProcessorPil, MiniCPMV4_6Processor

    tok = twins.tokenizer(
        "minicpmv4_6", image_token="<|image_pad|>", video_token="<|video_pad|>", image_start_token="<image>",
        image_end_token="</image>", slice_start_token="<slice>", slice_end_token="</slice>",
        image_id_start_token="<image_id>", image_id_end_token="</image_id>",
    )  # fmt: skip
    chat = twins.template("qwen3_5_nothink").replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>")
    images = MiniCPMV4_6ImageProcessorPil(scale_resolution=448, patch_size=14, max_slice_nums=9)
    return MiniCPMV4_6Processor(images, twins.stand_in(), tok, chat_template=chat)


BUILDERS: dict[str, Callable[[], Any]] = {
    f.__name__: f for f in (smolvlm, idefics3, llava, qwen2_5_vl, qwen3_vl, internvl, gemma3, minicpmv4_6)
}
