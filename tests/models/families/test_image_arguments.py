"""``model.fedmllm.image``: what the processor takes gets there, and what it would ignore is refused."""

from __future__ import annotations

import pytest

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.errors import ModelError
from fs_fedmllm.models.loader import load_mllm

#: Family -> an argument of its own, which none of the others' defaults name.
OWN = {
    "tiny": {"do_resize": True}, "internvl": {"crop_to_patches": False}, "qwen2_5_vl": {"min_pixels": 784},
    "smolvlm": {"do_image_splitting": False}, "gemma3": {"do_pan_and_scan": False},
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_an_argument_that_the_processor_does_not_have_is_refused(twin, name) -> None:
    from twins import BUILDERS as NAMES

    if name != "tiny" and name not in NAMES:
        pytest.skip(f"NOT RUN: no twin {name}")
    path = "tiny" if name == "tiny" else str(twin(name))
    assert load_mllm(ModelOptions(path=path, image=OWN[name])).image_arguments == OWN[name]
    with pytest.raises(ModelError, match=r"fedmllm\.image: .* has no argument 'do_resise'; did you mean"):
        load_mllm(ModelOptions(path=path, image={"do_resise": True}))
