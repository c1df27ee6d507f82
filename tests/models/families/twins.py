"""Tiny random twins of the families: a tokenizer, a processor and a model each, saved as a checkpoint folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

#: Text that the tokenizer's merges are learnt from: the prompt that the tests' data set asks with.
CORPUS = """Select the best answer to the following multiple-choice question based on the text and image.
Which desk should take the request based on the text and image?
Options:
(A) lower billing
(B) lower repair
(C) lower travel
(D) lower health
(E) upper billing
(F) upper repair
(G) upper travel
(H) upper health
Answer with the option's letter from the given choices directly and only give the best option. The best answer is: """

#: Special tokens of the real checkpoints: what pads first, what ends a text second.
CHATML = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
QWEN = (*CHATML, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
THINKING = ("<think>", "</think>")
TILES = ("<fake_token_around_image>", "<global-img>", *(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)))
SPECIALS: dict[str, tuple[str, ...]] = {
    "llava": ("<pad>", "</s>", "<s>", "<unk>", "<image>"),
    "llava_onevision": (*CHATML, "<image>", "<video>"),
    "idefics3": ("<|end_of_text|>", "<end_of_utterance>", "<|begin_of_text|>", "<image>", *TILES),
    "smolvlm": ("<|im_end|>", "<end_of_utterance>", "<|im_start|>", "<|endoftext|>", "<image>", *TILES),
    "qwen2_5_vl": QWEN,
    "qwen3_vl": (*QWEN, *THINKING),
    "internvl": (*CHATML, "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    "gemma3": ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
               "<end_of_image>", "<image_soft_token>"),
    "minicpmv4_6": (*QWEN, *THINKING, "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"),
    "minicpmv_legacy": (*CHATML, "<image>", "</image>", "<unk>", "<slice>", "</slice>"),
}  # fmt: skip
TEMPLATES = Path(__file__).resolve().parent / "templates"


def template(name: str) -> str:
    """A real checkpoint's chat template; the folder's README says whose."""
    return (TEMPLATES / f"{name}.jinja").read_text()


def _saved(inner: Any, **named: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **named)


def tokenizer(name: str, *, bos_token: str | None = None, **named: str) -> Any:
    """A byte-level BPE tokenizer of 560 tokens with a family's special tokens; ``named`` are their attributes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE(unk_token=None))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), list(SPECIALS[name])
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=sorted(alphabet))
    inner.train_from_iterator([CORPUS] * 4, trainer)
    given = {"bos_token": bos_token} if bos_token else {}
    return _saved(inner, pad_token=special[0], eos_token=special[1], extra_special_tokens=named, **given)


def metaspace(name: str, *, first: bool, **named: str) -> Any:
    """A tokenizer as SentencePiece has it, with bytes for letters that it does not know, and a beginning.

    Args:
        name: whose special tokens.
        first: whether a text begins with a space that is not written (Llama's does, Gemma's does not).
        named: attributes of special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = list(SPECIALS[name])
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if first else "never", split=True)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=sorted({*CORPUS, "\u2581"}))
    inner.train_from_iterator([CORPUS] * 4, trainer)
    made = json.loads(inner.to_str())
    words = made["model"]["vocab"]
    known = len(words)
    words |= {f"<0x{byte:02X}>": known + byte for byte in range(256)}
    made["model"] |= {"byte_fallback": True, "fuse_unk": True}
    inner = Tokenizer.from_str(json.dumps(made))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if first else steps)
    start = special[2]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, 2)]
    )
    return _saved(inner, pad_token=special[0], eos_token=special[1], bos_token=start, unk_token="<unk>",
                  extra_special_tokens=named)  # fmt: skip


def ids(tok: Any, *tokens: str) -> list[int]:
    return [tok.convert_tokens_to_ids(token) for token in tokens]


VOCABULARY = 560
TEXT: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "vocab_size": VOCABULARY},
    **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "tie_word_embeddings": True},
    "initializer_range": 0.08,
}
SIGLIP: dict[str, Any] = {
    **{"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "image_size": 32, "patch_size": 16, "vision_use_head": False},
}
PIXELS: dict[str, Any] = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def _rope(section: list[int]) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section}


def _config(model_type: str, **parts: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, **parts)


def llava_wide() -> tuple[Any, Any]:
    """LLaVA with maps of 64 columns and more: quantisation to 4 bits goes by blocks of 64."""
    return llava(hidden_size=64, intermediate_size=128, head_dim=16)


def llava(**text: int) -> tuple[Any, Any]:
    from transformers import LlavaProcessor, SiglipImageProcessorPil

    tok = metaspace("llava", first=True, image_token="<image>")
    processor = LlavaProcessor(
        SiglipImageProcessorPil(**PIXELS),
        tok,
        patch_size=16,
        vision_feature_select_strategy="full",
        chat_template=template("llava"),
    )
    config = _config(
        "llava",
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(tok), **text},
        vision_config=SIGLIP,
        image_token_index=ids(tok, "<image>")[0],
        image_seq_length=4,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return config, processor


def llava_onevision() -> tuple[Any, Any]:
    from transformers import LlavaOnevisionImageProcessorPil, LlavaOnevisionProcessor

    tok = tokenizer("llava_onevision", image_token="<image>", video_token="<video>")
    grid = [[32, 32], [32, 64], [64, 32]]
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessorPil(**PIXELS, image_grid_pinpoints=grid),
        tok,
        stand_in(),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=template("llava_onevision"),
    )
    config = _config(
        "llava_onevision",
        text_config={"model_type": "qwen2", **TEXT},
        vision_config=SIGLIP,
        image_token_index=ids(tok, "<image>")[0],
        video_token_index=ids(tok, "<video>")[0],
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return config, processor


def _idefics_vision() -> dict[str, Any]:
    return {k: v for k, v in SIGLIP.items() if k not in ("model_type", "vision_use_head")}


def idefics3() -> tuple[Any, Any]:
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor

    tok = tokenizer("idefics3", bos_token="<|begin_of_text|>")
    processor = Idefics3Processor(
        # One side of two: without pieces of it, as people set it who have little memory.
        Idefics3ImageProcessorPil(
            size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
        ),
        tok,
        image_seq_len=1,
        chat_template=template("idefics3"),
    )
    text = {"model_type": "llama", **TEXT, "vocab_size": len(tok)}
    config = _config(
        "idefics3",
        text_config=text,
        vision_config=_idefics_vision(),
        image_token_id=ids(tok, "<image>")[0],
        scale_factor=2,
    )
    return config, processor


def smolvlm() -> tuple[Any, Any]:
    from transformers import SmolVLMImageProcessorPil, SmolVLMProcessor

    tok = tokenizer("smolvlm", bos_token="<|im_start|>")
    processor = SmolVLMProcessor(
        # Images are cut into pieces, as the real checkpoints do.
        SmolVLMImageProcessorPil(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
        ),
        tok,
        stand_in(),
        image_seq_len=1,
        chat_template=template("smolvlm"),
    )
    config = _config(
        "smolvlm",
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(tok)},
        vision_config=_idefics_vision(),
        image_token_id=ids(tok, "<image>")[0],
        scale_factor=2,
    )
    return config, processor


def qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil

    tok = tokenizer("qwen2_5_vl", image_token="<|image_pad|>", video_token="<|video_pad|>")
    image, video, start, end = ids(tok, "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 1024}),
        tok,
        stand_in(),
        chat_template=template("qwen2_5_vl"),
    )
    config = _config(
        "qwen2_5_vl",
        text_config={**TEXT, "rope_parameters": _rope([1, 1, 2])},
        vision_config={
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 8},
            **{"out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 32},
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return config, processor


def qwen3_vl() -> tuple[Any, Any]:
    from transformers import Qwen2VLImageProcessorPil, Qwen3VLProcessor

    tok = tokenizer("qwen3_vl", image_token="<|image_pad|>", video_token="<|video_pad|>",
                    vision_start_token="<|vision_start|>", vision_end_token="<|vision_end|>")  # fmt: skip
    image, video, start, end = ids(tok, "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 1024}),
        tok,
        stand_in(),
        chat_template=template("qwen3_vl"),
    )
    config = _config(
        "qwen3_vl",
        text_config={**TEXT, "rope_parameters": _rope([2, 1, 1]) | {"mrope_interleaved": True}},
        vision_config={
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 8},
            **{"out_hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return config, processor


def internvl() -> tuple[Any, Any]:
    from transformers import GotOcr2ImageProcessorPil, InternVLProcessor

    tok = tokenizer("internvl", start_image_token="<img>", end_image_token="</img>",
                    context_image_token="<IMG_CONTEXT>", video_token="<video>")  # fmt: skip
    processor = InternVLProcessor(
        GotOcr2ImageProcessorPil(**PIXELS, min_patches=1, max_patches=2),
        tok,
        stand_in(),
        image_seq_length=1,
        chat_template=template("internvl"),
    )
    config = _config(
        "internvl",
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
            **{"image_size": [32, 32], "patch_size": [16, 16]},
        },
        image_token_id=ids(tok, "<IMG_CONTEXT>")[0],
        image_seq_length=1,
    )
    return config, processor


def gemma3() -> tuple[Any, Any]:
    from transformers import AddedToken, Gemma3ImageProcessorPil, Gemma3Processor

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tok = metaspace("gemma3", first=False, **named)
    # Line breaks are words of this vocabulary, whatever is beside them.
    tok.add_tokens([AddedToken("\n" * n, normalized=False) for n in (1, 2, 3)])
    start, end, soft = ids(tok, *named.values())
    processor = Gemma3Processor(Gemma3ImageProcessorPil(**PIXELS), tok, template("gemma3"), image_seq_length=4)
    config = _config(
        "gemma3",
        text_config={**TEXT, "vocab_size": len(tok), "query_pre_attn_scalar": 8, "sliding_window": 64},
        vision_config=SIGLIP,
        image_token_index=soft,
        boi_token_index=start,
        eoi_token_index=end,
        mm_tokens_per_image=4,
    )
    return config, processor


def minicpmv4_6() -> tuple[Any, Any]:
    from transformers import MiniCPMV4_6ImageProcessorPil, MiniCPMV4_6Processor

    tok = tokenizer(
        "minicpmv4_6",
        **{"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>"},
        **{"image_end_token": "</image>", "slice_start_token": "<slice>", "slice_end_token": "</slice>"},
        **{"image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"},
    )
    # The processor itself writes what goes around an image.
    chat = template("qwen3_5_nothink").replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>")
    processor = MiniCPMV4_6Processor(
        MiniCPMV4_6ImageProcessorPil(scale_resolution=32, patch_size=8, max_slice_nums=2),
        stand_in(),
        tok,
        chat_template=chat,
    )
    config = _config(
        "minicpmv4_6",
        text_config={
            **{"model_type": "qwen3_5_text", **TEXT, "rope_parameters": _rope([1, 0, 0]) | {"rope_type": "default"}},
            **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2},
            **{"linear_num_value_heads": 2, "layer_types": ["linear_attention", "full_attention"] * 2},
        },
        vision_config={
            **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4},
            **{"image_size": 32, "patch_size": 8},
        },
        insert_layer_id=1,
        image_token_id=ids(tok, "<|image_pad|>")[0],
        video_token_id=ids(tok, "<|video_pad|>")[0],
    )
    return config, processor


def stand_in() -> Any:
    """What a processor gets in place of a video processor; torchvision, which those need, may be absent."""
    from fs_fedmllm.models.torchvision import NoVideo

    return NoVideo()


REMOTE = Path(__file__).resolve().parent / "remote"


def build_legacy(folder: Path) -> Path:
    """A checkpoint with code of its own, in the structure of the paper's; see the files in ``remote``."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in REMOTE.glob("*.py"):
        shutil.copy(file, folder)
    tok = tokenizer("minicpmv_legacy")
    tok.chat_template = template("qwen2")
    tok.save_pretrained(folder)
    text = TEXT | {"tie_word_embeddings": False}
    _edit(folder / "tokenizer_config.json", tokenizer_class="MiniCPMVTokenizerFast",
          auto_map={"AutoTokenizer": [None, "tokenization_minicpmv_fast.MiniCPMVTokenizerFast"]})  # fmt: skip
    _edit(folder / "processor_config.json", processor_class="MiniCPMVProcessor", patch_size=16, query_num=2,
          auto_map={"AutoProcessor": "processing_minicpmv.MiniCPMVProcessor"})  # fmt: skip
    auto = {"AutoConfig": "configuration_minicpm.MiniCPMVConfig", "AutoModel": "modeling_minicpmv.MiniCPMV"}
    _edit(folder / "config.json", model_type="minicpmv", architectures=["MiniCPMV"], auto_map=auto, query_num=2,
          vision_width=32, patch_size=16, use_sliding_window=False, **text)  # fmt: skip
    model = plain_legacy(folder)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    return folder


def plain_legacy(folder: Path) -> Any:
    """The legacy model made by its own constructor, random with seed 0, without transformers' loader."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    from fs_fedmllm.models.families.minicpmv_legacy import _dropped_names

    with _dropped_names():
        made = get_class_from_dynamic_module("modeling_minicpmv.MiniCPMV", str(folder))
        settings = get_class_from_dynamic_module("configuration_minicpm.MiniCPMVConfig", str(folder))
        config = settings.from_pretrained(folder)
        config._attn_implementation = "eager"
        model = made(config)
    torch.manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.08)
    return model.eval()


def _edit(file: Path, **values: Any) -> None:
    found = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(found | values))


BUILDERS: dict[str, Callable[..., tuple[Any, Any]]] = {
    f.__name__: f
    for f in (llava, llava_onevision, idefics3, smolvlm, qwen2_5_vl, qwen3_vl, internvl, gemma3, minicpmv4_6)
}


def _see(model: Any) -> None:
    """Draw what transformers initialises with zeros (Gemma 3's projector): such a twin would be blind."""
    for name, parameter in model.named_parameters():
        if name.endswith("mm_input_projection_weight"):
            torch.nn.init.normal_(parameter, std=0.3)


def build(name: str, folder: Path) -> Path:
    """Write the twin of a family into a folder, once."""
    if (folder / "model.safetensors").is_file():
        return folder
    if name == "minicpmv_legacy":
        return build_legacy(folder)
    from transformers import AutoModelForImageTextToText

    from fs_fedmllm.models.torchvision import images_without_torchvision

    with images_without_torchvision():
        config, processor = (BUILDERS | {"llava_wide": llava_wide})[name]()
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        _see(model)
        ends = {"gemma3": [1, processor.tokenizer.convert_tokens_to_ids("<end_of_turn>")]}  # as its file has it
        model.generation_config.eos_token_id = ends.get(name, 1)
        model.generation_config.pad_token_id = 0
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder
