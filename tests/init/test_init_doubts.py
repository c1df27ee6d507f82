"""`fs-fedmllm init` where a table leaves something open: two pictures, spellings, few rows, wrong rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from csv_rows import write_csv
from PIL import Image

from fs_fedmllm.cli import main
from fs_fedmllm.tools.init.looking import Column, Look
from fs_fedmllm.tools.init.proposal import Told
from fs_fedmllm.tools.init.proposing import propose


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def columns_of(rows):
    found = Look(root=Path("rows"), file="", sources=[])
    for row in rows:
        found.rows[""] += 1
        for name, value in row.items():
            found.columns.setdefault(name, Column(name)).note(value)
    return found


def taken(first, second, filled=20, **told):
    """What is proposed of two columns of pictures."""
    rows = [
        {first: f"a{i}.png", second: f"b{i}.png" if i < filled else "", "label": f"x{i % 2}", "patient": f"P{i // 2}"}
        for i in range(20)
    ]
    made = propose(columns_of(rows), Told(told))
    assert not made.doubts
    (said,) = [warning for warning in made.warnings if "A row shows one picture" in warning]
    return made.columns["image"], made.reasons["image"], said


def test_of_two_pictures_one_is_taken_with_its_reason_and_the_other_is_said():
    image, why, said = taken("front", "side")
    assert image == "front" and why.endswith("the first of 2 columns of images")
    assert said == (
        "A row shows one picture: that of front is taken, side is not read. In its place: --image side. Both: write a "
        "row for each picture, kept together by patient, or join them into one."
    )
    assert taken("mask", "image")[:2] == (
        "image", "its values are names of image files, such as b0.png; the other is not a photograph"
    )  # fmt: skip
    assert taken("segmentation mask", "scan")[0] == "scan"
    assert taken("scan", "photo_path")[1].endswith("its name says so")
    assert taken("front", "side", filled=15)[1].endswith("of 2 columns of images the one with most values")
    assert taken("front", "side", image="side")[0] == "side"
    assert "--image 'right side'" in taken("front", "right side")[2]


def test_a_list_of_two_pictures_is_refused_with_its_rows(here, capsys):
    for name in "abcd":
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(here / f"{name}.png")
    row = '{"images": ["a.png", "b.png"], "label": "x%d"}\n'
    (here / "r.jsonl").write_text("".join(row % (i % 2) for i in range(20)))
    assert main(["init", "r.jsonl", "--yes"]) == 1
    assert "20 of 20 rows would be refused" in (said := capsys.readouterr().out)
    assert "the row has 2 images. Only one image a row is supported" in said


def test_a_column_called_like_images_that_names_no_files_is_said():
    rows = [{"photo": f"w{i:03d}", "label": f"x{i % 2}", "note": f"words {i}"} for i in range(20)]
    made = propose(columns_of(rows), Told())
    assert "image" not in made.columns
    assert (
        "'photo' is called like images, but its values, such as 'w000', are not names of image files"
        in (made.warnings[0])
    )


def test_spellings_of_one_label_are_said_and_merged_by_nobody(here, capsys):
    labels = ["y", "yes", "Yes ", "n", "no", "no"]
    write_csv(here / "r.csv", [{"infected": labels[i % 6], "note": f"words number {i}"} for i in range(60)])
    assert main(["init", "r.csv", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "The labels 'Yes' (10 rows), 'y' (10 rows) and 'yes' (10 rows) may be one, written in 3 ways." in said
    assert "'n' (10 rows) and 'no' (20 rows) may be one" in said and "write them alike" in said
    assert "In 10 rows infected has blanks before or after its value; they do not count." in said
    assert yaml.safe_load((here / "my_template.yaml").read_text())["options"] == ["Yes", "n", "no", "y", "yes"]
    assert main(["data", "check", "my.yaml"]) == 0
    checked = " ".join(capsys.readouterr().out.split())
    assert "may be one, written in 3 ways" in checked and "'n' (10 rows) and 'no' (20 rows) may be one" in checked
    assert "In 10 rows label has blanks before or after its value, which do not count." in checked


@pytest.mark.parametrize(("count", "split"), [(3, {"val": 0.33, "test": 0.33}), (5, {"val": 0.2, "test": 0.2})])
def test_few_rows_get_a_split_that_holds(here, capsys, count, split):
    rows = [{"label": f"x{i % 2}", "note": f"words {i}"} for i in range(count)]
    write_csv(here / "r.csv", rows)
    assert main(["init", "r.csv", "--yes"]) == 0
    said = capsys.readouterr().out
    assert f"{count} rows are too few for the usual shares" in said
    assert yaml.safe_load((here / "my.yaml").read_text())["fedmllm"]["data"]["split"] == split
    for words in (["data", "check", "my.yaml"], ["data", "split", "my.yaml"], ["run", "my.yaml", "--dry-run"]):
        assert main(words) == 0, capsys.readouterr()


def test_rows_too_few_for_any_split_are_said_and_nothing_is_written(here, capsys):
    rows = [{"label": f"x{i // 2 % 2}", "note": f"words {i}", "patient": f"P{i % 2}"} for i in range(30)]
    write_csv(here / "r.csv", rows)
    assert main(["init", "r.csv", "--yes"]) == 2
    refused = " ".join(capsys.readouterr().err.split())
    assert "30 rows are too few to divide into training, validation and test rows (rows of one patient, of which" in (
        refused
    )
    assert (
        "leave one part out (--val 0), say --group '' if they may be apart" in refused
        and not (here / "my.yaml").exists()
    )
    assert main(["init", "r.csv", "--yes", "--val", "0"]) == 0
    assert main(["data", "check", "my.yaml"]) == 0
    capsys.readouterr()
    assert main(["init", "r.csv", "--yes", "--val", "0.1", "--test", "0.2", "--force"]) == 2
    assert "Leave out --val 0.1 --test 0.2, give more rows, leave one part out" in " ".join(
        capsys.readouterr().err.split()
    )


def test_one_patient_with_most_rows_leaves_fewer_clients(here, capsys):
    rows = [{"label": f"x{i % 2}", "note": f"words {i}", "patient": f"P{max(0, i - 88)}"} for i in range(100)]
    write_csv(here / "r.csv", rows)
    assert main(["init", "r.csv", "--yes"]) == 0, capsys.readouterr()
    assert "so many values of patient are left to train on" in capsys.readouterr().out
    assert main(["data", "check", "my.yaml"]) == 0, capsys.readouterr()


def test_rows_that_would_be_refused_are_counted_and_come_before_what_is_next(here, capsys):
    rows = [{"label": f"x{i % 2}" if i % 8 else "", "note": f"words {i}"} for i in range(40)]
    write_csv(here / "r.csv", rows)
    assert main(["init", "r.csv", "--yes"]) == 1
    said = capsys.readouterr().out
    assert "5 of 40 rows would be refused as they are:" in said
    assert f"{here / 'r.csv'}:2, 10, 18, 26, 34: 5 rows: label is empty." in said
    assert "First repair the rows above, or take them out; my.yaml stays as it is." in said
    assert "data check my.yaml  # until it says 0 errors" in said and "Next:" not in said
    assert said.index("would be refused") < said.index("First repair") < said.index("fs-fedmllm run")
    write_csv(here / "r.csv", [row for row in rows if row["label"]])
    assert main(["data", "check", "my.yaml"]) == 0


def test_a_run_that_the_labels_forbid_is_no_fault_of_rows(here, capsys):
    rows = [{"label": f"x{i % 2}", "note": f"words {i}", "site": "AB"[i % 2]} for i in range(40)]
    write_csv(here / "r.csv", rows)
    assert main(["init", "r.csv", "--yes", "--val", "0.6", "--test", "0.6"]) == 1
    said = capsys.readouterr().out
    assert "A run would refuse it:" in said and "leave rows to train on" in said
    assert "First repair what is said above, here or in my.yaml" in said


def test_a_person_is_kept_together_before_what_one_has_several_of():
    rows = [
        {"study": f"S{i // 2}", "patient": f"P{i // 4}", "label": f"x{i % 2}", "note": f"w {i}"} for i in range(20)
    ]
    made = propose(columns_of(rows), Told())
    assert made.columns["group"] == "patient"
    said = "study could keep rows together, too: --group study, or both, as in split: {together: [patient, study]}"
    assert said in " ".join(made.warnings)


def test_0_and_1_of_a_property_are_no_and_yes(here, capsys):
    rows = [{"abnormal": i % 2, "note": f"words number {i}"} for i in range(40)]
    write_csv(here / "r.csv", rows)
    assert main(["init", "r.csv", "--yes"]) == 0
    assert "0 and 1 of what is called abnormal; --options says otherwise" in capsys.readouterr().out
    written = yaml.safe_load((here / "my_template.yaml").read_text())
    assert written["options"] == ["no", "yes"] and written["question"] == "Is this abnormal?"
    assert main(["data", "show", "my.yaml", "--plain", "-n", "1"]) == 0
    assert "Is this abnormal based on the text?" in capsys.readouterr().out


def test_true_and_false_are_options_by_their_names(here, capsys):
    rows = "".join(f'{{"has_fracture": {str(i % 2 == 0).lower()}, "note": "words {i}"}}\n' for i in range(40))
    (here / "r.jsonl").write_text(rows)
    assert main(["init", "r.jsonl", "--yes"]) == 0, capsys.readouterr()
    written = yaml.safe_load((here / "my_template.yaml").read_text())
    assert written["options"] == ["False", "True"] and written["question"] == "Is there any fracture?"
    assert main(["data", "check", "my.yaml"]) == 0


def test_headings_of_other_languages():
    def made(**columns):
        rows = [{name: value(i) for name, value in columns.items()} for i in range(20)]
        return propose(columns_of(rows), Told()).columns

    long = "这是一个关于患者左侧肺部情况的比较长的描述"
    assert made(图像路径=lambda i: f"{i}.png", 患者编号=lambda i: f"P{i // 2}", 诊断=lambda i: f"病{i % 2}",
                内容=lambda i: f"{long}{i}") == {
        "image": "图像路径", "group": "患者编号", "label": "诊断", "text": "内容"
    }  # fmt: skip
    assert made(Görüntü=lambda i: f"{i}.png", HASTA_NO=lambda i: f"P{i // 2}", TANI=lambda i: f"x{i % 2}",
                Açıklama=lambda i: f"metin {i}", yaş=lambda i: 30 + i) == {
        "image": "Görüntü", "group": "HASTA_NO", "label": "TANI", "text": "Açıklama"
    }  # fmt: skip
    assert made(Catégorie=lambda i: f"x{i % 2}", Hôpital=lambda i: "AB"[i % 2], Remarque=lambda i: f"mots {i}") == {
        "label": "Catégorie", "site": "Hôpital", "text": "Remarque"
    }  # fmt: skip
    assert made(Größenklasse=lambda i: f"x{i % 2}", Besitzer=lambda i: f"T{i // 2}", Befund=lambda i: f"Wort {i}") == {
        "label": "Größenklasse", "group": "Besitzer", "text": "Befund"
    }  # fmt: skip


def test_sentences_are_no_labels_however_few_they_are():
    rows = [
        {"Phone No.": f"00{i}", "Claim No.": f"C{i}", "Total loss": i % 2, "Policy": f"P{i // 2}"} for i in range(20)
    ]
    short = [row | {"Description of damage": f"Bumper, {i % 3} doors."} for i, row in enumerate(rows)]
    made = propose(columns_of(short), Told(columns={"label": "Total loss"}))
    assert made.columns["text"] == "Description of damage"
    named = [row | {"Damage": f"Bumper and {i % 3} of the doors are bent."} for i, row in enumerate(rows)]
    assert propose(columns_of(named), Told()).columns["label"] == "Total loss"
    rows = [
        row | {"Description of damage": f"Bumper and {i % 3} of the doors are bent."} for i, row in enumerate(rows)
    ]
    made = propose(columns_of(rows), Told())
    assert made.columns == {
        "label": "Total loss", "text": "Description of damage", "id": "Claim No.", "group": "Policy"
    }  # fmt: skip


def test_a_corrected_file_needs_its_options_anew(here, capsys):
    write_csv(here / "r.csv", [{"label": ("y", "yes", "no")[i % 3], "note": f"words {i}"} for i in range(30)])
    assert main(["init", ".", "--yes"]) == 0
    assert "When the file is corrected, run init again: the options are the labels" in capsys.readouterr().out
    assert f"Written by fs-fedmllm init from {here.name} (30 rows)" in (here / "my.yaml").read_text()


def test_a_column_of_sites_that_some_rows_lack_is_said():
    rows = [{"region": "NS"[i % 2] if i else "", "label": f"x{i // 2 % 2}", "note": f"w {i}"} for i in range(20)]
    (said,) = [guess for guess in propose(columns_of(rows), Told()).guesses if guess.what == "clients"]
    assert said.why == "region could say who they are, but 1 row lacks it; rows are distributed over them at random"


def test_the_status_of_a_claim_is_a_label():
    rows = [{"claim_status": f"x{i % 2}", "note": f"w {i}", "claim": f"C{i // 2}"} for i in range(20)]
    made = propose(columns_of(rows), Told())
    assert made.columns == {"label": "claim_status", "text": "note", "group": "claim"}


def test_lines_that_are_no_rows_are_counted_too(here, capsys):
    lines = ["label,note", *(f"x{i % 2},words {i}{',more' if i % 9 == 4 else ''}" for i in range(40))]
    (here / "r.csv").write_text("\n".join(lines) + "\n")
    assert main(["init", "r.csv", "--yes"]) == 1
    said = capsys.readouterr().out
    assert "4 of 36 rows" not in said and "4 of 40 rows would be refused as they are:" in said
    assert said.count("r.csv:6, 15, 24, 33: 4 rows:") == 1 and said.count("cells") == 1


def test_a_file_that_is_no_rows_is_named_once(here, capsys):
    (here / "x.json").write_text('{"data": [{"text": "a", "label": "no"}]}')
    assert main(["init", "x.json", "--yes"]) == 2
    assert "x.json: the file holds one JSON object, whose 'data' is a list of rows" in capsys.readouterr().err
