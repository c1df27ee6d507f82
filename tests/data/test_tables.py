"""CSV and TSV as spreadsheets and programs write them: read as they are written, or refused with line and remedy."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest

from fs_fedmllm.data.check import inspect
from fs_fedmllm.data.findings import Findings
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.table_form import table_form
from fs_fedmllm.data.tables import table_rows
from fs_fedmllm.errors import ConfigError, DataError

TRIAGE = {"template": "digits_triage"}
HEAD = "id,image,text,label,split"


@pytest.fixture
def sheet(tmp_path, picture):
    """Writes a table beside four pictures and returns the folder."""
    for i in range(4):
        picture(tmp_path / f"{i}.png", colour=(40 * i, 0, 0))

    def write(text: str | bytes, name: str = "data.csv") -> Path:
        data = text.encode() if isinstance(text, str) else text
        (tmp_path / name).write_bytes(data)
        return tmp_path

    return write


def lines(*rows: str, head: str = HEAD, end: str = "\n") -> str:
    return end.join([head, *rows, ""])


ROWS = ("1,0.png,first,0,train", "2,1.png,second,1,train", "3,2.png,third,2,test")


def read(tmp_path: Path, text: str | bytes, name: str = "t.csv", **form: str) -> list[tuple[str, dict]]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    rows = table_rows(path, Findings(), table_form(form.get("delimiter", ""), form.get("encoding", "")))
    return [(where.rpartition(":")[2], dict(row)) for where, row in rows]


@pytest.mark.parametrize("name", ["data.csv", "DATA.CSV", "Data.Csv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_is_read_as_rows(sheet, name, end):
    data = load_dataset("own", sheet(lines(*ROWS, end=end), name), TRIAGE)
    assert [(row.id, row.text, row.label, Path(row.image).name) for row in data.train] == [
        ("1", "first", 0, "0.png"),
        ("2", "second", 1, "1.png"),
    ]
    assert data.test[0].source.endswith(f"{name}:4") and data.warnings == () and len(data.fingerprint) == 64


@pytest.mark.parametrize(
    ("name", "mark"),
    [("t.csv", ","), ("t.csv", ";"), ("t.csv", "\t"), ("t.csv", "|"), ("t.tsv", "\t"), ("t.TSV", "\t")],
)
def test_the_delimiter_is_found(tmp_path, name, mark):
    text = "\n".join(mark.join(cells) for cells in (["id", "text"], ["1", '"a, b; c"'], ["2", "d"]))
    assert read(tmp_path, text, name) == [("2", {"id": "1", "text": "a, b; c"}), ("3", {"id": "2", "text": "d"})]


def test_what_german_excel_writes(tmp_path):
    text = 'id;befund;größe\r\n1;"Fraktur, links";0,5\r\n2;;7\r\n'
    rows = [
        ("2", {"id": "1", "befund": "Fraktur, links", "größe": "0,5"}),
        ("3", {"id": "2", "befund": None, "größe": "7"}),
    ]
    assert read(tmp_path, text) == rows
    assert read(tmp_path, text.encode("utf-8-sig")) == rows
    assert read(tmp_path, "sep=;\r\n" + text) == [("3", rows[0][1]), ("4", rows[1][1])]
    with pytest.raises(DataError, match=r"t\.csv:1: the text is not UTF-8 \(byte 0xf6\)\..*encoding: cp1252"):
        read(tmp_path, text.encode("cp1252"))
    assert read(tmp_path, text.encode("cp1252"), encoding="cp1252") == rows
    assert read(tmp_path, text.encode("cp1252"), encoding="Windows-1252") == rows
    with pytest.raises(DataError, match=r"it is UTF-16 text\..*encoding: utf-16"):
        read(tmp_path, text.encode("utf-16"))
    assert read(tmp_path, text.encode("utf-16"), encoding="utf-16") == rows
    with pytest.raises(DataError, match=r"UTF-16 text without a mark.*encoding: utf-16-le"):
        read(tmp_path, text.encode("utf-16-le"))
    assert read(tmp_path, text.encode("utf-16-le"), encoding="utf-16-le") == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text\nfine\n", r"its first line, 'text', is one column\. Say which it is"),
        ("export of 2024\n\nid,text\n1,a\n", r"its first line, 'export of 2024', is one column"),
        ("id;a,text\n1;b,c\n", r"can be divided by comma and semicolon\. Say which"),
    ],
)
def test_one_column_or_two_ways_are_refused(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, text)


def test_a_delimiter_that_is_named(tmp_path):
    assert read(tmp_path, "id;a,text\n1;b,c\n", delimiter="semicolon") == [("2", {"id": "1", "a,text": "b,c"})]
    assert read(tmp_path, "id^text\n1^b\n", delimiter="^") == [("2", {"id": "1", "text": "b"})]
    assert read(tmp_path, "text\nfine\n", delimiter=",") == [("2", {"text": "fine"})]
    for word in ("tab", "\\t", "\t"):
        assert read(tmp_path, "id\ttext\n1\tb\n", delimiter=word) == [("2", {"id": "1", "text": "b"})]
    with pytest.raises(DataError, match=r"no comma divides its first line, and a semicolon does\. Say .*semicolon"):
        read(tmp_path, "id;text\n1;b\n", delimiter=",")
    with pytest.raises(DataError, match=r"no tab divides its first line, and a comma does"):
        read(tmp_path, "id,text\n1,b\n", "t.tsv")
    for wrong in (";;", '"', "a", "\n"):
        with pytest.raises(ConfigError, match="delimiter must be one character"):
            table_form(wrong, "")
    for wrong in ("nonsense", "rot13", "base64", "unicode_escape", "utf-7", "idna", "\0"):
        with pytest.raises(ConfigError, match=r"encoding .* is not one that texts are read in"):
            table_form("", wrong)


def test_cells_are_text_as_they_are_written(tmp_path):
    row = ["007", "=1+1", "1e3", " padded ", "TRUE", "2024-01-02", '5" nail', "-0", "@cmd", 'say "hi"']
    stream = io.StringIO()
    csv.writer(stream).writerows([[f"c{i}" for i in range(len(row))], row])
    assert read(tmp_path, stream.getvalue()) == [("2", {f"c{i}": value for i, value in enumerate(row)})]


def test_quoted_line_breaks_keep_the_lines_of_rows_right(sheet):
    text = lines('1,0.png,"two\nlines, ""quoted""",0,train', "", "2,1.png,b,1,train", "3,2.png,c,99,test")
    with pytest.raises(DataError, match=r"data\.csv:6: label '99' is none"):
        load_dataset("own", sheet(text), TRIAGE)
    data = load_dataset("own", sheet(text.replace("99", "2")), TRIAGE)
    assert [(row.text, row.source.rpartition(":")[2]) for row in data.train] == [
        ('two\nlines, "quoted"', "2"),
        ("b", "5"),
    ]


def test_empty_cells_are_absent_and_empty_rows_passed_over(sheet):
    root = sheet(lines("1,0.png,,0,train", "2,,b,1,train", ",,,,", "3,2.png,c,2,test", ",,,,"))
    data, findings = inspect("own", root, TRIAGE)
    assert [row.presence for row in data.train] == ["image", "text"]
    assert "Rows whose cells are all empty, passed over: 2." in [found.problem for found in findings]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            ["1,0.png,a, b,0,train"],
            r"csv:2: the row has 6 cells, and the first line names 5.*holds a comma into quotes, without",
        ),
        (["1,0.png,a"], r"csv:2: the row has 3 cells, and the first line names 5 columns\. Write every cell"),
        (['1,0.png,"a"b,0,train'], r"csv:2: the row's quotes do not fit \(.*write its own as \"\""),
        (['1,0.png,"a,0,train', "2,1.png,b,1,test"], r"csv:2: the row's quotes do not fit"),
        (["1,0.png,a\0b,0,train"], r"csv:2: the line holds a NUL"),
        (["1,0.png,ok,0,train", "2,0.png,caf\udce9,0,train"], r"csv:3: the text is not UTF-8 \(byte 0xe9\)"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(sheet, rows, said):
    root = sheet(lines(*rows).encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=said):
        load_dataset("own", root, TRIAGE)


def test_data_check_goes_on_behind_a_ragged_row(sheet):
    root = sheet(lines("1,0.png,a", "2,1.png,b,1,train", "3,2.png,c,2,test,", "4,3.png,d,1,test"))
    data, findings = inspect("own", root, TRIAGE)
    assert [found.row for found in findings if found.severity == "error"] == ["2", "4"]
    assert [row.id for row in (*data.train, *data.test)] == ["2", "4"]


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("id,text,text,label,image", r"csv:1: the first line names 'text' more than once"),
        ("id, text,text,label,image", "names 'text' more than once"),
        ("1,0.png,first,0,train", r"is to name the columns, and holds '0\.png'"),
        (",".join(map(str, range(5000))), "names 5,000 columns; at most 4,096"),
    ],
)
def test_a_first_line_that_names_no_columns(sheet, head, said):
    with pytest.raises(DataError, match=said):
        load_dataset("own", sheet(lines(head=head)), TRIAGE)


def test_pandas_index_column_has_no_name(sheet):
    text = lines(*(f"{i},{row}" for i, row in enumerate(ROWS)), head="," + HEAD)
    data, findings = inspect("own", sheet(text), TRIAGE)
    assert len(data.train) == 2
    assert [found.problem for found in findings if found.severity == "note"] == [
        "Columns that are not read: (column 1)."
    ]


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"PK\x03\x04", r"spreadsheet \(\.xlsx"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", r"Excel workbook \(\.xls\)"),
        (b"PAR1", "Parquet file"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\x1f\x8b\x08", r"compressed with gzip\. Give its name the ending \.gz"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    ],
)
def test_what_is_no_table_is_called_what_it_is(tmp_path, head, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, head + b" more\n")


def test_long_cells_and_lines_are_bounded(tmp_path, monkeypatch):
    assert len(read(tmp_path, f"id,text\n1,{'x' * 200_000}\n")[0][1]["text"]) == 200_000
    before = csv.field_size_limit()
    try:
        monkeypatch.setattr("fs_fedmllm.data.tables.MAX_CELL", 1000)
        csv.field_size_limit(1000)
        with pytest.raises(
            DataError, match=r"csv:2: a cell that begins here has more than 1,000 characters\. Is a quote"
        ):
            read(tmp_path, 'id,text\n1,"' + "never closed\n" * 1000)
    finally:
        csv.field_size_limit(before)
    monkeypatch.setattr("fs_fedmllm.data.table_form.MAX_ROW", 1000)
    with pytest.raises(DataError, match=r"csv:2: the line has more than 1,000 characters"):
        read(tmp_path, "id,text\n" + "x" * 2000)


@pytest.mark.parametrize("name", ["data.csv.gz", "DATA.CSV.GZ", "data.tsv.gz", "data.jsonl.gz", "data.json.gz"])
def test_gzip(sheet, name, monkeypatch):
    text = lines(*ROWS)
    if "tsv" in name:
        text = text.replace(",", "\t")
    if "json" in name:
        rows = [
            f'{{"id": {i}, "image": "{i}.png", "text": "t", "label": {i}, "split": "{("train", "test")[i % 2]}"}}'
            for i in range(3)
        ]
        text = "\n".join(rows) if "jsonl" in name else f"[{', '.join(rows)}]"
    packed = gzip.compress(text.encode())
    assert len(load_dataset("own", sheet(packed, name), TRIAGE).train) == 2
    for broken in (packed[:-9], b"no gzip", packed[:20] + b"\xff" * 30):
        with pytest.raises(DataError, match="the file is not a complete gzip file"):
            load_dataset("own", sheet(broken, name), TRIAGE)
    monkeypatch.setattr("fs_fedmllm.data.packed.SWOLLEN", 1000)
    with pytest.raises(DataError, match=r"unpacks into more than .* bytes.*decompression bomb"):
        load_dataset("own", sheet(gzip.compress(text.encode() + b" " * 10_000_000), name), TRIAGE)


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl"])
def test_lines_are_bounded_blank_ones_too(sheet, name, monkeypatch):
    monkeypatch.setattr("fs_fedmllm.data.packed.MAX_LINES", 1000)
    with pytest.raises(DataError, match=rf"{name}: the file has more than 1,000 lines\. Split it"):
        load_dataset(
            "own", sheet(lines(*ROWS).replace("\n", "\n\n" * 500) if "csv" in name else "\n" * 2000, name), TRIAGE
        )


def test_an_empty_file(sheet):
    for text in ("", "\n\n"):
        with pytest.raises(DataError, match=r"the file is empty|is one column"):
            load_dataset("own", sheet(text), TRIAGE)
    with pytest.raises(DataError, match=r"there is no row in data\.csv"):
        load_dataset("own", sheet(lines()), TRIAGE)


def test_a_label_that_pandas_wrote_beside_empty_cells(sheet):
    assert (
        load_dataset("own", sheet(lines(*(row.replace(",1,", ",1.0,") for row in ROWS))), TRIAGE).train[1].label == 1
    )


def test_texts_that_say_that_nothing_is_there(sheet):
    root = sheet(lines("1,0.png,NA,0,train", "2,1.png,b,1,train", "3,2.png,NA,2,test"))
    warnings = load_dataset("own", root, TRIAGE).warnings
    assert any("In 2 rows text is 'NA', which is taken as it is written" in said for said in warnings)
    data = load_dataset("own", root, TRIAGE | {"absent": ["NA"]})
    assert data.train[0].presence == "image" and data.warnings == ()
    root = sheet(lines("1,0.png,#REF!,0,train", "2,1.png,b,1,train", "3,2.png,None of it,2,test"))
    warnings = load_dataset("own", root, TRIAGE).warnings
    assert len(warnings) == 1 and "In 1 row text is '#REF!'" in warnings[0]
    with pytest.raises(DataError, match=r"csv:2: the image path is 'NaN'\. Leave it empty.*absent: \[NaN\]"):
        load_dataset("own", sheet(lines("1,NaN,a,0,train")), TRIAGE)
    with pytest.raises(ConfigError, match="absent must be a list of texts"):
        load_dataset("own", root, TRIAGE | {"absent": "NA"})


def test_a_mapping_to_a_column_that_is_not_there_names_the_nearest(sheet):
    root = sheet(lines(*ROWS, head="id,Image_Path,note,label,split"))
    with pytest.raises(DataError, match=r"columns\.image is 'image_paht', .*did you mean 'Image_Path'\?"):
        load_dataset("own", root, TRIAGE | {"columns": {"image": "image_paht", "text": "note"}})
    with pytest.raises(DataError, match=r"csv:2: groups is 'Split2', .*did you mean 'split'\?"):
        load_dataset("own", root, TRIAGE | {"columns": {"image": "Image_Path", "text": "note"}, "groups": ["Split2"]})
    data = load_dataset("own", root, TRIAGE | {"columns": {"image": "Image_Path", "text": "note"}})
    assert data.train[0].presence == "both"


def test_a_mapped_field_whose_name_the_file_has_too_is_said(sheet):
    root = sheet(lines(*(f"{row},other" for row in ROWS), head=HEAD.replace("text", "note") + ",text"))
    data = load_dataset("own", root, TRIAGE | {"columns": {"text": "note"}})
    assert data.train[0].text == "first"
    assert any("columns.text is 'note', so the file's own column 'text' is not read" in said for said in data.warnings)


def test_options_of_tables_are_for_tables(sheet, jsonl):
    jsonl(sheet("") / "data.jsonl", [{"text": "a", "label": 0, "split": "train"}])
    root = sheet("", "x")
    (root / "data.csv").unlink()
    with pytest.raises(
        ConfigError, match=r"delimiter and encoding are for CSV and TSV files, and data\.jsonl is none"
    ):
        load_dataset("own", root, TRIAGE | {"delimiter": ";"})


def test_two_names_that_differ_by_case(sheet):
    sheet(lines(*ROWS))
    with pytest.raises(DataError, match=r"there are DATA\.csv and data\.csv"):
        load_dataset("own", sheet(lines(*ROWS), "DATA.csv"), TRIAGE)


@pytest.mark.parametrize("between", ["", "Exported by: relief team,,\n", "\n,,\n"])
def test_a_title_above_the_columns_names_is_refused(tmp_path, between):
    text = f"Flood reports of March,,\n{between}report,severity,district\nhigh water,low,A\n"
    with pytest.raises(DataError) as error:
        read(tmp_path, text)
    line = 2 + between.count("\n")
    assert (
        f"t.csv:1: the first line names 1 of 3 columns, and line {line} fills 3 cells. If it is a title, take it out, "
        "with what else stands above the columns' names." in str(error.value)
    )
    with pytest.raises(DataError, match=r"of March', is one column\. If it is a title, .* Else say which"):
        read(tmp_path, text.replace(" March,,", " March"))


def test_columns_without_names_are_no_title(tmp_path):
    """What pandas and Excel leave unnamed: an index, a column beside, delimiters at the end."""
    for text in (",text\n0,a\n1,b\n", "text,\na,\nb,\n", "text,,label\na,,b\n"):
        assert read(tmp_path, text)


def test_delimiters_at_the_end_of_rows_alone_are_told(tmp_path):
    found = Findings(strict=False)
    (tmp_path / "t.csv").write_text("text;label\na;x;\nb;y;\n")
    assert not list(table_rows(tmp_path / "t.csv", found, table_form("", "")))
    assert "Its last cells are empty: end the first line with a semicolon too" in found.items[-1].remedy
