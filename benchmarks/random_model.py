"""A LLaVA of random weights in the embedded model's format, in any size: shapes cost what real models' do."""

from __future__ import annotations

from pathlib import Path

#: Name -> (vision width, layers, heads), (language width, layers, heads), image side, patch side.
SHAPES = {
    # SigLIP-so400m in front of a language model of 2.8 billion parameters: what a small MLLM for one GPU has.
    "realistic": ((1152, 27, 16), (2560, 32, 20), 336, 14),
    # Small enough for a CPU, with a vision tower as heavy beside its language model as in SmolVLM-256M (93 M of
    # SigLIP-B beside 135 M of SmolLM2).
    "small": ((128, 4, 4), (160, 5, 4), 112, 16),
}


def write_model(folder: Path, shape: str, dtype: str, vocabulary: int = 4096) -> dict[str, float]:
    """Save a model and its processor.

    Args:
        folder: where to.
        shape: key of ``SHAPES``.
        dtype: precision of the saved weights.
        vocabulary: rows of the embedding; the tokenizer is the embedded model's and uses the first 800.

    Returns:
        Parameters of the vision tower and of the language model, in millions.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from fs_fedmllm.models.loader import TINY

    vision, text, side, patch = SHAPES[shape]
    config = AutoConfig.from_pretrained(TINY)
    tokens = (side // patch) ** 2
    for part, (width, layers, heads) in ((config.vision_config, vision), (config.text_config, text)):
        part.hidden_size, part.num_hidden_layers, part.num_attention_heads = width, layers, heads
        part.intermediate_size = 4 * width if part is config.vision_config else round(width * 8 / 3)
    config.vision_config.image_size, config.vision_config.patch_size = side, patch
    config.text_config.num_key_value_heads, config.text_config.head_dim = text[2], text[0] // text[2]
    config.text_config.vocab_size, config.text_config.max_position_embeddings = vocabulary, tokens + 1024
    config.image_seq_length = tokens
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(TINY)
    processor.image_processor.size = {"height": side, "width": side}
    processor.patch_size = patch
    processor.tokenizer.model_max_length = tokens + 1024
    processor.save_pretrained(folder)
    parts = {"vision": model.model.vision_tower, "language": model.model.language_model}
    return {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in parts.items()}
