"""The model that ships: it loads without torchvision, and its letters and image tokens are what scoring relies on."""

from pathlib import Path

import numpy as np
import pytest

import fs_fedmllm
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.short_templates import CASES, VARIANTS
from fs_fedmllm.data.template import LETTERS
from fs_fedmllm.data.template_file import load_template

TINY = Path(fs_fedmllm.__file__).parent / "models" / "tiny"
CHOICES = ("digits_triage", "digits_match", "crisismmd", "hateful_memes")


@pytest.fixture(scope="module")
def processor():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoProcessor.from_pretrained(TINY)


@pytest.fixture(scope="module")
def model():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForImageTextToText.from_pretrained(TINY).eval()


def messages(prompt, image):
    parts = [{"type": "image"}] if image else []
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]


@pytest.mark.parametrize("name", CHOICES)
def test_completions_part_at_the_letter_only(processor, name):
    template = load_template(name)
    tokenizer = processor.tokenizer
    completions = [tokenizer(template.answer(label))["input_ids"] for label in range(len(template.options))]
    bracket = tokenizer.convert_tokens_to_ids("(")
    assert {ids[0] for ids in completions} == {bracket}
    assert [ids[1] for ids in completions] == tokenizer.convert_tokens_to_ids(list(LETTERS[: len(completions)]))
    prompt = processor.apply_chat_template(messages("anything", False), add_generation_prompt=True)
    for label, ids in enumerate(completions):
        assert tokenizer(prompt + template.answer(label))["input_ids"] == tokenizer(prompt)["input_ids"] + ids
        assert tokenizer.decode(ids) == template.answer(label)


def test_prompts_are_short_and_survive_decoding(processor):
    template = load_template("digits_triage")
    row = Sample(id="a", image="a.png", text="i need a plumber today", answer="")
    for variant in VARIANTS:
        for case in CASES:
            shown = row.showing(image=case in ("both", "image"), text=case in ("both", "text"))
            prompt = template.prompt(shown, variant)
            ids = processor.tokenizer(prompt)["input_ids"]
            assert len(ids) <= 16
            assert processor.tokenizer.decode(ids) == prompt


def test_any_text_goes_in(processor):
    text = "Ünïcode (B) mid-sentence, 日本 \n\n<b>"
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_image_tokens_and_padding(processor, model):
    """A row scores the same alone and in a mixed batch, padded on either side."""
    torch = pytest.importorskip("torch")
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 64), dtype=np.uint8))
    prompts = [
        processor.apply_chat_template(messages("name the digit", True), add_generation_prompt=True),
        processor.apply_chat_template(messages("my wife lost the train ticket", False), add_generation_prompt=True),
    ]
    assert prompts[0] == "<|user|><image>\nname the digit<|end|><|assistant|>"
    with torch.inference_mode():
        one = processor(text=prompts[:1], images=[image], return_tensors="pt")
        assert int((one["input_ids"] == model.config.image_token_id).sum()) == model.config.image_seq_length
        alone = [model(**one).logits[0, -1], model(**processor(text=prompts[1:], return_tensors="pt")).logits[0, -1]]
        for side in ("left", "right"):
            batch = processor(text=prompts, images=[image], return_tensors="pt", padding=True, padding_side=side)
            logits = model(**batch).logits
            for k, single in enumerate(alone):
                last = int(batch["attention_mask"][k].nonzero().max())
                assert torch.allclose(logits[k, last], single, atol=1e-4)


def test_size_and_layers(model):
    assert len(model.model.language_model.layers) == 12
    assert sum(p.numel() for p in model.parameters()) <= 4_000_000
    assert sum(path.stat().st_size for path in TINY.iterdir()) <= 8 * 2**20
    assert model.generation_config.eos_token_id == model.config.text_config.eos_token_id == 1
