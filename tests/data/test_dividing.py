"""The option ``split``: groups and pictures stay together, labels are spread alike, the rows' order does not count."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fs_fedmllm.config import config_digest, from_mapping
from fs_fedmllm.data.check import inspect
from fs_fedmllm.data.dividing import check_division, divide
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.scenarios.federated_data import prepare_data

TRIAGE = {"template": "digits_triage"}
SHARES = {"val": 0.1, "test": 0.2}


def rows(count: int, labels: int = 4, patients: int = 0) -> list[Sample]:
    return [
        Sample(str(i), None, f"text {i}", "a", label=i * 7 % labels, keys={"patient": str(i % (patients or count))})
        for i in range(count)
    ]


def ids(made: dict[str, list[Sample]]) -> dict[str, set[str]]:
    return {part: {row.id for row in found} for part, found in made.items()}


def test_shares_and_labels_are_met() -> None:
    made = divide(rows(200), check_division(SHARES))
    assert {part: len(found) for part, found in made.items()} == {"train": 140, "val": 20, "test": 40}
    for part, each in (("train", 35), ("val", 5), ("test", 10)):
        assert Counter(row.label for row in made[part]) == dict.fromkeys(range(4), each)


@pytest.mark.parametrize("patients", [0, 30])
def test_neither_the_order_of_the_rows_nor_their_ids_count(patients: int) -> None:
    division = check_division(SHARES | {"together": "patient"})
    given = rows(120, patients=patients)
    once = {part: {row.text for row in found} for part, found in divide(given, division).items()}
    mixed = [Sample(f"x{i}", None, row.text, "a", label=row.label, keys=row.keys) for i, row in enumerate(given)]
    random.Random(3).shuffle(mixed)
    assert {part: {row.text for row in found} for part, found in divide(mixed, division).items()} == once
    other = divide(given, check_division(SHARES | {"together": "patient", "seed": 1}))
    assert ids(other) != ids(divide(given, division))


def test_groups_stay_together_and_rare_labels_are_spread() -> None:
    given = rows(300, labels=5, patients=60)
    made = divide(given, check_division(SHARES | {"together": "patient"}))
    patients = {part: {row.keys["patient"] for row in found} for part, found in made.items()}
    assert not patients["train"] & patients["test"] and not patients["train"] & patients["val"]
    assert not patients["val"] & patients["test"]
    assert abs(len(made["test"]) - 60) <= 5 and abs(len(made["val"]) - 30) <= 5
    assert all(len({row.label for row in found}) == 5 for found in made.values())


def test_rows_of_one_picture_and_of_one_text_stay_together(tmp_path, picture) -> None:
    for i in range(40):
        picture(tmp_path / f"{i}.png", colour=(i // 2, 0, 0))  # two files of each picture
    given = [Sample(str(i), str(tmp_path / f"{i}.png"), f"t{i}", "a", label=0) for i in range(40)]
    given += [Sample(f"x{i}", None, f"same {i // 2}", "a", label=0) for i in range(40)]
    made = divide(given, check_division({"test": 0.5}))
    where = {row.id: part for part, found in made.items() for row in found}
    assert all(where[str(i)] == where[str(i + 1)] and where[f"x{i}"] == where[f"x{i + 1}"] for i in range(0, 40, 2))
    assert len(made["train"]) == len(made["test"]) == 40


def test_presence_is_spread() -> None:
    given = [Sample(str(i), f"/nowhere/{i}" if i % 4 else None, f"t{i}", "a", label=i % 2) for i in range(80)]
    made = divide(given, check_division({"test": 0.25}))
    assert Counter(row.presence for row in made["test"]) == {"both": 15, "text": 5}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (0.2, "split must be a mapping"),
        ({"tset": 0.2}, r"split has no key 'tset'; keys are val, test, together, seed"),
        ({"train": 0.8}, "no key 'train'.*The rest is trained on"),
        ({"test": 20}, r"split\.test must be a share of the rows, 0 or more and below 1, not 20"),
        ({"test": "20%"}, r"split\.test must be a share"),
        ({"test": True}, r"split\.test must be a share"),
        ({"test": float("nan")}, r"split\.test must be a share"),
        ({"val": 0.5, "test": 0.5}, "leave rows to train on"),
        ({"together": "patient"}, "must name a share for val, test or both"),
        ({"test": 0.2, "together": 3}, r"split\.together must be the name of a column"),
        ({"test": 0.2, "seed": "x"}, r"split\.seed must be a whole number"),
    ],
)
def test_what_cannot_be_divided(given, said) -> None:
    with pytest.raises(ConfigError, match=said):
        check_division(given)


def test_too_few_rows_or_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 rows give no val row with a share of 0\.1"):
        divide(rows(3), check_division(SHARES))
    with pytest.raises(ConfigError, match=r"60 rows in 2 groups that can be apart .* give no val row"):
        divide(rows(60, patients=2), check_division(SHARES | {"together": "patient"}))


@pytest.fixture
def ward(tmp_path, jsonl):
    def write(name: str = "data.jsonl", count: int = 60, start: int = 0, **more):
        jsonl(
            tmp_path / name,
            [{"text": f"note {i}", "label": i % 4, "patient": i // 3, **more} for i in range(start, start + count)],
        )
        return tmp_path

    return write


def test_one_file_is_divided(ward) -> None:
    with pytest.raises(DataError, match=r"jsonl:1: nothing says which split.*split: \{val: 0\.1, test: 0\.2\}"):
        load_dataset("own", ward(), TRIAGE)
    options = TRIAGE | {"split": SHARES | {"together": "patient"}}
    data, findings = inspect("own", ward(), options)
    assert (len(data.train), len(data.val), len(data.test)) == (42, 6, 12)
    assert data.train[0].keys == {"patient": "0"}
    assert "Rows divided by split, seed 0, patient kept together: 42 train, 6 val, 12 test." in [
        found.problem for found in findings
    ]
    again = load_dataset("own", ward(), options)
    assert [row.id for row in again.test] == [row.id for row in data.test]
    other = load_dataset("own", ward(), TRIAGE | {"split": SHARES})
    assert len({data.fingerprint, again.fingerprint, other.fingerprint}) == 2, "the manifest knows the split"


def test_validation_rows_are_taken_from_a_training_file(ward) -> None:
    ward("train.jsonl", 40)
    root = ward("test.jsonl", 8, 100)
    data = load_dataset("own", root, TRIAGE | {"split": {"val": 0.25}})
    assert [len(part) for part in (data.train, data.val, data.test)] == [30, 10, 8]
    with pytest.raises(ConfigError, match=r"split\.test takes rows for test, and 8 rows are test rows already"):
        load_dataset("own", root, TRIAGE | {"split": SHARES})


def test_a_split_column_beside_the_option(ward) -> None:
    root = ward(split="test")
    with pytest.raises(ConfigError, match=r"split\.test takes rows for test, and 60 rows are test rows already"):
        load_dataset("own", root, TRIAGE | {"split": SHARES})
    root = ward(split="holdout")
    with pytest.raises(DataError, match="'holdout', which is not a split"):
        load_dataset("own", root, TRIAGE | {"split": SHARES})


def test_a_column_that_is_kept_together_must_be_there(ward) -> None:
    with pytest.raises(DataError, match=r"split\.together is 'patients', .*did you mean 'patient'\?"):
        load_dataset("own", ward(), TRIAGE | {"split": SHARES | {"together": "patients"}})
    with pytest.raises(DataError, match=r"jsonl:1: the group column 'patient' is empty"):
        load_dataset("own", ward(patient=None), TRIAGE | {"split": SHARES | {"together": "patient"}})


def test_data_check_names_the_rows_before_a_split_that_they_leave_too_small(ward) -> None:
    rows = "\n".join(["text,label", "a,0", "b,1", '"c"d,2', *(f"{i},3" for i in range(20))])
    root = ward()
    (root / "data.jsonl").unlink()
    (root / "data.csv").write_text(rows)
    _, findings = inspect("own", root, TRIAGE | {"split": SHARES})
    assert ["quotes do not fit" in found.problem for found in findings if found.severity == "error"] == [True]
    (root / "data.csv").write_text("text,label\na,0\nb,1\n")
    _, findings = inspect("own", root, TRIAGE | {"split": SHARES})
    assert ["give no val row" in found.problem for found in findings if found.severity == "error"] == [True]


def test_groups_too_large_for_the_shares_are_said(ward) -> None:
    root = ward(patient="one")
    rows = (root / "data.jsonl").read_text().splitlines()
    for i in range(6):
        rows[i] = rows[i].replace('"one"', f'"p{i}"')
    (root / "data.jsonl").write_text("\n".join(rows))
    data = load_dataset("own", root, TRIAGE | {"split": SHARES | {"together": "patient"}})
    assert any("split: rows that stay together leave" in said for said in data.warnings)


def test_a_run_knows_its_split(ward) -> None:
    root = ward()

    def sha(**split: object) -> tuple[str, str, str]:
        config = from_mapping(
            {
                "data": {"type": "own", "root": str(root), "splitter": "fedmllm_aligned"},
                "federate": {"client_num": 2, "sample_client_num": 2},
                "fedmllm": {"data": TRIAGE | {"split": SHARES | split}},
            }
        )
        data = prepare_data(config)
        return config_digest(config), data.manifest_sha256, data.content_sha256

    first, again, other = sha(), sha(), sha(seed=1)
    assert first == again and not set(first) & set(other)
