"""The vision cache changes time, not numbers."""

import torch

from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.vision import VisionFeatures


def _logits(federation, encoder: Encoder, rows) -> torch.Tensor:
    batch = encoder.collate(encoder.encode(rows), completions=True)
    federation.mllm.set_training(False)
    with torch.no_grad():
        return federation.mllm.inner(**batch.inputs).logits


def _rows(federation):
    rows = list(federation.data.dataset.test[:3])
    return [rows[0], rows[1].showing(image=False, text=True), rows[2].showing(image=True, text=False)]


def test_cached_features_give_the_logits_of_pixels(federation) -> None:
    cached = Encoder(federation.mllm, federation.data.template, "original", VisionFeatures(federation.mllm, 1 << 20))
    pixels = Encoder(federation.mllm, federation.data.template, "original", None)
    one = _rows(federation)[:1]
    assert torch.equal(_logits(federation, cached, one), _logits(federation, pixels, one))
    mixed = _rows(federation)
    torch.testing.assert_close(
        _logits(federation, cached, mixed), _logits(federation, pixels, mixed), rtol=0, atol=1e-5
    )


def test_rows_without_an_image_never_touch_the_vision_tower(federation) -> None:
    vision = VisionFeatures(federation.mllm, 1 << 20)
    encoder = Encoder(federation.mllm, federation.data.template, "original", vision)
    rows = [r.showing(image=False, text=True) for r in federation.data.dataset.test[:4]]
    batch = encoder.collate(encoder.encode(rows), completions=True)
    assert vision.computed == 0
    assert set(batch.inputs) == {"input_ids", "attention_mask"}


def test_each_image_is_computed_once_and_the_budget_is_kept(federation) -> None:
    rows = federation.data.dataset.test[:40]
    vision = VisionFeatures(federation.mllm, 1 << 24)
    encoder = Encoder(federation.mllm, federation.data.template, "original", vision)
    encoder.encode(rows)
    encoder.encode(rows)
    assert vision.computed == len({r.image for r in rows})
    size = next(iter(vision._entries.values())).bytes
    small = VisionFeatures(federation.mllm, 2 * size)
    encoder = Encoder(federation.mllm, federation.data.template, "original", small)
    encoded = encoder.encode(rows)
    assert len(small._entries) == 2
    batch = encoder.collate(encoded[:8], completions=True)  # evicted images are computed again
    assert batch.inputs["mm_encoder_outputs"]["image"].pooler_output


def test_the_disk_cache_survives_the_process_and_a_torn_file(federation, tmp_path) -> None:
    rows = federation.data.dataset.test[:2]
    first = VisionFeatures(federation.mllm, 1 << 20, tmp_path)
    Encoder(federation.mllm, federation.data.template, "original", first).encode(rows)
    again = VisionFeatures(federation.mllm, 1 << 20, tmp_path)
    encoder = Encoder(federation.mllm, federation.data.template, "original", again)
    encoder.encode(rows)
    assert again.computed == 0
    assert torch.equal(
        _logits(federation, encoder, rows[:1]),
        _logits(federation, Encoder(federation.mllm, federation.data.template, "original", None), rows[:1]),
    )
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    torn = VisionFeatures(federation.mllm, 1 << 20, tmp_path)
    Encoder(federation.mllm, federation.data.template, "original", torn).encode(rows)
    assert torn.computed == len({r.image for r in rows})


def test_it_is_off_when_the_vision_tower_is_trained(federation) -> None:
    from fs_fedmllm.config import LoraConfig, ModelOptions
    from fs_fedmllm.models.loader import load_mllm

    assert federation.mllm.vision_is_frozen
    everywhere = load_mllm(ModelOptions(lora=LoraConfig(target=r".*\.layers\.(\d+)\.self_attn\.(q_proj|v_proj)")))
    assert any("vision_tower" in name for name in everywhere.adapter.names)
    assert not everywhere.vision_is_frozen
    assert all(
        (layer is None) == ("vision_tower" in name)
        for name, layer in zip(everywhere.adapter.names, everywhere.adapter.layers, strict=True)
    )


def test_splicing_an_image_equals_the_processor(federation) -> None:
    """Prompts are spliced from one probe per image; the processor as a whole must give the same tokens."""
    encoder = federation.encoder
    for row in federation.data.dataset.test[:3]:
        chat = encoder._chat(federation.data.template.prompt(row), True)
        whole = encoder.images.process(chat, row.image, "")["input_ids"][0].tolist()
        assert list(encoder.encode([row])[0].prompt) == whole
