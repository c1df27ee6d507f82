"""The model card says nothing that the run's data contradicts; written from made-up results, without a model."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from short_runs import CONFIGS

from fs_fedmllm import config as schema

pytest.importorskip("huggingface_hub", reason="a card is written with huggingface_hub")

from fs_fedmllm.hub import phrases
from fs_fedmllm.hub.card import card
from fs_fedmllm.hub.facts import Facts
from fs_fedmllm.hub.release import public_config

ROWS = {"evaluated": 60, "all": 60, "presence": {"both": 60}}


def written(
    *overrides: str, missing: float = 0.5, rows: dict[str, Any] | None = None, name: str = "own", task: str = "choice",
    more: dict[str, Any] | None = None,
) -> str:  # fmt: skip
    config = schema.to_mapping(schema.load(CONFIGS / "cross_i3t7.yaml", list(overrides)))
    entry = {"round": 4, "test_acc": 0.5, "test_total": 60, "test_image_acc": 0.25, "test_image_total": 60}
    results = {"dataset": name, "scenario": "cross", "rounds": 4, "version": "1", "seed": 0, **(more or {})}
    if rows is not None:
        results["test_rows"] = rows
    record = {"size": 12, "missing": {"image": missing, "text": 0.0}}
    return card(Facts("someone/x", config, results, {"clients": {"1": record}}, 4, entry, "owner/base", "mit", "", {},
                      task=task))  # fmt: skip


def test_rows_that_lack_a_modality_are_counted(tmp_path: Any) -> None:
    rows = {"evaluated": 50, "all": 50, "presence": {"both": 40, "image": 7, "text": 3}}
    text = written(rows=rows)
    assert "50 test rows of the publisher's own data; of them 40 show both modalities, 7 show an image only, " in text
    assert "3 show a text only." in text and "keep both" not in text and "| both modalities |" not in text
    assert "| all that they have | 60 | acc | 0.5000 |" in text
    assert "60 test rows of digits_triage; of them 60 show both" in written(rows=ROWS, name="digits_triage")


def test_a_limit_is_stated() -> None:
    text = written(rows={"evaluated": 16, "all": 1234, "presence": {"both": 16}})
    assert "16 of the 1,234 test rows of the publisher's own data, evenly thinned out (`fedmllm.eval.limit`)" in text


def test_own_data_have_the_name_that_they_were_given() -> None:
    text = written(rows=ROWS, name="Ward letters 2024")
    assert "questions like those of Ward letters 2024" in text.replace("\n", " ")
    stated = yaml.safe_load(text.split("---")[1])["model-index"][0]["results"]
    found = {r["dataset"]["name"]: [m["value"] for m in r["metrics"]] for r in stated}
    # The image's figures are not the whole rows'.
    assert found == {"Ward letters 2024, all that they have": [0.5], "Ward letters 2024, the image only": [0.25]}


def test_clients_that_lack_nothing_are_not_said_to() -> None:
    lacking, whole = written(missing=0.1), written(missing=0.0)
    assert "on clients that lack modalities" in lacking and "- missing-modality" in lacking
    assert "lack modalities" not in whole and "missing-modality" not in whole and "missing modalities" not in whole


def test_the_adapter_is_the_method_that_was_trained() -> None:
    assert "A LoRA adapter for" in written() and "adapter: LoRA, rank 8, alpha 8" in written()
    text = written("model.fedmllm.peft", "ia3")
    assert "An IA3 adapter for" in text and "LoRA" not in text and "rank" not in text
    text = written("model.fedmllm.federated", "[lora, projector]")
    assert "; in full: projector;" in text


def test_the_centralised_baseline_is_not_called_federated_learning() -> None:
    text = written("federate.method", "global")
    assert "trained in one place on the rows of all clients" in text and "trained by federated" not in text
    assert "every client's update" not in text


def test_further_test_sets_stand_by_themselves_and_their_folders_stay_at_home() -> None:
    sets = "{panel: {type: digits_panel, root: /secret/p, template: ./own/medical.yaml, options: {of: /secret/x}}}"
    config = schema.to_mapping(schema.load(CONFIGS / "cross_i3t7.yaml", ["fedmllm.test_sets", sets]))
    shown = public_config(config, "owner/base")
    assert shown["fedmllm"]["test_sets"] == {
        "panel": {"type": "digits_panel", "template": "medical.yaml", "options": {}}
    }
    rows = {"evaluated": 40, "all": 360, "presence": {"image": 40}}
    last = {"round": 4, "test_acc": 0.25, "test_open_acc": 0.2, "test_total": 40}
    panel = {"dataset": "digits_panel", "test_rows": rows, "evaluations": [{"round": 0, "test_acc": 0.1}, last]}
    results = {"dataset": "digits_triage", "scenario": "cross", "rounds": 4, "version": "1", "seed": 0,
               "test_rows": ROWS, "test_sets": {"panel": panel}}  # fmt: skip
    entry = {"round": 4, "test_acc": 0.5, "test_total": 60}
    text = card(Facts("someone/x", shown, results, {}, 4, entry, "owner/base", "mit", "", {}))
    assert "Test set panel:" in text and "| all that they have | 40 | open_acc | 0.2000 |" in text
    assert "40 of the 360 test rows of digits_panel, evenly thinned out" in text
    assert "on nothing but that and the further test sets above." in text and "/secret" not in text
    stated = yaml.safe_load(text.split("---")[1])["model-index"][0]["results"]
    assert {(r["dataset"]["type"], r["dataset"]["config"]) for r in stated} == {
        ("digits_triage", "all that they have"), ("digits_panel", "panel, all that they have")
    }  # fmt: skip


def test_names_of_files_and_folders_stay_at_home() -> None:
    data = ("{template: mine/secret/t.yaml, file: patients.csv, train: smith/train.csv, image_root: photos, "
            "extract_images: out, columns: {text: note}, title: Wounds/burns, index: ward/7.txt}")  # fmt: skip
    words = ["fedmllm.data", data, "fedmllm.replay", "secret/results.json", "fedmllm.judge.base_url", "http://secret/v1",
             "fedmllm.eval.metrics", "[secret/mine.py]", "outdir", "secret"]  # fmt: skip
    config = schema.to_mapping(schema.load(CONFIGS / "cross_i3t7.yaml", words))
    config["fedmllm"]["parameters"] = {
        "mine": {"seen": "secret/a.npy", "rate": 1, "of": ["./secret", "b"], "in": {"x": "~"}}
    }
    config["train"]["more"] = ["/secret/c", 2]
    shown = public_config(config, "owner/base")
    assert shown["fedmllm"]["parameters"] == {"mine": {"rate": 1, "of": ["b"], "in": {}}} and shown["train"][
        "more"
    ] == [2]
    assert shown["fedmllm"]["data"] == {"template": "t.yaml", "columns": {"text": "note"}, "title": "Wounds/burns"}
    assert shown["fedmllm"]["eval"]["metrics"] == ["mine.py"] and "secret" not in str(shown)


def test_a_title_is_one_line_without_markup() -> None:
    assert phrases.dataset("<b>a</b>\n## b\x1b[2J") == "&lt;b>a&lt;/b> ## b\\x1b[2J"
    assert phrases.dataset("my_data, St. Anna") == "my_data, St. Anna"


def test_how_images_are_shown_and_answers_come_about_is_said() -> None:
    facts = {"size": {"height": 32, "width": 32}, "resample": 3, "max_patches": 6, "slice_mode": "a`b"}
    text = written("model.fedmllm.image_tokens", "256", more={"images": facts})
    section = text.split("## How it is asked")[1].split("\n## ")[0]
    assert "- images: at most 256 tokens an image (`model.fedmllm.image_tokens: 256`), shown with\n" in section
    for line in ('`size`: `{"height": 32, "width": 32}`', "`resample`: `3` (bicubic)", "`max_patches`: `6`",
                 "`slice_mode`: `\"a'b\"`", "- answers: Nothing is written: the answer is the option"):  # fmt: skip
        assert line in section
    # A release that kept no facts has what the configuration says, and of open answers nothing is claimed.
    text = written("model.fedmllm.image", "{crop_to_patches: false}", task="vqa")
    assert "no limit of an image's tokens" in text and "`crop_to_patches`: `false`" in text
    assert "- answers" not in text and "shown with\n\n" not in written()
    drawn = {"do_sample": True, "temperature": 0.7, "max_new_tokens": 9, "stops": ["<|im_end|>"]}
    panel = {"dataset": "digits_panel", "evaluations": [], "decoding": {"do_sample": False, "max_new_tokens": 16}}
    sets = "{panel: {type: digits_panel}}"
    text = written("fedmllm.test_sets", sets, more={"decoding": drawn, "test_sets": {"panel": panel}})
    assert "- answers: written, drawn by chance\n  - `do_sample`: `true`\n  - `temperature`: `0.7`\n" in text
    assert '- `stops`: `["<|im_end|>"]`' in text
    assert "- answers on test set panel: written, the likeliest token at each step\n  - `do_sample`: `false`" in text
