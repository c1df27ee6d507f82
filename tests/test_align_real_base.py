"""The script that aligns a real base: its statements, that it goes on to the same bytes, and what it refuses."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from radiology_folder import write_folder
from short_runs import REPOSITORY

from fs_fedmllm.data.radiographs import ORGANS, Picture
from fs_fedmllm.errors import ConfigError

SHORT = ("--steps", "4", "--batch", "2", "--every", "2", "--threads", "1", "--image-tokens", "0", "--rank", "2")
MODULES = ("align_statements", "align_rows", "align_projector", "align_asked", "align_real_base")


@pytest.fixture(scope="module")
def script() -> Iterator[SimpleNamespace]:
    """The script and its modules, as a run of the script finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "scripts"))
        names: dict = {}
        for module in MODULES:
            names |= vars(importlib.import_module(module))
        yield SimpleNamespace(**{name: value for name, value in names.items() if not name.startswith("__")})
        for module in MODULES:
            sys.modules.pop(module)


@pytest.fixture(scope="module")
def encoders(script):
    """Of the embedded model."""
    from fs_fedmllm.config import ModelOptions
    from fs_fedmllm.models.loader import load_mllm

    return script.Encoders(load_mllm(ModelOptions(path="tiny")), None)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), 5)


@pytest.fixture(scope="module")
def whole(script, data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "aligned"
    assert script.main(["--base", "tiny", "--data", str(data), "--out", str(out), *SHORT]) == 0
    return out


def picture(**said: str) -> Picture:
    return Picture("p.png", "0", **{"organ": "chest", "modality": "", "plane": "", "part": "align"} | said)


def drawn(script, shown: Picture | None, count: int = 400) -> list:
    """Statements about a picture, or about notes, of so many seeds."""
    rngs = [np.random.default_rng(seed) for seed in range(count)]
    return [script.practised(rng) if shown is None else script.about(shown, 1, rng)[0] for rng in rngs]


def options_in(question: str) -> dict[str, str]:
    """Letter -> option of a question that lists them."""
    return dict(re.findall(r"^\(([A-Z])\) (.+)$", question, re.MULTILINE))


def test_statements_say_what_annotations_say(script) -> None:
    said = {"organ": "chest", "modality": "CT", "plane": "axial"}
    kinds: dict[str, int] = {}
    for statement in drawn(script, picture(**said)):
        asked = [
            n
            for n, entry in script.PROPERTIES.items()
            if any(q[:-1] in statement.question for q in entry["questions"])
        ]
        if not asked:  # a sentence
            kinds["sentence"] = kinds.get("sentence", 0) + 1
            assert "chest" in statement.answer
            continue
        [name], right = asked, said[asked[0]]
        if listed := options_in(statement.question):
            kind, letter = "letter", re.findall(r"\((.)\)", statement.answer)[0]
            assert statement.answer in (f"({letter}) {right}", f"{right} ({letter})") and listed[letter] == right
            assert len(set(listed.values())) == len(listed) >= 2
        elif statement.answer in ("yes", "no"):
            kind = "yes or no"
            others = {*script.PROPERTIES[name]["words"]} - {right}
            assert (statement.answer == "yes") == (not any(f" {other}" in statement.question for other in others))
        else:
            kind = "word"
            assert statement.answer == right
        kinds[f"{name} {kind}"] = kinds.get(f"{name} {kind}", 0) + 1
    assert {"sentence"} | {f"{n} {k}" for n in said for k in ("letter", "yes or no", "word")} == kinds.keys()


def test_wordings_forms_orders_and_layouts_are_drawn(script) -> None:
    statements = drawn(script, picture())
    questions = script.PROPERTIES["organ"]["questions"]
    assert all(any(q[:-1] in s.question for s in statements) for q in questions)
    for forms in ("open", "plain", "lettered", "paired", "yes_no"):
        for wording in script.WORDINGS[forms]:
            lead = wording.split("{")[0] or wording.split("}")[-1]
            assert any(lead in s.question for s in statements), wording
    listed = [options_in(s.question) for s in statements if options_in(s.question)]
    assert len({tuple(options.values()) for options in listed if {*options.values()} == {*ORGANS}}) == 6
    assert {len(options) for options in listed} >= {2, 3, 4, 5} and {
        s.answer[1] for s in statements if s.answer[0] == "("
    } == {*"ABCDE"}
    assert {s.system for s in statements} == {"", *script.WORDINGS["systems"]}
    assert {s.image_last for s in statements} == {True, False}
    assert drawn(script, picture(), 20) == statements[:20]


def test_what_is_held_out_is_never_taught(script) -> None:
    taught = [s.question for s in drawn(script, picture(modality="CT", plane="axial")) + drawn(script, None)]
    forms = [re.split(r"\{\w+\}", wording) for wording in script.WORDINGS["held_out"].values()]
    for held in [*script.HELD_OUT, *(max(parts, key=len).strip() for parts in forms)]:
        assert not any(held.rstrip("?.") in question for question in taught), held
    assert [name for name, way in script.ASKINGS.items() if set(way.questions) & set(script.HELD_OUT)] == [
        name for name in script.ASKINGS if name.startswith("held out")
    ]


def test_a_product_s_choice_is_asked_as_the_product_asks_it(script) -> None:
    from fs_fedmllm.data.sample import Sample
    from fs_fedmllm.data.template_file import build_template

    raw = {"question": "Which part of the body does the picture show?", "options": list(ORGANS)}
    template = build_template(raw, "t", "t")
    shown = template.prompt(Sample("1", "p.png", None, template.answer(1), label=1))
    wording = script.WORDINGS["lettered"][0]
    assert script.filled(wording, raw["question"], ORGANS, basis=" based on the image") == shown
    assert script.letter_of(ORGANS, "chest") == template.answer(1)


def test_what_is_not_known_is_not_asked(script) -> None:
    others = [q for name in ("modality", "plane") for q in script.PROPERTIES[name]["questions"]]
    for statement in drawn(script, picture()):
        assert not any(question[:-1] in statement.question for question in others)


def test_notes_tell_their_answers(script) -> None:
    for statement in drawn(script, None):
        note, right = statement.question.split("\n")[0], statement.answer
        if listed := options_in(statement.question):
            letter = re.findall(r"\((.)\)", right)[0]
            assert right in (f"({letter}) {listed[letter]}", f"{listed[letter]} ({letter})")
            right = listed[letter]
        assert right.lower() in note.lower() and not statement.system and not statement.image_last


def test_a_step_sees_the_organs_in_turn_and_an_epoch_every_picture_once(script) -> None:
    pictures = [picture(organ=organ, part=str(i)) for organ in ORGANS for i in range(4)]
    settings = script.Settings(batch=6)
    steps = [script.drawn(pictures, settings, step) for step in range(4)]
    assert all([p.organ for p in step] == [*ORGANS, *ORGANS] for step in steps)
    epochs = [[(p.organ, p.part) for p in steps[i] + steps[i + 1]] for i in (0, 2)]
    assert all(len(set(epoch)) == len(pictures) for epoch in epochs) and epochs[0] != epochs[1]
    assert script.drawn(pictures, settings, 1) == steps[1]


def test_statements_of_one_row_do_not_see_each_other(script, encoders, data) -> None:
    """Each has the logits that it has alone, whatever stands before the picture, behind it or beside it."""
    path = next((data / "vqa_rad" / "VQA_RAD Image Folder").glob("*.png"))
    shown = Picture(str(path), "0", "chest", "", "", "align")
    said = [
        script.Statement("Which?", "chest"),
        script.Statement("Which\n(A) head\n(B) chest", "(B) chest"),
        script.Statement("What is it?", "a chest", system="Be brief."),
        script.Statement("And this?", "chest", system="Be brief."),
        script.Statement("Which is it?", "chest", image_last=True),
    ]
    groups = [*encoders.rows(shown, said), *encoders.rows(None, said[:2])]
    assert [len(group) for group in groups] == [2, 2, 1, 2]
    packed, apart = script.pack(encoders.of(), groups), script.apart(encoders.of(), groups)
    assert packed.labels.tolist() == apart.labels.tolist()
    assert packed.labels.tolist() == [t for group in groups for row in group for t in row.completion]
    assert packed.inputs["input_ids"].numel() < apart.inputs["input_ids"].numel()
    logits = [script.learnt_logits(encoders.mllm, rows).detach() for rows in (packed, apart)]
    np.testing.assert_allclose(logits[0].numpy(), logits[1].numpy(), atol=1e-4)
    assert script.packs_alike(encoders, shown, said)


def test_statements_of_one_picture_share_their_layout_and_rows_of_like_length_a_pass(script, encoders) -> None:
    for seed in range(80):
        statements = script.about(picture(), 4, np.random.default_rng(seed))
        assert len(statements) == 4 and len({(s.system, s.image_last) for s in statements}) == 1
    groups = encoders.rows(None, [script.Statement("word " * n, "a", "x" * n) for n in (1, 30, 90, 32, 91)])
    passes = script.of_like_length(groups)
    lengths = [[len(script._row(group)[0]) for group in alike] for alike in passes]
    assert all(min(alike) >= 0.85 * max(alike) for alike in lengths) and 2 < len(passes) < len(groups)
    assert sorted(map(id, groups)) == sorted(id(group) for alike in passes for group in alike)
    assert script.separate([["a", "b"], ["c"]]) == [["a"], ["b"], ["c"]]


def test_a_model_that_takes_no_such_mask_gets_a_row_for_each(script, encoders, data, monkeypatch) -> None:
    path = next((data / "vqa_rad" / "VQA_RAD Image Folder").glob("*.png"))
    shown = Picture(str(path), "0", "chest", "", "", "align")
    forward = type(encoders.mllm.inner).forward

    def padded_alone(self, attention_mask, **inputs):
        if attention_mask.ndim != 2:
            raise ValueError("a mask of padding, please")
        return forward(self, attention_mask=attention_mask, **inputs)

    monkeypatch.setattr(type(encoders.mllm.inner), "forward", padded_alone)
    assert not script.packs_alike(encoders, shown, [script.Statement("a?", "b"), script.Statement("c?", "d")])


def test_rows_are_those_of_the_chat_template(script, encoders, data) -> None:
    mllm, path = encoders.mllm, next((data / "vqa_rad" / "VQA_RAD Image Folder").glob("*.png"))
    shown = Picture(str(path), "0", "chest", "", "", "align")
    for said in (
        script.Statement("one?", "two"),
        script.Statement("one?", "two", "Be brief.", image_last=True),
    ):
        [[row]] = encoders.rows(shown, [said])
        parts = [{"type": "image"}, {"type": "text", "text": "one?" + "\n" * said.image_last}]
        messages = [{"role": "user", "content": parts[::-1] if said.image_last else parts}]
        if said.system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": said.system}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": "two"}]})
        written = encoders.of().tokens(mllm.processor.apply_chat_template(messages, tokenize=False))
        image, ids = mllm.processor.image_token_id, [*row.prompt, *row.completion]
        assert [t for t in ids if t != image] == [t for t in written if t != image]
        assert image in ids


def test_answers_are_judged_by_the_deciding_token(script, encoders, data) -> None:
    """By the logits of each prompt alone; letters stand for what they list, in an order of the picture's own."""
    folder = data / "vqa_rad" / "VQA_RAD Image Folder"
    pictures = [
        Picture(str(p), f"{i}abcdef0", ORGANS[i % 3], "", "", "val") for i, p in enumerate(folder.glob("*.png"))
    ]
    ways = {name: script.ASKINGS[name] for name in ("own wording", "held out, letters")}
    right = script.answered(encoders, pictures[:4], ways)
    assert right == script.answered(encoders, pictures[:4], ways, together=False)
    encoder = encoders.of()
    for name, way in ways.items():
        for place, shown in enumerate(pictures[:4]):
            question, order = way.asked(shown, place)
            said = [script.letter_of(order, organ) if way.lettered else organ for organ in order]
            assert sorted(order) == sorted(ORGANS) and all(o in question for o in order) == way.lettered
            options = script.option_tokens([encoder.completion(answer) for answer in said])
            rows = encoder.encode([script.Sample("1", shown.path, None, "", question=question)])
            inputs = encoder.collate(rows, completions=False, suffix=options.prefix).inputs
            scores = encoders.mllm.last_logits(inputs, 1)[0, -1][list(options.decisions)]
            assert right[name][place] == (order[int(scores.argmax())] == shown.organ)
    assert len({tuple(way.asked(shown, 0)[1]) for shown in pictures}) > 1
    assert script.shares({"a": [True, False, False]}) == {"a": 0.3333}


def test_it_writes_a_base_its_card_and_its_log(whole: Path) -> None:
    log = [json.loads(line) for line in (whole / "alignment.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log[:6]] == [0, 0, 0, 2, 4, 4] and log[0]["together"] is True
    assert all(len(line["watched"]) == 4 and line["loss"] > 0 for line in log[3:5])
    said = json.loads((whole / "alignment.json").read_text())
    assert said["pictures"] + len(said["learnt_from"]) == 15
    assert all(0 <= share <= 1 for share in said["asked"].values()) and "held out, letters" in said["asked"]
    assert "no medical device" in (whole / "README.md").read_text()
    assert not whole.with_name("aligned.work").exists()
    from fs_fedmllm.config import ModelOptions
    from fs_fedmllm.models.loader import load_mllm

    assert load_mllm(ModelOptions(path=str(whole))).adapter.depth > 0


def test_a_stopped_pass_goes_on_to_the_same_bytes(script, data, whole, tmp_path, capsys) -> None:
    out = tmp_path / "aligned"
    words = ["--base", "tiny", "--data", str(data), "--out", str(out), *SHORT]
    assert script.main([*words, "--minutes", "0"]) == 1
    assert "stopped after 2 of 4 steps" in capsys.readouterr().err and not out.exists()
    (out.with_name("aligned.work") / "features.safetensors").write_bytes(b"torn")  # is computed again
    ended = tmp_path / "ended"
    shutil.copytree(out.with_name("aligned.work"), ended.with_name("ended.work"))
    assert script.main([*words[:4], "--out", str(ended), *SHORT, "--finish"]) == 0
    log = [json.loads(line) for line in (ended / "alignment.jsonl").open()]
    assert max(line["step"] for line in log) == json.loads((ended / "alignment.json").read_text())["step"] == 2
    assert script.main([*words[:4], "--out", str(tmp_path / "none"), *SHORT, "--finish"]) == 2
    assert "holds no stopped pass" in capsys.readouterr().err
    assert script.main([*words, "--seed", "1"]) == 2
    assert "holds a pass with other settings" in capsys.readouterr().err
    assert script.main(words) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    logs = [[json.loads(line) for line in (folder / "alignment.jsonl").open()] for folder in (out, whole)]
    for log in logs:
        for line in log:
            line.pop("seconds")
    assert logs[0] == logs[1]


def test_what_it_cannot_use_is_refused(script, data, whole, tmp_path, capsys) -> None:
    def refused(message: str, *words: object) -> None:
        assert script.main([*map(str, words), *SHORT]) == 2
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
        script.main(["--data", str(data), "--batch", "0"])


def test_a_template_without_a_turn_of_a_system_is_refused(script, encoders, monkeypatch) -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no systems here') }}{% endif %}"
    processor = encoders.mllm.processor
    monkeypatch.setattr(processor, "chat_template", template + processor.chat_template)
    with pytest.raises(ConfigError, match=r"no systems here.*shares: system: 0"):
        encoders.of("Be someone else.")


def test_a_finished_base_is_asked_in_every_wording(script, data, whole, capsys) -> None:
    from align_asked import main

    words = ["--data", str(data), "--image-tokens", "0"]
    assert main(["--base", str(whole), "--part", "train", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(":", 1)[0] for line in lines[1:]] == list(script.ASKINGS)
    assert main(["--base", str(data / "no"), *words]) == 2
    assert capsys.readouterr().err.startswith("align_asked: ")


def test_two_tasks_ask_it_in_their_own_prompts(script, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    transfer = importlib.import_module("transfer")
    try:
        root, limit = write_folder(tmp_path / "data", 60), 6
        transfer.main(["--model", "tiny", "--data", str(root), "--limit", str(limit), "--image-tokens", "0"])
    finally:
        sys.modules.pop("transfer")
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 6 and all(line.startswith("real_triage, organ, picture ") for line in told)
    assert all(f"of {limit} (" in line for line in told)


def test_a_model_without_a_projector_of_its_own_is_refused(script) -> None:
    class Family:
        name, groups = "other", {}

    class Model:
        family = Family()

        class inner:
            named_modules = staticmethod(lambda: iter(()))

    with pytest.raises(ConfigError, match="no projector of its own"):
        script.Projected(Model())
    assert len(ORGANS) == 3
