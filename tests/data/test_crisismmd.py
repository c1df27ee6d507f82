from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from fs_fedmllm.data.crisismmd import clean
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError, DataError

COLUMNS = [
    "event_name",
    "tweet_id",
    "image_id",
    "tweet_text",
    "image",
    "label",
    "label_text",
    "label_image",
    "label_text_image",
]
HARM, NOT = "affected_individuals", "not_humanitarian"


def tweet(number: int, image: int = 0, **change: str) -> dict[str, str]:
    row = {
        "event_name": "storm",
        "tweet_id": str(number),
        "image_id": f"{number}_{image}",
        "tweet_text": f"tweet {number} https://t.co/x",
        "image": f"data_image/storm/1_1_2017/{number}_{image}.jpg",
        "label": NOT,
        "label_text": NOT,
        "label_image": NOT,
        "label_text_image": "Positive",
    }
    return row | change


def write(path: Path, rows: list[dict[str, str]], columns: list[str] = COLUMNS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, columns, delimiter="\t", extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return path


SPLITS = {
    "train": [
        tweet(1, 0, label_image=HARM),
        tweet(1, 1),
        tweet(2, 0, tweet_text='he said "help"\tnow http://a.b/c?d=1 please'),
        tweet(3, 0, tweet_text="https://t.co/only"),
    ],
    "dev": [tweet(4)],
    "test": [tweet(5), tweet(6, label_text=HARM)],
}


@pytest.fixture
def crisis(tmp_path, picture) -> Path:
    for split, rows in SPLITS.items():
        home = tmp_path / "crisismmd_datasplit_all" / "crisismmd_datasplit_all"
        write(home / f"task_humanitarian_text_img_{split}.tsv", rows)
        for row in rows:
            picture(tmp_path / "CrisisMMD_v2.0" / row["image"])
    return tmp_path


def train_file(root: Path) -> Path:
    return next(root.rglob("*_train.tsv"))


def test_reads_nested_folders_and_default_quoting(crisis):
    data = load_dataset("crisismmd", crisis)
    assert [len(part) for part in (data.train, data.val, data.test)] == [4, 1, 2]
    first, _, quoted, link = data.train
    assert (first.id, first.label, first.answer) == ("1_0", 0, f"(A) {HARM}")
    assert first.keys == {"tweet": "1", "event": "storm", "label_image": HARM, "label_text": NOT}
    assert Path(first.image).is_file() and first.source.endswith("train.tsv:2")
    assert first.text == "tweet 1"
    assert quoted.text == 'he said "help"\tnow  please'
    assert link.text == "" and link.source.endswith(":5")
    assert any("1 tweets are empty once links are taken out" in warning for warning in data.warnings)
    assert any("4 train rows where the published set has 13,608" in warning for warning in data.warnings)


def test_text_cleaning():
    assert clean(" RT @x: go https://t.co/Ab1 now http://b\n") == "RT @x: go  now"
    assert clean("httpd is a word") == "is a word", "as the authors' pattern has it"


@pytest.mark.parametrize(
    ("label", "train", "test"),
    [("image", [0, 7, 7, 7], [7, 7]), ("text", [7, 7, 7, 7], [7, 0]), ("agreed", [7, 7, 7], [7])],
)
def test_the_label_switch(crisis, label, train, test):
    data = load_dataset("crisismmd", crisis, {"label": label})
    assert [sample.label for sample in data.train] == train
    assert [sample.label for sample in data.test] == test
    with pytest.raises(ConfigError, match="label must be one of image, text, agreed"):
        load_dataset("crisismmd", crisis, {"label": "both"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_image": "not_relevant"}, r"train\.tsv:2: label_image 'not_relevant' is none of the options"),
        ({"label_text": ""}, r"train\.tsv:2: label_text is empty"),
        ({"image": "data_image/storm/1_1_2017/9_9.jpg"}, r"train\.tsv:2: the image .*9_9\.jpg does not exist"),
        ({"image": "../outside.jpg"}, r"train\.tsv:2: .*leaves the data folder"),
        ({"image_id": "1_1"}, r"train\.tsv:3: the id '1_1' is already used in .*train\.tsv:2"),
        ({"tweet_id": " "}, r"train\.tsv:2: tweet_id is empty"),
    ],
)
def test_a_wrong_row_is_named(crisis, change, message):
    write(train_file(crisis), [SPLITS["train"][0] | change, *SPLITS["train"][1:]])
    with pytest.raises(DataError, match=message):
        load_dataset("crisismmd", crisis)


def test_columns_and_quotes(crisis):
    path = train_file(crisis)
    write(path, SPLITS["train"], [name for name in COLUMNS if name != "tweet_text"])
    with pytest.raises(DataError, match=r"train\.tsv:1: the column 'tweet_text' is missing\. Use the official file"):
        load_dataset("crisismmd", crisis)
    assert load_dataset("crisismmd", crisis, {"allow_missing_text": True}).train[0].text is None
    write(path, SPLITS["train"])
    path.write_text(path.read_text() + "storm\t9\t9_0\n")
    with pytest.raises(DataError, match=r"train\.tsv:6: 3 columns where the header has 9"):
        load_dataset("crisismmd", crisis)
    lines = ["\t".join(COLUMNS), *("\t".join(tweet(i).values()) for i in (1, 2, 3))]
    path.write_text("\n".join(lines).replace("\ttweet 1", '\t"tweet 1').replace("tweet 3", 'tweet"\t3') + "\n")
    with pytest.raises(DataError, match=r"train\.tsv:2: "):
        load_dataset("crisismmd", crisis)


def test_a_tweet_in_two_splits_is_noticed(crisis):
    write(next(crisis.rglob("*_test.tsv")), [tweet(1, 5)])
    with pytest.raises(DataError, match=r"1_5\.jpg does not exist"):
        load_dataset("crisismmd", crisis)
    data = load_dataset("crisismmd", crisis, {"require_images": False})
    assert any("tweet 1 is in test and in train" in warning for warning in data.warnings)


def test_missing_pieces_say_what_to_unpack(tmp_path, crisis):
    next(crisis.rglob("*_dev.tsv")).unlink()
    with pytest.raises(DataError, match=r"dev\.tsv: the file is missing beside the training split"):
        load_dataset("crisismmd", crisis)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no folder data_image.*CrisisMMD_v2\.0\.tar\.gz"):
        load_dataset("crisismmd", tmp_path / "empty")


def test_the_real_annotations(real_data):
    options = {
        "annotations": "humanitarian_ids_no_text.tsv",
        "allow_missing_text": True,
        "require_images": False,
    }
    data = load_dataset("crisismmd", real_data / "crisismmd", options)
    assert [len(part) for part in (data.train, data.val, data.test)] == [13608, 2237, 2237]
    assert data.warnings == ()
    names = load_template("crisismmd").options
    by_label = Counter(sample.label for sample in data.train)
    assert [by_label[i] for i in range(8)] == [397, 2761, 92, 9, 1694, 230, 1860, 6565]
    assert len({sample.keys["tweet"] for sample in data.train}) == 11584
    text = load_dataset("crisismmd", real_data / "crisismmd", options | {"label": "text"})
    by_text = Counter(sample.label for sample in text.train)
    assert [by_text[i] for i in range(8)] == [383, 1100, 393, 29, 2869, 46, 4811, 3977]
    assert all(names[sample.label] == sample.keys["label_text"] for sample in text.test)
    agreed = load_dataset("crisismmd", real_data / "crisismmd", options | {"label": "agreed"})
    assert len(agreed.train) == 6156


def test_the_real_annotations_without_text_are_refused_by_default(real_data):
    options = {"annotations": "humanitarian_ids_no_text.tsv", "require_images": False}
    with pytest.raises(DataError, match="tweet_text"):
        load_dataset("crisismmd", real_data / "crisismmd", options)
