"""What an image costs by the real processors' settings, and the one budget over them."""

from __future__ import annotations

import json

import pytest
import real_processors
import twins
from PIL import Image

from fs_fedmllm.cli import main
from fs_fedmllm.config import ModelOptions
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import DataError, ModelError
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.families import family_of
from fs_fedmllm.models.image_tokens import PROBES, image_cost, image_facts, resolved
from fs_fedmllm.models.lengths import row_lengths
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.models.row_tokens import count_tokens, said_tokens, too_dear
from fs_fedmllm.models.torchvision import images_without_torchvision
from fs_fedmllm.tools.adapters.predict import free_question

#: Tokens of an image at 2,321 x 1,384 pixels and at 32 x 32, by the checkpoints' own settings: what stands for the
#: image itself, without what a processor writes around it.
COSTS = {
    "smolvlm": (832, 1088),  # 3 x 4 pieces and the whole; a small square is enlarged to 4 x 4
    "idefics3": (2197, 2873),
    "llava": (576, 576),
    "qwen2_5_vl": (4067, 4),
    "qwen3_vl": (3139, 64),
    "internvl": (1792, 256),
    "gemma3": (256, 256),
    "minicpmv4_6": (564, 64),
}
BUDGETS = {"smolvlm": 400, "idefics3": 900, "qwen2_5_vl": 300, "qwen3_vl": 300, "internvl": 800, "minicpmv4_6": 300}


@pytest.fixture(scope="module")
def processors():
    with images_without_torchvision():
        return {name: build() for name, build in real_processors.BUILDERS.items()}


def _read(family, processor, size) -> list[int]:
    chat = family.chat(processor, "?", True)
    return family.process(processor, chat, Image.new("RGB", size), {})["input_ids"][0].tolist()


@pytest.mark.parametrize("name", list(COSTS))
def test_an_image_costs_what_the_real_settings_make_it(name: str, processors) -> None:
    family, processor = family_of(name), processors[name]
    token = "<image_soft_token>" if name == "gemma3" else processor.image_token
    image = processor.tokenizer.convert_tokens_to_ids(token)
    large, small = (_read(family, processor, size) for size in ((2321, 1384), (32, 32)))
    assert (large.count(image), small.count(image)) == COSTS[name]
    # What is written around an image is a part of its cost.
    plain = processor.tokenizer(family.chat(processor, "?", False), add_special_tokens=False)["input_ids"]
    assert small.count(image) <= image_cost(family, processor, {}, (32, 32)) == len(small) - len(plain)


@pytest.mark.parametrize("name", list(BUDGETS))
def test_a_budget_is_kept_by_the_families_own_settings(name: str, processors) -> None:
    family, processor, budget = family_of(name), processors[name], BUDGETS[name]
    arguments = resolved(ModelOptions(image_tokens=budget), family, processor)
    shapes = (*PROBES, (2200, 1700), (64, 1500))  # one that is larger than any that the setting was tried on
    costs = [image_cost(family, processor, arguments, size) for size in shapes]
    assert budget / 2.5 < max(costs) <= budget and arguments
    assert image_cost(family, processor, {}, (2200, 1700)) > budget, "without it an image costs more"
    assert image_facts(processor, arguments).items() >= arguments.items()
    with pytest.raises(
        ModelError, match=r"image_tokens is 3, and an image of the family \w+ takes at least \d+ tokens"
    ):
        resolved(ModelOptions(image_tokens=3), family, processor)


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_a_fixed_number_is_a_budget_or_is_refused(name: str, processors) -> None:
    family, processor = family_of(name), processors[name]
    assert resolved(ModelOptions(image_tokens=600), family, processor) == {}, "what fits is left as it is"
    with pytest.raises(ModelError, match="takes at least"):
        resolved(ModelOptions(image_tokens=200), family, processor)


def test_what_is_given_stands_beside_the_budget(processors) -> None:
    family, processor = family_of("internvl"), processors["internvl"]
    both = resolved(ModelOptions(image={"max_patches": 2}, image_tokens=1000), family, processor)
    assert both["max_patches"] == 2
    assert resolved(ModelOptions(image={"max_patches": 2}), family, processor) == {"max_patches": 2}
    # The class of the processor has it cut pictures, whatever its file says.
    assert processor.image_processor.crop_to_patches is False
    assert image_facts(processor, {})["crop_to_patches"] is True
    json.dumps(image_facts(processors["qwen3_vl"], {}))


def test_rows_are_counted_image_and_text_apart(twin, tmp_path) -> None:
    for i, side in enumerate((32, 64, 200)):
        Image.new("L", (side, 32), 90).save(tmp_path / f"{i}.png")
    images = [str(tmp_path / f"{i % 3}.png") if i % 4 else None for i in range(20)]
    rows = [Sample(str(i), image, None, "yes", question="Is it " + "so " * i) for i, image in enumerate(images)]
    mllm = load_mllm(ModelOptions(path=str(twin("smolvlm"))))
    encoder = Encoder(mllm, free_question(None), "original", None)
    found = count_tokens(encoder, rows)
    whole = sorted(len(e.prompt) + len(e.completion) for e in encoder.encode(rows))
    assert found["rows"] == found["of"] == 20 and found["over"] == 0
    assert found["row"] == {"median": whole[9], "p95": whole[18], "largest": whole[-1]}
    assert 0 < found["image"]["median"] <= found["image"]["largest"] and found["answer"]["largest"] == len(
        encoder.completion("yes")
    )
    assert said_tokens(found).startswith("median / 95 % / largest of 20 rows: image ") and too_dear(found) == ""
    assert count_tokens(encoder, rows, most=7)["rows"] == 7
    # An image that alone is too long is told before a run, and refused with its row and its own cost at the start.
    short = Encoder(mllm, free_question(None), "original", None, row_lengths(mllm, 5, 1))
    assert "15 of 20 rows have an image that alone is longer than the 5 tokens" in too_dear(count_tokens(short, rows))
    with pytest.raises(DataError, match=r"takes \d+ tokens with its answer, \d+ of them its image's.*image_tokens"):
        short.count_shortened(rows[1:])


def test_data_check_counts_tokens(twin, tmp_path, capsys) -> None:
    Image.new("L", (64, 32), 90).save(tmp_path / "0.png")
    line = {"id": 0, "image": "0.png", "text": "fix it", "label": 1}
    parts = ("train", "val", "test")
    rows = [json.dumps(line | {"id": i, "split": part, "text": f"fix item {i}"}) for i, part in enumerate(parts)]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    words = ["data", "check", "own", str(tmp_path), "template", "digits_triage"]
    code = main([*words, "--model", str(twin("internvl"))])
    said = capsys.readouterr().out
    assert code in (0, 1)
    assert f"tokens with {twin('internvl')}: median / 95 % / largest of 3 rows: image " in said
    assert "images are shown with size {'height': 32, 'width': 32}, crop_to_patches True" in said
    assert main([*words, "--model"]) == 2
    assert "--model PATH" in capsys.readouterr().err


def test_tokens_are_counted_with_a_template_beside_the_data(tmp_path, capsys) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [json.dumps({"id": i, "text": f"item {i}", "label": i % 2, "split": part})
            for i, part in enumerate(["train"] * 4 + ["val", "val", "test", "test"])]  # fmt: skip
    (data / "data.jsonl").write_text("\n".join(rows))
    (data / "own.yaml").write_text("question: Which fits?\noptions: [one, other]\n")
    (tmp_path / "run.yaml").write_text(
        f"data: {{type: own, root: {data}, splitter: fedmllm_aligned}}\nfederate: {{client_num: 1}}\n"
        "model: {fedmllm: {path: tiny}}\nfedmllm: {template: own.yaml}\n"
    )
    assert main(["data", "check", str(tmp_path / "run.yaml"), "--model"]) == 0
    assert "tokens with tiny: median / 95 % / largest of 8 rows: " in capsys.readouterr().out


def test_a_run_keeps_a_budget_and_says_so(twin, short_config) -> None:
    from fs_fedmllm.models.skeleton import skeleton

    options = ModelOptions(path=str(twin("internvl")), image_tokens=5)
    bare, loaded = skeleton(options), load_mllm(options)
    assert bare.image_arguments == loaded.image_arguments == {"crop_to_patches": False}
    assert loaded.identity != load_mllm(ModelOptions(path=options.path)).identity
    assert twins.BUILDERS  # the twin is the family's
