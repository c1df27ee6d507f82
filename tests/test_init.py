"""`fs-fedmllm init`: what it proposes, why, what it writes, and that this runs as it is."""

from __future__ import annotations

import io
import json
import os
import random
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from csv_rows import write_csv
from PIL import Image
from short_runs import SHORT

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.commands.tables import table
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.quoting import yaml_word
from fs_fedmllm.scenarios.reading import read_dataset
from fs_fedmllm.tools.init import looking
from fs_fedmllm.tools.init.looking import Column, Look, look
from fs_fedmllm.tools.init.places import images_below
from fs_fedmllm.tools.init.proposal import Told
from fs_fedmllm.tools.init.proposing import propose
from fs_fedmllm.tools.init.writing import config_yaml, template_yaml

SITES = ("Nord", "Süd", "West")


def wounds(root, count=60):
    """Rows as a hospital might have them, and their pictures in ``photos``."""
    draw = random.Random(3)
    (root / "photos").mkdir(parents=True)
    rows = []
    for i in range(count):
        infected = i % 2 == 0
        picture = Image.new("RGB", (16, 16), (draw.randrange(256), 40 if infected else 120, draw.randrange(256)))
        picture.save(root / f"photos/w{i:03d}.png")
        note = "Redness spreads around the margin, warm and painful." if infected else "Clean and dry, no pain at all."
        rows.append({
            "photo": f"w{i:03d}.png", "patient_id": f"P{i // 3:02d}", "hospital": SITES[i // 3 % 3], "age": 20 + i,
            "nurse_note": "" if i % 5 == 4 else f"{note} Day {i}.", "finding": "infected" if infected else "clean",
        })  # fmt: skip
    return rows


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_with_hospitals_and_patients_runs_as_it_is_written(here, capsys):
    write_csv_rows = wounds(here / "wounds")
    write_csv(here / "wounds/wounds.csv", write_csv_rows)
    assert main(["init", "wounds/wounds.csv", "--yes"]) == 0
    said = capsys.readouterr().out
    for line in (
        "image          photo ", "its values are names of image files, such as w000.png",
        "text           nurse_note", "label          finding", "its values are clean, infected",
        "kept together  patient_id", "20 different ones in 60 rows", "clients        hospital",
        "3 different ones: Nord, Süd, West", "image folder   photos", "fs-fedmllm run my.yaml",
    ):  # fmt: skip
        assert line in said, line
    written = (here / "my.yaml").read_text()
    raw = yaml.safe_load(written)
    assert raw["data"] == {"type": "own", "root": "wounds", "splitter": "fedmllm_given",
                           "splitter_args": [{"client": "hospital"}]}  # fmt: skip
    assert raw["fedmllm"]["data"] == {
        "file": "wounds.csv", "title": "wounds",
        "columns": {"image": "photo", "text": "nurse_note", "label": "finding"},
        "image_root": "photos", "split": {"val": 0.1, "test": 0.2, "together": "patient_id"},
    }  # fmt: skip
    assert written.count("  # ") >= 8  # commented
    assert yaml.safe_load((here / "my_template.yaml").read_text()) == {
        "question": "What is the finding?", "options": ["clean", "infected"], "metric": "macro_f1"
    }  # fmt: skip
    assert main(["data", "check", "my.yaml"]) == 0
    assert "own: 0 errors, 0 warnings" in capsys.readouterr().out
    assert main(["plan", "my.yaml"]) == 0
    assert main(["run", "my.yaml", *SHORT, "expname", "job", "--engine", "embedded"]) == 0
    results = json.loads((here / "exp/job/results.json").read_text())
    assert results["client_names"] == {"1": "Nord", "2": "Süd", "3": "West"} and results["rounds"] == 2
    capsys.readouterr()
    assert main(["predict", "exp/job", "--file", "wounds/wounds.csv"]) == 0
    answers, score = capsys.readouterr()
    assert len(answers.splitlines()) == 60 and "over the 60 rows that have a label" in score
    shown = [json.loads(line)["shown"] for line in answers.splitlines()]
    assert shown[:5] == ["both"] * 4 + ["image"]
    assert main(["evaluate", "exp/job", "my.yaml", "--no-views"]) == 0
    assert "Confusion matrix" in capsys.readouterr().out


def runs_as_written(capsys, *words):
    ended, said = main(["init", *words, "--yes"]), capsys.readouterr().out
    assert ended == 0, said.partition("Not all is well")[2]
    assert main(["data", "check", "my.yaml"]) == 0, capsys.readouterr().out
    assert main(["plan", "my.yaml"]) == 0, capsys.readouterr().out
    return said, yaml.safe_load(open("my.yaml")), yaml.safe_load(open("my_template.yaml"))


def test_json_lines_without_clients_are_dealt_by_chance(here, capsys):
    (here / "d").mkdir()
    topics = ["damage", "help", "no"]
    rows = [
        {
            "id": f"r{i}",
            "tweet": f"The bridge is down at place {i}." if i % 3 else None,
            "photo": f"x{i}.png" if i % 4 else None,
            "topic": topics[i % 3],
        }
        for i in range(1, 49)
    ]
    rows = [row for row in rows if row["tweet"] or row["photo"]]
    for i, row in enumerate(rows):
        if row["photo"]:
            Image.new("RGB", (8, 8), (i, 2 * i, 255 - i)).save(here / "d" / row["photo"])
    (here / "d/reports.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said, raw, template = runs_as_written(capsys, "d")
    assert "no column is called like a hospital or a site; rows are distributed over them at random" in said
    assert raw["federate"]["client_num"] == 4 and raw["data"]["splitter"] == "fedmllm_aligned"
    assert template["options"] == ["damage", "help", "no"]  # "no" in quotes, or YAML would read False


def test_questions_and_answers(here, capsys):
    (here / "d").mkdir()
    rows = [{"question": f"What is {i} and one?", "answer": str(i + 1), "question_id": i} for i in range(40)]
    (here / "d/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:30]))
    (here / "d/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[30:]))
    said, raw, template = runs_as_written(capsys, "d")
    assert template == {"task": "vqa"} and raw["fedmllm"]["data"]["split"] == {"val": 0.1}
    assert "a column or a file says which they are" in said
    assert raw["data"]["splitter_args"] == [{"alpha": 0.5, "by": "kind"}]
    said, raw, template = runs_as_written(
        capsys, "d", "--force", "--question", "", "--text", "question", "--answer", "answer", "--task", "vqa",
        "--ask", "What is it?",
    )  # fmt: skip
    assert template == {"question": "What is it?"} and raw["fedmllm"]["data"]["columns"]["text"] == "question"


def test_conversations(here, capsys):
    (here / "d").mkdir()
    turns = [[{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": str(i)}] for i in range(30)]
    (here / "d/data.jsonl").write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns))
    _, raw, template = runs_as_written(capsys, "d")
    assert template == {"task": "vqa"} and "columns" not in raw["fedmllm"]["data"]


def test_folders_of_images(here, capsys):
    for split, count in (("train", 12), ("test", 6)):
        for label in ("cat", "dog"):
            (here / "pets" / split / label).mkdir(parents=True)
            for i in range(count):
                colour = (10 * i + (5 if split == "test" else 0), 200 if label == "cat" else 20, 50)
                Image.new("RGB", (8, 8), colour).save(here / f"pets/{split}/{label}/{i}.png")
    said, raw, template = runs_as_written(capsys, "pets")
    assert template["options"] == ["cat", "dog"] and raw["fedmllm"]["data"]["split"] == {"val": 0.1}
    assert "imagefolder" in said


def test_parquet_and_saved_data_sets_with_their_labels_names(here, capsys):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({
        "picture": datasets.Image(), "sentence": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["calm", "angry"]),
    })  # fmt: skip
    rows = []
    for i in range(40):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8), (i, 40, 5 * i)).save(stream, "PNG")
        rows.append({"picture": {"bytes": stream.getvalue(), "path": None}, "sentence": f"s {i}", "label": i % 2})
    made = datasets.Dataset.from_list(rows, features=features)
    (here / "p").mkdir()
    made.to_parquet(str(here / "p/data.parquet"))
    made.save_to_disk(str(here / "saved"))
    for words in (["p"], ["saved", "--force"]):
        said, raw, template = runs_as_written(capsys, *words)
        assert template["options"] == ["calm", "angry"], said
        assert raw["fedmllm"]["data"]["columns"]["image"] == "picture"


def test_it_asks_on_a_terminal_only_and_nothing_that_flags_answer(here, capsys, monkeypatch):
    write_csv(here / "r.csv", [{"a": f"x{i % 3}", "b": f"y{i % 2}", "note": f"words {i}"} for i in range(40)])
    assert main(["init", "r.csv", "--label", "b"]) == 2
    shown, refused = capsys.readouterr()
    assert "label          b " in shown and "question       B: which of these fits?" in shown  # the proposal
    assert "Nothing was written" in refused and "this is not a terminal. Say --yes" in refused
    assert os.listdir(here) == ["r.csv"]
    assert main(["init", "r.csv", "--yes"]) == 2
    assert "Which column holds the label? Say --label a or --label b." in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    asked = []

    def answers(*given):
        left = iter(given)

        def answer(question=""):
            asked.append(question)
            return next(left)

        monkeypatch.setattr("builtins.input", answer)

    answers("c", "b", "n")
    assert main(["init", "r.csv"]) == 1 and os.listdir(here) == ["r.csv"]
    assert asked[0].startswith("Which column holds the label? (a, b)") and asked[-1].startswith("Write my.yaml")
    asked.clear()
    answers("")
    assert main(["init", "r.csv", "--label", "b"]) == 0 and len(asked) == 1
    assert yaml.safe_load((here / "my_template.yaml").read_text())["options"] == ["y0", "y1"]
    answers()
    assert main(["init", "r.csv", "--label", "a", "--yes", "--force"]) == 0


def test_nothing_is_written_over_without_force(here, capsys):
    write_csv(here / "r.csv", [{"label": f"x{i % 2}", "note": f"words {i}"} for i in range(40)])
    (here / "my_template.yaml").write_text("mine")
    assert main(["init", "r.csv", "--yes"]) == 2
    assert "my_template.yaml is there already" in capsys.readouterr().err
    assert (here / "my_template.yaml").read_text() == "mine" and not (here / "my.yaml").exists()
    assert main(["init", "r.csv", "--yes", "--force"]) == 0
    assert main(["init", "r.csv", "--yes", "--out", "other.yaml"]) == 0
    assert main(["init", "r.csv", "--yes", "--out", "other.txt"]) == 2
    assert main(["init", "r.csv", "--yes", "--out", "nowhere/other.yaml"]) == 2
    (here / "sub/data").mkdir(parents=True)
    assert main(["init", "r.csv", "--yes", "--out", "sub/second.yaml"]) == 0
    raw = yaml.safe_load((here / "sub/second.yaml").read_text())
    assert os.path.isabs(raw["data"]["root"]) and raw["fedmllm"]["template"] == "second_template.yaml"
    assert main(["init", "r.csv", "--yes", "--out", "sub/other.yaml"]) == 0  # the data has a template of that name
    assert os.path.isabs(yaml.safe_load((here / "sub/other.yaml").read_text())["fedmllm"]["template"])
    os.replace(here / "r.csv", here / "sub/data/r.csv")
    assert main(["init", "sub/data", "--yes", "--out", "sub/inner.yaml"]) == 0
    assert yaml.safe_load((here / "sub/inner.yaml").read_text())["data"]["root"] == "data"
    assert main(["data", "check", "sub/inner.yaml"]) == 0  # from another folder


def test_what_the_rows_lack_is_said_and_ends_in_1(here, capsys):
    write_csv(here / "r.csv", [{"label": f"x{i % 2}" if i else "", "note": f"words {i}"} for i in range(40)])
    assert main(["init", "r.csv", "--yes"]) == 1
    said = capsys.readouterr().out
    assert "1 row has no label, and will be refused" in said and "r.csv:2" in said
    write_csv(here / "p.csv", [{"label": f"x{i % 2}", "img": f"none/{i}.png"} for i in range(40)])
    assert main(["init", "p.csv", "--yes", "--force"]) == 1
    assert "The images are not found: 'none/0.png' is not a file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["nowhere"], "there is no such file or folder"),
        (["r.csv", "--label", "lable"], "--label lable: there is no such column. Columns here: label, note"),
        (["r.csv", "--label", "note", "--text", "note"], "is named for two things"),
        (["r.csv", "--val", "1.5"], "a share of the rows is between 0 and 1"),
        (["r.csv", "--clients", "0"], "there is at least one"),
        (["r.csv", "--clients", "3", "--site", "note"], "Leave one of them out"),
        (["r.csv", "--options", "a"], "name two or more different ones"),
        (["r.csv", "--task", "vqa", "--options", "a,b"], "say nothing"),
        (["r.csv", "--label", "note"], "has 40 different values, and a choice has 2 to 26"),
        (["."], r"holds b.tsv, r.csv. Name the file"),
    ],
)
def test_what_cannot_be_is_refused(here, capsys, words, match):
    write_csv(here / "r.csv", [{"label": f"x{i % 2}", "note": f"words {i}"} for i in range(40)])
    (here / "b.tsv").write_text("a\tb\n1\t2\n")
    assert main(["init", *words, "--yes"]) == 2
    assert match in capsys.readouterr().err and not (here / "my.yaml").exists()


def test_of_a_large_file_only_the_beginning_is_read(here, monkeypatch, capsys):
    monkeypatch.setattr(looking, "MOST_ROWS", 30)
    write_csv(here / "r.csv", [{"label": f"x{i % 2}", "note": f"words {i}"} for i in range(100)])
    found = look(here / "r.csv")
    assert found.total == 30 and not found.whole
    assert main(["init", "r.csv", "--yes"]) == 0
    assert "Only the first 30 rows were looked at" in capsys.readouterr().out
    monkeypatch.setattr(looking, "MOST_BYTES", 1000)
    assert look(here / "r.csv").total < 30


def columns_of(rows):
    found = Look(root=Path("rows"), file="", sources=[])
    for row in rows:
        found.rows[""] += 1
        for name, value in row.items():
            found.columns.setdefault(name, Column(name)).note(value)
    return found


def test_numbers_count_the_options():
    for start, options in ((0, ("0", "1")), (1, ("0", "1", "2"))):
        rows = columns_of([{"label": start + i % 2, "note": f"w {i}"} for i in range(20)])
        made = propose(rows, Told())
        assert made.options == options and "tells a model nothing" in made.warnings[0]
        assert propose(rows, Told(options=("no", "yes"))).options == ("no", "yes")
    texts = propose(columns_of([{"label": "10" if i % 2 else "9", "note": f"w {i}"} for i in range(20)]), Told())
    assert texts.options == ("9", "10")


def test_each_guess_has_a_reason_and_names_stay_on_their_line():
    hostile = "lab\x1b[2Jel"
    rows = columns_of([{hostile: "a" if i % 2 else 'b"\n- c', "note": f"words {i}", "NA": "x"} for i in range(20)])
    made = propose(rows, Told())
    assert made.columns["label"] == hostile and all(guess.why for guess in made.guesses)
    text = template_yaml(made, "x\ny.csv")
    assert yaml.safe_load(text)["options"] == ["a", 'b"\n- c']
    written = config_yaml(made, rows, root="a: b", template="t.yaml", about="x\ny.csv")
    raw = yaml.safe_load(written)
    assert raw["fedmllm"]["data"]["columns"]["label"] == hostile and raw["data"]["root"] == "a: b"
    assert "\x1b" not in written and schema.from_mapping(raw)


@pytest.mark.parametrize(
    "text", ["no", "on", "a: b", "#x", "1", "1e3", "", " x ", "ü", '"', "\\", "\u2028", "🏥", "-", "2020-01-01", "~"]
)
def test_texts_come_back_from_yaml_as_they_were(text):
    assert yaml.safe_load(f"key: {yaml_word(text)}") == {"key": text}


def test_texts_for_nothing_are_absent():
    rows = columns_of([{"label": "a" if i % 2 else "none", "note": "NA" if i % 3 else f"w {i}"} for i in range(30)])
    assert propose(rows, Told()).absent == ("NA",)


def test_addresses_of_images_are_no_images():
    rows = columns_of([{"label": f"x{i % 2}", "url": f"https://a.b/{i}.png", "note": f"w {i}"} for i in range(20)])
    made = propose(rows, Told())
    assert "image" not in made.columns and "not downloaded" in made.warnings[0]


def test_a_file_that_is_no_table_is_said_with_its_line(here):
    (here / "r.csv").write_bytes(b"PK\x03\x04zip")
    with pytest.raises(DataError, match="zip archive or a spreadsheet"):
        look(here / "r.csv")
    with pytest.raises(ConfigError, match="no such file"):
        look(here / "x.csv")


def test_what_is_kept_of_a_value_is_short():
    column = Column("image")
    column.note({"bytes": b"\x89PNG" * 100_000, "path": "a.png"})
    column.note([{"bytes": b"x" * 100_000}])
    assert len(str(column.sample)) < 3000 and column.pictures == 2
    text = Column("note")
    text.note("x" * 1_000_000)
    assert len(next(iter(text.values))) < 250 and len(text.sample[0]) <= 500


def test_names_that_no_file_can_have_are_not_found(tmp_path):
    for name in ("x" * 5000 + ".png", "a\0b.png", "../" * 50 + "b.png"):
        assert images_below(tmp_path, [name]) is None


def test_a_question_that_every_row_brings_is_the_templates():
    rows = [{"caption": f"fix item {i}", "question": "what?", "label": i % 3} for i in range(20)]
    made = propose(columns_of(rows), Told())
    assert (made.task, made.ask, made.columns["label"]) == ("choice", "what?", "label")
    rows = [{"text": f"item {i}", "question": "what?", "answer": f"this {i}"} for i in range(20)]
    made = propose(columns_of(rows), Told())
    assert (made.task, made.ask) == ("vqa", "what?") and "question" not in made.columns


def test_instructions_in_their_usual_columns():
    rows = [{"instruction": "Answer.", "input": f"what is {i}", "output": f"it is {i}"} for i in range(20)]
    made = propose(columns_of(rows), Told())
    assert (made.task, made.columns["question"], made.columns["answer"]) == ("vqa", "input", "output")
    rows = [{"question": f"q {i}", "answer": f"a {i}", "answer_type": ["open", "closed"][i % 2]} for i in range(20)]
    made = propose(columns_of(rows), Told())
    assert made.columns["answer"] == "answer" and not made.doubts


def test_labels_that_cannot_be_meant_are_said():
    def made(labels, **more):
        return propose(
            columns_of([{"label": label, "note": f"w {i}"} for i, label in enumerate(labels)]), Told(**more)
        )

    assert "'Sick' (1 row) and 'sick' (9 rows) may be one" in made([*["sick", "well"] * 9, "Sick"]).warnings[0]
    assert "2 of 3 options stand in one row each" in made(["fire here", "flood", "rain", "rain"]).warnings[0]
    assert "say what they mean with --options" in made(["0", "1"] * 5).warnings[0]
    assert "given to the wrong rows" in made(["1", "2"] * 5).warnings[0]
    assert made([1, 2] * 5).options == ("0", "1", "2") and len(made([0, 1] * 5).warnings) == 1
    assert "what 2 means" not in made([1, 2] * 5).warnings[0]  # it would name the wrong one
    assert "No row has the label 0, which is an option, since numbers count" in made([1, 2] * 5).warnings[1]
    with pytest.raises(ConfigError, match="'label' has one value in all rows, sick: there is nothing to tell apart"):
        made(["sick"] * 9)
    with pytest.raises(ConfigError, match="The labels 10, 40 are numbers, which count the options from 0"):
        made([10, 40] * 9)


def test_columns_that_are_not_read_are_named():
    rows = columns_of([
        {"before": f"{i}.png", "after": f"a{i}.png", "taken": f"0{i % 3 + 1}.03.2024", "Diagnose": f"x{i % 2}"}
        for i in range(20)
    ])  # fmt: skip
    made = propose(rows, Told({"image": "before"}))
    assert made.columns["label"] == "Diagnose" and not made.doubts
    assert ("not read", "after, taken") in [(guess.what, guess.value) for guess in made.guesses]
    assert made.warnings[0].startswith("A row shows one picture: that of before is taken, after is not read.")


def test_paths_of_windows_are_read(here, capsys):
    """Backslashes name a file that is there; where none is, the row says how to write it."""
    (here / "in" / "pics").mkdir(parents=True)
    for i in range(40):
        Image.new("L", (8, 8), 6 * i).save(here / "in" / "pics" / f"{i}.png")
    write_csv(here / "p.csv", [{"label": f"x{i % 2}", "img": f"pics\\{i}.png"} for i in range(40)])
    assert main(["init", "p.csv", "--yes"]) == 0
    raw = yaml.safe_load((here / "my.yaml").read_text())["fedmllm"]["data"]
    assert raw["image_root"] == "in" and raw["columns"]["image"] == "img"
    data = read_dataset(schema.load(here / "my.yaml"))
    assert {Path(row.image).parent for row in data.train} == {here / "in" / "pics"}
    capsys.readouterr()
    (here / "in" / "pics" / "30.png").unlink()
    assert main(["init", "p.csv", "--yes", "--force"]) == 1
    assert "has backslashes (Windows). Write it with slashes, pics/30.png" in capsys.readouterr().out


def test_a_table_of_excel_on_windows(here, capsys):
    rows = [f"Größe {i}, glatt;{'gerötet' if i % 2 else 'blaß'}" for i in range(40)]
    (here / "r.csv").write_text("\n".join(["text;label", *rows]) + "\n", encoding="cp1252")
    assert main(["init", "r.csv", "--yes"]) == 2
    assert "For init: --encoding cp1252." in capsys.readouterr().err
    assert main(["init", "r.csv", "--yes", "--encoding", "cp1252", "--delimiter", "semicolon"]) == 0
    data = yaml.safe_load((here / "my.yaml").read_text())["fedmllm"]["data"]
    assert (data["encoding"], data["delimiter"]) == ("cp1252", ";")
    (here / "r.jsonl").write_text('{"text": "a b", "label": "x"}\n')
    assert main(["init", "r.jsonl", "--yes", "--force", "--encoding", "cp1252"]) == 2
    assert "are for CSV and TSV files" in capsys.readouterr().err


def test_patients_are_resampled_whole(here, capsys):
    """Intervals take what the split keeps together, with a column of clients too, which takes no keep_together."""
    rows = [{"note": f"words {i}", "label": f"x{i % 2}", "patient": f"P{i // 4}"} for i in range(48)]
    write_csv(here / "r.csv", [row | {"hospital": f"H{i % 3}"} for i, row in enumerate(rows)])
    assert main(["init", "r.csv", "--yes"]) == 0
    config = schema.load(here / "my.yaml")
    assert config.data.splitter == "fedmllm_given" and config.resampled_by == ("patient",)
    test = read_dataset(config).test
    assert test and all("patient" in row.keys for row in test)
    raw = yaml.safe_load((here / "my.yaml").read_text())
    raw["fedmllm"]["data"]["split"]["together"] = []
    assert schema.from_mapping(raw).resampled_by == ()
    capsys.readouterr()
    assert main(["data", "check", "r.csv"]) == 2
    assert "r.csv is a file of rows. Name the configuration" in capsys.readouterr().err


#: Ten things that nurses write, of several words each, and no sentence.
PHRASES = (
    *("edges red and warm", "dry and clean", "smells of old cheese", "skin around is hot", "no change since Monday"),
    *("yellow film on top", "healing from the rim", "wet under the bandage", "pain when touched", "blister has burst"),
)


def test_phrases_that_repeat_are_the_text():
    """A column of some phrases is neither a label of ten options nor left out without a word."""
    rows = [{"what we saw": PHRASES[i % 10], "disease": f"d{i % 3}", "img": f"{i}.png"} for i in range(60)]
    made = propose(columns_of(rows), Told())
    assert made.columns == {"image": "img", "label": "disease", "text": "what we saw"} and not made.doubts
    # the name says nothing, but one of two columns of few values has short ones
    rows = [{"what we saw": PHRASES[i % 10], "it": f"d{i % 3}"} for i in range(60)]
    made = propose(columns_of(rows), Told())
    assert made.columns == {"label": "it", "text": "what we saw"}
    # two columns of them: neither is taken, and how to take one is said
    rows = [{"seen": PHRASES[i % 10], "done so far": PHRASES[i % 7], "img": f"{i}.png", "label": "ab"[i % 2]}
            for i in range(60)]  # fmt: skip
    made = propose(columns_of(rows), Told())
    assert "text" not in made.columns
    assert "if one is the text, say --text seen or --text 'done so far'." in made.warnings[0]
    # names of hospitals are no text
    rows = [{"klinik": f"Klinikum am Park {i % 3}", "img": f"{i}.png", "label": "ab"[i % 2]} for i in range(60)]
    assert "text" not in propose(columns_of(rows), Told()).columns


def test_what_answers_a_question_can_be_pasted(here, capsys):
    write_csv(here / "r.csv", [{"a b": f"x{i % 2}", "-c": f"y{i % 3}", "note": f"words {i}"} for i in range(40)])
    assert main(["init", "r.csv", "--yes"]) == 2
    said = capsys.readouterr().err
    assert "Say --label 'a b' or --label=-c." in said
    assert main(["init", "r.csv", "--yes", "--label=-c", "--out", "my rows.yaml"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  fs-fedmllm")]
    words = [shlex.split(line, comments=True) for line in lines]
    assert words[0] == ["fs-fedmllm", "data", "check", "my rows.yaml"]
    assert all("my rows.yaml" in line for line in words[:-1]) and len(words) == 7


def test_measurements_are_no_labels():
    rows = [{"Temperatur": f"3{i % 3},{i % 5}", "Befall": ("ja", "nein")[i % 2], "note": f"n {i}"} for i in range(60)]
    assert propose(columns_of(rows), Told()).columns["label"] == "Befall"


def test_labels_that_are_several_are_told(here):
    rows = [{"image": f"{i}.png", "normal": int(i % 3 == 0), "mass": int(i % 3 == 1), "edema": int(i % 3 == 2)}
            for i in range(60)]  # fmt: skip
    made = propose(columns_of(rows), Told())
    assert [doubt.option for doubt in made.doubts] == ["label"]
    assert made.warnings == [
        "normal, mass, edema hold 0 and 1; as many of them are 1 as there are rows, so they may be one label: write "
        "the name of the one that is 1 into a column of its own, or ask about one of them."
    ]
    assert "several of them may be 1 in a row" in propose(columns_of([{**row, "normal": 1} for row in rows] + rows),
                                                          Told()).warnings[0]  # fmt: skip
    rows = [{"text": f"words {i}", "label": ("Mass", "Effusion|Mass", "Effusion")[i % 3]} for i in range(60)]
    assert "Effusion|Mass is several labels in one" in propose(columns_of(rows), Told()).warnings[0]
    rows = [{"text": f"words {i}", "labels": [["a"], ["a", "b"]][i % 2]} for i in range(60)]
    with pytest.raises(ConfigError, match="The label 'labels' holds lists, and a choice has one answer a row"):
        propose(columns_of(rows), Told({"label": "labels"}))


def test_a_column_of_sites_with_holes_is_told():
    rows = [{"note": f"words {i}", "label": "ab"[i % 2], "hospital": "" if i < 2 else f"H{i % 3}"} for i in range(60)]
    made = propose(columns_of(rows), Told())
    assert "site" not in made.columns and made.warnings == [
        "2 rows lack hospital, so it is not taken for the clients. Fill it in, or take those rows out, and run init "
        "again; or say --site hospital: training rows alone need it."
    ]


def test_images_without_endings_are_seen(here, capsys):
    """DICOM series of scanners have names such as IM00001; a column of them is not passed over."""
    for i in range(40):
        place = here / "series" / f"PA{i // 10}" / f"IM{i:05d}"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 6 * i).save(place, "PNG")
    (here / "notes" / "deep").mkdir(parents=True)
    (here / "notes" / "deep" / "a").write_text("no image")
    rows = [
        {"study": f"series/PA{i // 10}/IM{i:05d}", "src": "notes/deep/a", "finding": "ab"[i % 2]} for i in range(40)
    ]
    write_csv(here / "r.csv", rows)
    assert main(["init", "r.csv", "--yes"]) == 0
    assert yaml.safe_load((here / "my.yaml").read_text())["fedmllm"]["data"]["columns"] == {
        "image": "study", "text": "", "label": "finding"
    }  # fmt: skip


def test_rows_with_nothing_to_show(here, capsys):
    write_csv(here / "r.csv", [{"picture": f"https://example.org/{i}.png", "class": "ab"[i % 2]} for i in range(40)])
    assert main(["init", "r.csv", "--yes"]) == 2
    said = capsys.readouterr().err
    assert "'picture' holds addresses of images, which are not downloaded" in said
    assert "There is nothing to show a model" in said and "--text picture" not in said


def test_files_of_several_hospitals_are_to_be_joined(here, capsys):
    for name in ("nord one.csv", "sued.csv"):
        write_csv(here / name, [{"note": f"words {i}", "label": "ab"[i % 2]} for i in range(40)])
    assert main(["init", ".", "--yes"]) == 2
    said = capsys.readouterr().err
    assert "fs-fedmllm init 'nord one.csv' (where each is of one hospital, join them into one table" in said
    (here / "packed").mkdir()
    (here / "packed" / "shard-000000.tar").write_bytes(b"")
    assert main(["init", "packed", "--yes"]) == 2
    assert "shard-000000.tar is packed, and not read. Unpack it, and write a table" in capsys.readouterr().err


def test_the_encoding_that_a_table_has_is_proposed(here, capsys):
    rows = "".join(f"words {i}\t{'ab'[i % 2]}\n" for i in range(40))
    (here / "r.tsv").write_bytes(f"text\tlabel\n{rows}".encode("utf-16"))
    assert main(["init", "r.tsv", "--yes"]) == 2
    assert "For init: --encoding utf-16." in capsys.readouterr().err
    assert main(["init", "r.tsv", "--yes", "--encoding", "utf-16"]) == 0


def test_tables_for_a_terminal_move_no_cursor():
    """Names of clients, labels and runs stand in them, whose widths are those of what is shown."""
    said = table(["label\x1b[2J", "rows"], [["<b>\x9b31m", 3], ["two\nlines", 12]])
    assert said == "label\\x1b[2J  rows\n<b>\\x9b31m       3\ntwo lines       12"
