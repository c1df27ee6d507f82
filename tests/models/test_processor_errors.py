"""What a processor cannot take is told with row, file and size, in training's encoding as in predict's."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import DataError, ModelError
from fs_fedmllm.models.encoding import Encoder


@pytest.mark.parametrize("error", [ValueError("height:\n1 must be larger"), ZeroDivisionError(), RuntimeError("bad")])
def test_a_processor_s_own_error_names_the_row(federation, tmp_path, monkeypatch, error) -> None:
    Image.new("RGB", (31, 7)).save(tmp_path / "thin.png")
    row = Sample("r", str(tmp_path / "thin.png"), "text", "(A) x", label=0, source="rows.jsonl:7")
    encoder = Encoder(federation.mllm, federation.data.template, "original", None)

    def fails(*_args, **_more):
        raise error

    monkeypatch.setattr(type(federation.mllm.family), "process", fails)
    with pytest.raises(DataError) as found:
        encoder.encode([row])
    said = str(found.value)
    assert said.startswith("rows.jsonl:7: ") and "thin.png (31 x 7 pixels)" in said and "\n" not in said
    assert type(error).__name__ in said


def test_our_own_errors_and_a_full_memory_stay_what_they_are(federation, tmp_path, monkeypatch) -> None:
    Image.new("RGB", (31, 7)).save(tmp_path / "thin.png")
    row = Sample("r", str(tmp_path / "thin.png"), None, "(A) x", label=0, source="rows.jsonl:7")
    encoder = Encoder(federation.mllm, federation.data.template, "original", None)
    for error in (ModelError("ours"), MemoryError(), torch.OutOfMemoryError("full")):

        def fails(*_args, error=error, **_more):
            raise error

        monkeypatch.setattr(type(federation.mllm.family), "process", fails)
        with pytest.raises(type(error)):
            encoder.encode([row])
