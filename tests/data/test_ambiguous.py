"""Texts and labels that could mean two things, or nothing: refused by file and row or key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fs_fedmllm import config as schema
from fs_fedmllm.data.check import inspect
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.tools.adapters.predict import read_rows

CASES = {case: {"basis": "", "question": "Which"} for case in ("both", "text", "image", "neither")}


def template(path: Path, options: str, **more: object) -> Path:
    """A template whose options are written as given."""
    head = {"task": "choice", "metric": "accuracy", "original": CASES, "augmented": CASES, **more}
    path.write_text(yaml.safe_dump(head) + (f"options: {options}\n" if options else ""))
    return path


@pytest.mark.parametrize(
    ("options", "read"),
    [
        ("[no, yes]", "option 1 of options: YAML reads this as False"),
        ('["no", yes]', "option 2 of options: YAML reads this as True"),
        ("[on, off]", "True"),
        ("[a, 2]", "as 2, which is not text"),
        ("[a, 0.5]", "as 0.5"),
        ("[a, 010]", "read as 8"),
        ("[a, null]", r"nothing \(null\)"),
        ("[a, ~]", "null"),
        ("[a, 2024-01-31]", "as datetime.date"),
        ("[a, 12:30:45]", "read as 45045"),
        ("[a, {b: c}]", "as {'b': 'c'}"),
        ("true", "options must be a list of texts, got True"),
        ("abc", "options must be a list"),
        ("{a: b, c: d}", "options must be a list"),
        ("", "options must be a list of texts, got None"),
        ("[a]", "2 to 26 options, got 1"),
        ("[a, ' ']", "option 2 of options is blank"),
        ("[a, 'a ']", "two options are the same"),
        (r'[a, "b \ud83d"]', "half a character"),
    ],
)
def test_options_are_texts(tmp_path, options, read):
    with pytest.raises(ConfigError, match=rf"mine\.yaml.*: .*{read}"):
        load_template(template(tmp_path / "mine.yaml", options))


def test_data_check_lists_a_wrong_template(tmp_path):
    template(tmp_path / "mine.yaml", "[no, yes]")
    (finding,) = inspect("own", rows(tmp_path, [0, 1]), {"template": "mine.yaml"})[1]
    assert finding.severity == "error" and "option 1 of options" in finding.problem


def test_quoted_options_are_what_they_were(tmp_path):
    made = load_template(template(tmp_path / "mine.yaml", """["no", 'yes', "2", "null"]"""))
    assert made.options == ("no", "yes", "2", "null")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"instruction": True}, "instruction: YAML reads this as True"),
        ({"closing": None}, r"closing: YAML reads this as nothing \(null\)"),
        ({"original": CASES | {"text": {"basis": False, "question": "q"}}}, r"original\.text\.basis"),
        ({"metric": "auc", "positive": True}, "positive"),
    ],
)
def test_other_texts_of_a_template_too(tmp_path, more, said):
    with pytest.raises(ConfigError, match=said):
        load_template(template(tmp_path / "mine.yaml", "[a, b]", **more))


def test_a_key_that_is_no_text(tmp_path):
    path = template(tmp_path / "mine.yaml", "[a, b]")
    path.write_text(path.read_text() + "on: 1\n")
    with pytest.raises(ConfigError, match="unknown key 'True'"):
        load_template(path)


def test_a_template_for_questions_has_no_options(tmp_path):
    ask = dict.fromkeys(CASES, "{question}")
    with pytest.raises(ConfigError, match="options have no meaning with task vqa"):
        load_template(template(tmp_path / "mine.yaml", "[a, b]", task="vqa", original=ask, augmented=ask))
    with pytest.raises(ConfigError, match="metric macro_f1 needs options"):
        load_template(template(tmp_path / "mine.yaml", "", task="vqa", metric="macro_f1", original=ask, augmented=ask))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_template_that_is_not_utf_8(tmp_path, encoding):
    path = template(tmp_path / "mine.yaml", "[grün, blau]")
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(ConfigError, match=r"mine\.yaml is not UTF-8 text"):
        load_template(path)


def rows(folder: Path, labels: list, **more: object) -> Path:
    lines = [{"text": f"t {i}", "label": label, "split": split, **more}
             for split in ("train", "test") for i, label in enumerate(labels)]  # fmt: skip
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_number_that_is_an_index_and_another_option_s_name(tmp_path):
    name = {"template": template(tmp_path / "mine.yaml", '["1", "2", "3"]').name}
    for labels in ([1], [3], [2.0]):
        with pytest.raises(DataError, match=r"data\.jsonl:1: label .* could be an index or an option's name"):
            load_dataset("own", rows(tmp_path, labels), name)
    assert [row.label for row in load_dataset("own", rows(tmp_path, ["1", "3"]), name).train] == [0, 2]
    with pytest.raises(DataError, match=r"data\.jsonl:1: label '0' is none of the options"):
        load_dataset("own", rows(tmp_path, ["0", "1"]), name)
    template(tmp_path / "mine.yaml", '["0", "1", "10"]')
    assert [row.label for row in load_dataset("own", rows(tmp_path, [0, 1, "2", "10"]), name).train] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "more", [{"text": "cut \ud83d"}, {"note": "\udc00"}, {"keys": {"a": ["x", "\ud800"]}}, {"k\ud83d": 1}]
)
@pytest.mark.parametrize("listed", [False, True])
def test_half_a_character_is_named_with_its_row(tmp_path, more, listed):
    rows(tmp_path, [0, 1, 2])
    lines = (tmp_path / "data.jsonl").read_text().splitlines()
    lines[4] = json.dumps(json.loads(lines[4]) | more)
    (tmp_path / "data.jsonl").write_text("[\n" + ",\n".join(lines) + "\n]" if listed else "\n".join(lines))
    line = 6 if listed else 5
    with pytest.raises(DataError, match=rf"data\.jsonl:{line}: .* holds half a character \(\\u") as error:
        load_dataset("own", tmp_path, {"template": "digits_triage"})
    str(error.value).encode()  # it can be printed
    errors = [f for f in inspect("own", tmp_path, {"template": "digits_triage"})[1] if f.severity == "error"]
    assert [f.row for f in errors] == [str(line)]


@pytest.mark.parametrize("repeated", [False, True])
def test_half_a_character_in_parquet_is_named_with_its_row(tmp_path, repeated):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    texts = [b"good", b"good", b"good", b"bad \xed\xa0\xbd"] + [b"good"] * (300 if repeated else 0)
    texts = pa.array(texts, pa.binary()).view(pa.string())
    split = ["train"] * (len(texts) - 1) + ["test"]
    table = pa.table({"text": texts, "label": [0] * len(texts), "split": split})
    pq.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(DataError, match=r"data\.parquet:4: text is not UTF-8 text \(byte 4"):
        load_dataset("own", tmp_path, {"template": "digits_triage"})


def test_whole_pairs_are_characters(tmp_path):
    rows(tmp_path, [0], text="whole \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"))
    assert "\\ud83d\\ude00" in (tmp_path / "data.jsonl").read_text()
    assert load_dataset("own", tmp_path, {"template": "digits_triage"}).train[0].text == "whole 😀"


def test_predict_refuses_half_a_character(tmp_path):
    (tmp_path / "ask.jsonl").write_text('{"text": "cut \\ud83d"}\n')
    with pytest.raises(DataError, match=r"ask\.jsonl:1: text holds half a character"):
        read_rows(tmp_path / "ask.jsonl")


BASE = {
    "data": {"type": "digits_triage", "splitter": "fedmllm_aligned"},
    "federate": {"client_num": 2, "make_global_eval": True},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"data": BASE["data"] | {"splitter_args": [{"alpha": "1e-1"}]}},
            "alpha is '1e-1'.*Write 0.1",
        ),
        (
            {"data": BASE["data"] | {"splitter_args": [{"seed": "1e3"}]}},
            "splitter_args: seed is '1e3'.*Write 1000",
        ),
        ({"model": {"fedmllm": {"image": {"size": {"longest_edge": "5e2"}}}}}, r"image: size\.longest_edge is '5e2'"),
    ],
)
def test_numbers_that_yaml_reads_as_texts(change, said):
    with pytest.raises(ConfigError, match=said):
        schema.from_mapping(yaml.safe_load(yaml.safe_dump(BASE | change)))


@pytest.mark.parametrize("name", ["text", "note", "question", "options", "Label_2"])
def test_a_field_in_braces_that_nobody_fills_in(tmp_path, name):
    for more in ({"instruction": f"Read {{{name}}}"}, {"closing": f"{{{name}}}"}):
        with pytest.raises(ConfigError, match=rf"(instruction|closing) has \{{{name}\}}, and nothing is filled in"):
            load_template(template(tmp_path / "t.yaml", "[a, b]", **more))
    for key in ("basis", "question"):
        cases = {**CASES, "text": {**CASES["text"], key: f"x {{{name}}}"}}
        with pytest.raises(ConfigError, match=rf"original\.text\.{key} has \{{{name}\}}"):
            load_template(template(tmp_path / "t.yaml", "[a, b]", original=cases))
    asks = dict.fromkeys(CASES, "Q: {question}")
    vqa = {"task": "vqa", "original": asks, "augmented": asks}
    assert load_template(template(tmp_path / "t.yaml", "", **vqa)).task == "vqa"
    if name != "question":
        vqa["augmented"] = {**asks, "both": f"{{question}} {{{name}}}"}
        with pytest.raises(ConfigError, match=r"augmented\.both has .*only \{question\} is filled in here"):
            load_template(template(tmp_path / "t.yaml", "", **vqa))


@pytest.mark.parametrize("braces", [r"\frac{a}{b}", "{}", "{ x }", '{"a": 1}', "{{x}}", "{1}", "x_{max}"])
def test_braces_that_are_no_field_stand_as_they_are(tmp_path, braces):
    assert load_template(template(tmp_path / "t.yaml", "[a, b]", instruction=braces)).instruction == braces
    assert load_template(template(tmp_path / "t.yaml", '["{text}", b]')).options[0] == "{text}"


def test_a_misspelt_key_gets_a_suggestion(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'instrucion'; did you mean 'instruction'"):
        load_template(template(tmp_path / "t.yaml", "[a, b]", instrucion="x"))
