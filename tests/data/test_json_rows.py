"""Rows as JSON: no row and no value is lost without a word, and a file that is something else is called that."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from fs_fedmllm.data.findings import Findings
from fs_fedmllm.data.json_rows import json_rows
from fs_fedmllm.errors import DataError

ROWS = [{"id": i, "text": f"row {i}"} for i in range(4)]


def read(path: Path, content: str | bytes) -> list[tuple[str, dict]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(where.removeprefix(f"{path}:"), row) for where, row in json_rows(path, Findings())]


@pytest.mark.parametrize("space", ["", " ", "\n", "\n\n  ", "\t"])
def test_a_list_in_any_spacing(tmp_path, space):
    text = space.join(["[", ",".join(space + json.dumps(row) + space for row in ROWS), "]", ""])
    assert [row for _, row in read(tmp_path / "d.json", text)] == ROWS
    assert read(tmp_path / "d.json", f"[{space}]") == []


def test_a_row_of_a_list_is_named_by_its_line(tmp_path):
    assert [where for where, _ in read(tmp_path / "d.json", json.dumps(ROWS, indent=1))] == ["2", "6", "10", "14"]
    assert read(tmp_path / "d.json", json.dumps(ROWS))[2][0] == "1 (row 3)"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text + "\n" + text, r":2: there is more after the list's end: '\[\{.*one list"),
        (lambda text: text + "]", "more after the list's end"),
        (lambda text: text.replace("}, {", "} {"), r"there is no comma after row 1"),
        (lambda text: text.replace("}, {", "},, {"), "not valid JSON"),
        (lambda text: text[:-1] + ",]", "not valid JSON"),
        (lambda text: text[:-1], "no comma after row 4"),
        (lambda text: text[:-9], "not valid JSON"),
        (lambda text: text.replace('"id": 2', '"id": 2, "id": 3'), "the key 'id' stands twice"),
    ],
)
def test_a_list_that_is_none_loses_no_row_silently(tmp_path, change, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path / "d.json", change(json.dumps(ROWS)))


def test_a_key_that_stands_twice_in_a_line(tmp_path):
    with pytest.raises(DataError, match=r"d\.jsonl:2: .*the key 'a' stands twice"):
        read(tmp_path / "d.jsonl", '{"x": {"a": 1}}\n{"x": {"a": 1, "a": 2}}\n')


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b'{"id": 1}\n', mtime=0), "compressed with gzip.*unpack"),
        (b"PK\x03\x04rest", "zip archive or a spreadsheet"),
        (b"PAR1rest", r"Parquet file.*ending \.parquet"),
        ('{"id": 1}\n'.encode("utf-16"), "UTF-16"),
        ('{"id": 1}\n'.encode("utf-16-le"), "UTF-16"),
        ('{"id": 1}\n'.encode("utf-16-be"), "UTF-"),
        ('{"id": 1}\n'.encode("utf-32"), "UTF-"),
        ('{"id": 1}\n'.encode("utf-32-be"), "UTF-32"),
        (json.dumps({"data": ROWS}, indent=1), "one JSON object over several lines, not rows.*list of objects"),
    ],
)
def test_what_is_no_json_lines_is_called_what_it_is(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path / "d.jsonl", content)
    found = Findings(strict=False)
    assert list(json_rows(tmp_path / "d.jsonl", found)) == [] and len(found.items) == 1


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ({"text": {"0": "a", "1": "b"}, "label": {"0": 0, "1": 1}}, "columns by row number (pandas's to_json)"),
        ({"text": ["a", "b"], "label": [0, 1]}, "columns as lists"),
        ({"version": "1", "data": [{"text": "a", "label": 0}]}, "whose 'data' is a list of rows"),
        ({"annotations": [{"text": "a"}, {"text": "b"}]}, "whose 'annotations' is a list of rows"),
    ],
)
def test_one_object_that_is_no_row_is_called_what_it_is(tmp_path, whole, said):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(whole))
    with pytest.raises(DataError, match=rf"{re.escape(said)}, not rows\..*orient='records'"):
        list(json_rows(path, Findings()))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
        {"images": ["a.png"], "text": "a"},
        {"text": "a", "data": "b"},
    ],
)
def test_the_only_row_of_a_file_is_one(tmp_path, row):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(row))
    assert [found for _, found in json_rows(path, Findings())] == [row]
