"""Data sets in TRL's form: made even, read as own data, written for TRL's script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from PIL import Image

from fs_fedmllm.cli import main
from fs_fedmllm.data.own import load
from fs_fedmllm.errors import DataError
from fs_fedmllm.sft.rows import even_rows, missing_rate

ASK = [{"role": "user", "content": "Which?"}]
SAY = [{"role": "assistant", "content": "This."}]
SQUARE = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))


def made(*images: Any, name: str = "images", **more: Any) -> Dataset:
    rows = [{"prompt": ASK, "completion": SAY, name: image, **more} for image in images]
    return Dataset.from_list(rows)


@pytest.mark.parametrize(
    "rows", [made([SQUARE], None, [], name="images"), made(SQUARE, None, None, name="image")], ids=["images", "image"]
)
def test_a_null_and_an_empty_list_are_no_image(rows: Dataset) -> None:
    even = even_rows(rows, "rows", vision=True)
    assert [len(images) for images in even["images"]] == [1, 0, 0] and "image" not in even.column_names
    assert even[0]["images"][0].tobytes() == SQUARE.tobytes()
    assert missing_rate(even) == pytest.approx(2 / 3)


def test_a_data_set_without_images_gets_the_empty_column() -> None:
    rows = Dataset.from_list([{"prompt": ASK, "completion": SAY}] * 3)
    assert even_rows(rows, "rows", vision=True)["images"][:] == [[], [], []]
    assert "images" not in even_rows(rows, "rows", vision=False).column_names
    assert missing_rate(even_rows(rows, "rows", vision=True)) == 1.0


def test_rows_that_say_that_they_show_no_text_count() -> None:
    rows = Dataset.from_list(
        [{"prompt": ASK, "completion": SAY, "images": [SQUARE], "presence": p} for p in ("image", "image", "both")]
    )
    assert missing_rate(even_rows(rows, "rows", vision=True)) == pytest.approx(2 / 3)


def test_a_shuffled_data_set_is_counted_as_it_is_chosen() -> None:
    even = even_rows(made([SQUARE], None, None, None), "rows", vision=True)
    assert missing_rate(even.select([0, 1])) == 0.5


def test_rows_that_are_even_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, texts = made([SQUARE], [], [SQUARE]), Dataset.from_list([{"prompt": ASK, "completion": SAY}] * 3)
    monkeypatch.setattr(Dataset, "map", lambda *args, **more: pytest.fail("a copy"))
    assert [len(images) for images in even_rows(rows, "rows", vision=True).select([2, 1])["images"]] == [1, 0]
    assert even_rows(rows.select([1, 0]), "rows", vision=True)[1]["images"][0].tobytes() == SQUARE.tobytes()
    assert even_rows(texts, "rows", vision=True)["images"][:] == [[], [], []]


def test_of_messages_the_last_answer_is_the_completion() -> None:
    talk = [*ASK, *SAY, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "That."}]
    even = even_rows(Dataset.from_list([{"messages": talk, "images": [SQUARE]}]), "rows", vision=True)
    assert even[0]["completion"] == [talk[-1]] and even[0]["prompt"] == talk[:-1]
    assert len(even[0]["images"]) == 1
    with pytest.raises(DataError, match="rows, row 0: the conversation does not end with an assistant's answer"):
        even_rows(Dataset.from_list([{"messages": ASK}]), "rows", vision=True)
    with pytest.raises(DataError, match="a column image and a column images"):
        even_rows(made([SQUARE], image=SQUARE), "rows", vision=True)


# Own data ------------------------------------------------------------------------------------------------------------

PARTS = [{"type": "image"}, {"type": "text", "text": "Which?"}]


def own(folder: Path, *rows: dict[str, Any], template: str = "medical", **options: Any) -> Any:
    SQUARE.save(folder / "a.png")
    SQUARE.save(folder / "b.png")
    (folder / "data.jsonl").write_text("\n".join(json.dumps({"split": "train", **row}) for row in rows))
    return load(folder, template=template, **options).train


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [*ASK, *SAY], "images": ["a.png"]},
        {"messages": [{"role": "user", "content": PARTS}, *SAY], "images": ["a.png"]},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, PARTS[1]]}, *SAY]},
        {"prompt": ASK, "completion": SAY, "images": ["a.png"]},
        {"conversations": [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "This."}], "image": "a.png"},
        {"prompt": "Which?", "completion": "This.", "image": "a.png"},
    ],
    ids=["messages", "parts", "in place", "turns", "sharegpt", "texts"],
)
def test_a_conversation_is_a_question_and_an_answer(tmp_path: Path, row: dict[str, Any]) -> None:
    (sample,) = own(tmp_path, row)
    assert (sample.question, sample.answer, sample.text) == ("Which?", "This.", None)
    assert sample.image == str(tmp_path / "a.png")


def test_a_systems_turn_stands_before_the_question(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    (sample,) = own(tmp_path, {"messages": [system, *ASK, *SAY]})
    assert sample.question == "Be brief.\nWhich?"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [*ASK, *SAY], "images": ["a.png", "b.png"]}, "has 2 images"),
        ({"messages": [*ASK, *SAY, *ASK, *SAY]}, "turns are user, assistant, user, assistant"),
        ({"messages": ASK}, "turns are user"),
        ({"messages": [*ASK, {"role": "assistant", "content": " "}]}, "answer is empty"),
        ({"messages": [*ASK, *SAY], "answer": "That."}, "a column answer that says the same"),
        ({"messages": [{"role": "human", "content": "?"}, *SAY]}, "the role 'human'"),
        ({"messages": "Which? This."}, "not a list of turns"),
        ({"text": "Text of language modelling."}, "answer is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}, *SAY]}, "a part of type 'video'"),
        ({"messages": [{"role": "user", "content": None}, *SAY]}, "has no content"),
        ({"prompt": ASK, "chosen": SAY, "rejected": SAY}, r"has chosen and rejected, a preference \(TRL's DPO\)"),
        ({"prompt": "Which?", "chosen": "This.", "rejected": "That.", "answer": "This."}, "chosen and rejected"),
    ],
)
def test_what_is_no_question_and_answer_is_refused_with_its_row(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"data.jsonl:1.*{said}"):
        own(tmp_path, row)


def test_rows_of_preferences_are_no_rows_for_the_trainer() -> None:
    rows = Dataset.from_list([{"prompt": ASK, "chosen": SAY, "rejected": SAY}])
    with pytest.raises(DataError, match=r"train_dataset has the columns chosen and rejected.*trl\.DPOTrainer"):
        even_rows(rows, "train_dataset", vision=True)


def test_a_choice_row_holds_its_text_and_its_label(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "my card was charged twice"}]
    answer = [{"role": "assistant", "content": "(A) lower billing"}]
    (sample,) = own(tmp_path, {"prompt": prompt, "completion": answer}, template="digits_triage")
    assert (sample.text, sample.label) == ("my card was charged twice", 0)
    wrong = [{"role": "assistant", "content": "(Z) elsewhere"}]
    with pytest.raises(DataError, match="none of the options"):
        own(tmp_path, {"prompt": prompt, "completion": wrong}, template="digits_triage")


# Export --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    words = ["data", "export", "cross_i3t7", "--format", "trl", "--out", str(out), "fedmllm.prompt", "augmented"]
    assert main(words) == 0
    return out


def test_a_folder_for_every_client_and_one_for_the_server(exported: Path, short_config) -> None:
    from fs_fedmllm.scenarios.federated_data import prepare_data

    data = prepare_data(short_config("cross_i3t7", "fedmllm.prompt", "augmented"))
    assert {path.name for path in exported.iterdir()} == {
        "manifest.json", "server", *(f"client_{client}" for client in range(1, 11))
    }  # fmt: skip
    for client in (1, 2):
        rows, own_rows = load_dataset(str(exported / f"client_{client}"))["train"], data.clients[client]
        assert rows["id"][:] == [row.id for row in own_rows]
        assert rows[0]["prompt"] == [{"role": "user", "content": data.template.prompt(own_rows[0], "augmented")}]
        assert rows[0]["completion"][0]["content"] == own_rows[0].answer
        assert [len(images) for images in rows["images"][:5]] == [int(row.image is not None) for row in own_rows[:5]]
        assert set(rows["presence"]) == {own_rows[0].presence}
    test = load_dataset(str(exported / "server"))
    assert {name: len(rows) for name, rows in test.items()} == {
        "validation": len(data.dataset.val), "test": len(data.dataset.test)
    }  # fmt: skip


def test_exported_rows_are_read_as_own_data(exported: Path) -> None:
    rows = load(exported / "client_1", template="digits_triage", train="train.parquet", extract_images="images").train
    again = load_dataset(str(exported / "client_1"))["train"]
    assert len(rows) == len(again)
    assert rows[0].text and rows[0].text in again[0]["prompt"][0]["content"]
    assert {row.presence for row in rows} == set(again["presence"])


def test_pictures_leave_as_they_are_seen(tmp_path: Path) -> None:
    from fs_fedmllm.data.images import image_bytes, open_image

    turned = SQUARE.crop((0, 0, 8, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    SQUARE.save(tmp_path / "plain.png")
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    SQUARE.convert("RGBA").save(tmp_path / "clear.png")
    import io

    for name in ("turned", "plain", "deep", "clear"):
        path = tmp_path / f"{name}.png"
        with Image.open(io.BytesIO(image_bytes(str(path)))) as image:
            assert image.mode == "RGB" and image.tobytes() == open_image(str(path)).tobytes(), name
        assert (image_bytes(str(path)) == path.read_bytes()) == (name == "plain"), name
