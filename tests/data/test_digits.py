"""The embedded data sets: unimodal ceilings by counting, disjoint parts, determinism, balance."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from fs_fedmllm.data.digit_texts import INTENTS, WORDS, split_sentences
from fs_fedmllm.data.digits import PARTS, SPLIT_SEED, image_split, load_digits_dataset
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError

NAMES = ("digits_match", "digits_memes", "digits_triage", "digits_panel")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def sets(cache):
    return {name: load_digits_dataset(name, cache) for name in NAMES}


def parts_of(dataset):
    return {part: getattr(dataset, part) for part in PARTS}


def ceiling(rows, key, answer=lambda row: row.answer):
    """Accuracy of the best function of ``key`` alone: the most frequent answer of each value."""
    counts = defaultdict(Counter)
    for row in rows:
        counts[key(row)][answer(row)] += 1
    return sum(max(c.values()) for c in counts.values()) / len(rows)


@pytest.mark.parametrize("part", PARTS)
def test_triage_ceilings(sets, part):
    rows = parts_of(sets["digits_triage"])[part]
    assert ceiling(rows, lambda r: r.image) == 0.25
    assert ceiling(rows, lambda r: r.text) == 0.5
    assert ceiling(rows, lambda r: r.keys["digit"]) == 0.25
    assert ceiling(rows, lambda r: r.keys["intent"]) == 0.5
    assert ceiling(rows, lambda r: (r.keys["digit"], r.keys["intent"])) == 1.0
    labels = Counter(r.label for r in rows)
    assert len(labels) == 8 and len(set(labels.values())) == 1


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("key", [lambda r: r.image, lambda r: r.text], ids=["image", "text"])
def test_match_single_inputs_score_half(sets, part, key):
    """Each image and each text is as often true as false, so any scorer of one input has AUC 0.5."""
    counts = defaultdict(Counter)
    for row in parts_of(sets["digits_match"])[part]:
        counts[key(row)][row.label] += 1
    assert all(c[0] == c[1] > 0 for c in counts.values())


@pytest.mark.parametrize("part", PARTS)
def test_match_label_is_whether_the_claim_names_the_digit(sets, part):
    for row in parts_of(sets["digits_match"])[part]:
        assert row.keys["claimed"] in row.text
        assert row.label == (row.keys["digit"] == row.keys["claimed"])


@pytest.mark.parametrize("part", PARTS)
def test_memes_the_image_tells_a_part_the_claim_nothing_and_both_all(sets, part):
    rows = parts_of(sets["digits_memes"])[part]
    counts = defaultdict(Counter)
    for row in rows:
        counts[row.text][row.label] += 1
        assert row.keys["claimed"] in row.text
        assert row.label == (row.keys["digit"] == row.keys["claimed"])
    assert all(c[0] == c[1] > 0 for c in counts.values()) and len(counts) == 30
    true = Counter(row.keys["group"] for row in rows if row.label)
    assert {group: true[group] / (len(rows) / 2) for group in ("lower", "upper")} == {"lower": 0.25, "upper": 0.75}
    assert ceiling(rows, lambda r: r.keys["digit"]) == 0.75 and ceiling(rows, lambda r: r.text) == 0.5
    assert len({(row.image, row.text) for row in rows}) == len(rows)


@pytest.mark.parametrize("part", PARTS)
def test_panel_ceilings(sets, part):
    rows = parts_of(sets["digits_panel"])[part]
    closed = [r for r in rows if r.kind == "closed"]
    opened = [r for r in rows if r.kind == "open"]
    assert len(closed) + len(opened) == len(rows)
    assert ceiling(closed, lambda r: r.question) == 0.5
    assert ceiling(opened, lambda r: r.question) == pytest.approx(0.1)
    for row in closed:
        larger = WORDS.index(row.keys["left"]) > WORDS.index(row.keys["right"])
        assert row.answer == ("yes" if larger else "no")
    for row in opened:
        assert row.answer == row.keys["left" if "left" in row.question else "right"]


def test_image_parts_are_disjoint_stratified_and_complete():
    split = image_split()
    owners = Counter(i for by_digit in split.values() for indices in by_digit.values() for i in indices)
    assert len(owners) == 1797 and set(owners.values()) == {1}
    for part in ("pretrain", "train", "val"):
        assert len({len(indices) for indices in split[part].values()}) == 1
    assert min(len(indices) for indices in split["test"].values()) >= 24


@pytest.mark.parametrize("name", NAMES)
def test_parts_share_no_image_with_each_other_or_with_pretraining(sets, name):
    split = {part: {i for ids in by_digit.values() for i in ids} for part, by_digit in image_split().items()}
    for part, rows in parts_of(sets[name]).items():
        used = {int(i) for row in rows for i in row.keys["image"].split("-")}
        assert used <= split[part]


def test_triage_sentences_are_disjoint_from_each_other_and_from_pretraining(sets):
    split = split_sentences(SPLIT_SEED)
    texts = {part: {row.text for row in rows} for part, rows in parts_of(sets["digits_triage"]).items()}
    texts["pretrain"] = {text for pool in split["pretrain"].values() for text in pool}
    seen = Counter(text for pool in texts.values() for text in pool)
    assert set(seen.values()) == {1}
    assert {len(split["pretrain"][intent]) for intent in INTENTS} == {346}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("digits_match", (1200, 180, 420)),
        ("digits_memes", (1200, 120, 480)),
        ("digits_triage", (2400, 160, 400)),
        ("digits_panel", (1080, 120, 360)),
    ],
)
def test_sizes_and_rows(sets, name, sizes):
    dataset = sets[name]
    template = load_template(dataset.template)
    assert tuple(len(rows) for rows in parts_of(dataset).values()) == sizes
    ids = [row.id for rows in parts_of(dataset).values() for row in rows]
    assert len(set(ids)) == len(ids)
    for row in dataset.train:
        assert row.presence == ("image" if name == "digits_panel" else "both")
        assert row.keys["digit"] in WORDS
        assert Path(row.image).is_absolute()
        if row.label is not None:
            assert row.answer == template.answer(row.label)


def test_options_are_words_not_yaml_booleans():
    assert load_template("digits_match").options == ("no", "yes")


def test_images_are_the_digits(sets):
    from PIL import Image
    from sklearn.datasets import load_digits

    row = sets["digits_triage"].test[0]
    index = int(row.keys["image"])
    assert WORDS[load_digits().target[index]] == row.keys["digit"]
    with Image.open(row.image) as image:
        assert (image.size, image.mode) == ((32, 32), "L")
    with Image.open(sets["digits_panel"].test[0].image) as image:
        assert image.size == (64, 32)


@pytest.mark.parametrize("name", NAMES)
def test_deterministic_and_the_seed_matters(sets, cache, tmp_path, name):
    first = sets[name]
    written = {p.name: p.read_bytes() for p in (cache / "digits-v1").iterdir()}
    again = load_digits_dataset(name, tmp_path)
    assert again.fingerprint == first.fingerprint
    assert [(r.id, r.text, r.answer) for r in again.train] == [(r.id, r.text, r.answer) for r in first.train]
    for row in again.test[:20]:
        path = Path(row.image)
        assert path.read_bytes() == written[path.name]
    assert load_digits_dataset(name, tmp_path, seed=1).fingerprint != first.fingerprint


def test_second_call_writes_nothing(sets, cache):
    before = {p: p.stat().st_mtime_ns for p in (cache / "digits-v1").iterdir()}
    load_digits_dataset("digits_triage", cache)
    assert {p: p.stat().st_mtime_ns for p in (cache / "digits-v1").iterdir()} == before
    assert all(p.suffix == ".png" for p in before)


def test_unknown_name(tmp_path):
    with pytest.raises(ConfigError, match="digits_triage"):
        load_digits_dataset("digits_sum", tmp_path)
