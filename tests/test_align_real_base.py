"""The script that aligns a real base: its statements, that it goes on to the same bytes, and what it refuses."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from radiology_folder import write_folder
from short_runs import REPOSITORY

from fs_fedmllm.data.radiographs import ORGANS, Picture
from fs_fedmllm.errors import ConfigError

SHORT = ("--steps", "4", "--batch", "2", "--every", "2", "--threads", "1", "--image-tokens", "0")


@pytest.fixture(scope="module")
def script() -> dict:
    # Under its own name: dataclasses look their module up.
    return runpy.run_path(str(REPOSITORY / "scripts" / "align_real_base.py"), run_name=__name__)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), 5)


@pytest.fixture(scope="module")
def whole(script, data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "aligned"
    assert script["main"](["--base", "tiny", "--data", str(data), "--out", str(out), *SHORT]) == 0
    return out


def picture(**said: str) -> Picture:
    return Picture("p.png", "0", **{"organ": "chest", "modality": "", "plane": "", "part": "align"} | said)


def test_statements_say_what_annotations_say(script) -> None:
    shown = picture(modality="CT", plane="axial")
    asked = set()
    for seed in range(60):
        for question, answer in script["statements"](shown, 3, np.random.default_rng(seed)):
            what, _, rest = question.partition("\nOptions:\n")
            asked.add(what)
            right = "CT" if "modality" in what else "axial" if "plane" in what else "chest"
            if rest:  # lettered, in whatever order
                letter = answer[1]
                assert answer == f"({letter}) {right}" and f"({letter}) {right}\n" in rest
            elif " Is it " in question:
                assert answer == ("yes" if question.endswith(f"Is it {right}?") else "no")
            else:
                assert answer == right
    assert {script["MODALITY"], script["PLANE"], *script["ORGAN_WORDINGS"]} <= asked


def test_what_is_not_known_is_not_asked(script) -> None:
    for seed in range(40):
        for question, _ in script["statements"](picture(), 3, np.random.default_rng(seed)):
            assert "modality" not in question and "plane" not in question


def test_a_step_sees_the_organs_in_turn_and_an_epoch_every_picture_once(script) -> None:
    pictures = [picture(organ=organ, part=str(i)) for organ in ORGANS for i in range(4)]
    settings = script["Settings"](batch=6)
    steps = [script["drawn"](pictures, settings, step) for step in range(4)]
    assert all([p.organ for p in step] == [*ORGANS, *ORGANS] for step in steps)
    epochs = [[(p.organ, p.part) for p in steps[i] + steps[i + 1]] for i in (0, 2)]
    assert all(len(set(epoch)) == len(pictures) for epoch in epochs) and epochs[0] != epochs[1]
    assert script["drawn"](pictures, settings, 1) == steps[1]


def test_turns_of_a_conversation_are_those_of_the_template(script, data) -> None:
    """Only answers are learnt, and the row is what the chat template writes for the whole conversation."""
    from fs_fedmllm.config import ModelOptions
    from fs_fedmllm.data.template import build_template
    from fs_fedmllm.models.batch import IGNORED
    from fs_fedmllm.models.encoding import Encoder
    from fs_fedmllm.models.loader import load_mllm

    mllm = load_mllm(ModelOptions(path="tiny"))
    encoder = Encoder(mllm, build_template({"task": "vqa"}, "t", "t"), "original", None)
    path = next((data / "vqa_rad" / "VQA_RAD Image Folder").glob("*.png"))
    shown = Picture(str(path), "0", "chest", "", "", "align")
    row, labels = script["conversation"](encoder, shown, [("one?", "two"), ("is it three?", "no")])
    learnt = [token for token in labels if token != IGNORED]
    assert learnt == [*encoder.completion("two"), *encoder.completion("no")] and len(labels) == len(row.completion)
    turns = [("user", "one?"), ("assistant", "two"), ("user", "is it three?"), ("assistant", "no")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    messages[0]["content"].insert(0, {"type": "image"})
    written = encoder.tokens(mllm.processor.apply_chat_template(messages, tokenize=False))
    image = mllm.processor.image_token_id
    assert [t for t in (*row.prompt, *row.completion) if t != image] == [t for t in written if t != image]


def test_it_writes_a_base_its_card_and_its_log(whole: Path) -> None:
    log = [json.loads(line) for line in (whole / "alignment.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [0, 0, 0, 2, 4, 4]
    assert all("organ_watched" in line and line["loss"] > 0 for line in log[3:5])
    said = json.loads((whole / "alignment.json").read_text())
    assert said["pictures"] + len(said["learnt_from"]) == 15 and 0 <= said["organ"] <= 1
    assert "no medical device" in (whole / "README.md").read_text()
    assert not whole.with_name("aligned.work").exists()
    from fs_fedmllm.config import ModelOptions
    from fs_fedmllm.models.loader import load_mllm

    assert load_mllm(ModelOptions(path=str(whole))).adapter.depth > 0


def test_a_stopped_pass_goes_on_to_the_same_bytes(script, data, whole, tmp_path, capsys) -> None:
    out = tmp_path / "aligned"
    words = ["--base", "tiny", "--data", str(data), "--out", str(out), *SHORT]
    assert script["main"]([*words, "--minutes", "0"]) == 1
    assert "stopped after 2 of 4 steps" in capsys.readouterr().err and not out.exists()
    (out.with_name("aligned.work") / "features.safetensors").write_bytes(b"torn")  # is computed again
    assert script["main"]([*words, "--seed", "1"]) == 2
    assert "holds a pass with other settings" in capsys.readouterr().err
    assert script["main"](words) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    logs = [[json.loads(line) for line in (folder / "alignment.jsonl").open()] for folder in (out, whole)]
    for log in logs:
        for line in log:
            line.pop("seconds")
    assert logs[0] == logs[1]


def test_what_it_cannot_use_is_refused(script, data, whole, tmp_path, capsys) -> None:
    def refused(message: str, *words: object) -> None:
        assert script["main"]([*map(str, words), *SHORT]) == 2
        assert message in " ".join(capsys.readouterr().err.split())

    out = ("--out", tmp_path / "new")
    refused("is aligned already", "--base", whole, "--data", data, *out)
    refused("is there and not empty", "--base", "tiny", "--data", data, "--out", whole)
    refused("there is no such folder", "--base", tmp_path / "no", "--data", data, *out)
    refused("there is no folder", "--base", "tiny", "--data", data, "--vqa-rad", "no", *out)
    few = write_folder(tmp_path / "few", 1)
    refused("has no picture of the", "--base", "tiny", "--data", few, *out)
    assert not (tmp_path / "new").exists()
    with pytest.raises(SystemExit, match="2"):
        script["main"](["--data", str(data), "--batch", "0"])


def test_a_model_without_a_projector_of_its_own_is_refused(script) -> None:
    class Family:
        name, groups = "other", {}

    class Model:
        family = Family()

        class inner:
            named_modules = staticmethod(lambda: iter(()))

    with pytest.raises(ConfigError, match="no projector of its own"):
        script["Projected"](Model())
    assert len(ORGANS) == 3
