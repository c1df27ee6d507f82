"""Files from anybody cost little, and what is wrong with them is said by an error of ours."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import LONG

from fs_fedmllm.config import load, read_yaml
from fs_fedmllm.config.overrides import parse_override
from fs_fedmllm.config.reading import from_mapping
from fs_fedmllm.data.findings import Findings
from fs_fedmllm.data.images import check_image, open_image
from fs_fedmllm.data.json_rows import json_rows
from fs_fedmllm.data.own_files import Source, read_source
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ConfigError, DataError, FedMLLMError, ModelError, PrivacyError
from fs_fedmllm.files.untrusted import object_if_any, open_regular, read_mapping, read_regular
from fs_fedmllm.privacy.ledger import Ledger
from fs_fedmllm.tools.sweeps.figures_file import gathered
from fs_fedmllm.tools.sweeps.table_file import parse_table

posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


def rows(path: Path) -> list[Any]:
    return list(read_source(Source(path, ""), Findings()))


TABLE = parse_table({"axes": {"method": {"values": {"fedavg": {}}}}, "metrics": ["test_acc"]}, "t")
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "configuration": ("c.yaml", lambda path: load(path)),
    "template": ("t.yaml", lambda path: load_template(str(path))),
    "JSON Lines": ("d.jsonl", rows),
    "JSON": ("d.json", rows),
    "Parquet": ("d.parquet", rows),
    "image": ("i.png", lambda path: open_image(str(path))),
    "image's header": ("i.png", lambda path: check_image(str(path))),
    "ledger": ("privacy.jsonl", lambda path: Ledger(path, 1e-5)),
    "figures": ("f.csv", lambda path: gathered([path], path.with_name("none"), TABLE, {})),
}


@posix
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(reader: str, kind: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    came: list[BaseException | None] = []

    def look() -> None:
        try:
            read(path)
            came.append(None)
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(LONG)
    assert came and isinstance(came[0], FedMLLMError), came
    assert str(path) in str(came[0])


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 11)
    assert read_regular(path, 11) == b"x" * 11
    with pytest.raises(OSError, match="more than the 10 bytes"):
        read_regular(path, 10)
    with pytest.raises(OSError), open_regular(tmp_path / "absent"):
        pass


# --- YAML -----------------------------------------------------------------------------------------------------------

LEVELS = "abcdefghijkl"
BOMBS = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise(LEVELS)),
    "merges": "a: &a {x: 1}\n"
    + "".join(f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 9)}]}}\n"
              for old, new in itertools.pairwise(LEVELS)),
    "itself": "seed: &a [*a]",
    "deep flow": "seed: " + "[" * 20_000,
    "deep block": "- " * 20_000,
    "digits": "seed: " + "9" * 100_000,
    "hex digits": "seed: 0x" + "f" * 100_000,
    "base 60": "seed: " + "59:" * 3_000 + "59",
    "tag and value": "seed: !!int many",
    "boolean": "seed: !!bool many",
    "date": "seed: 2001-99-99",
    "time": "seed: !!timestamp soon",
    "code point": 'seed: "\\UFFFFFFFF"',
    "python": "seed: !!python/object/apply:os.system [true]",
    "twice": "seed: 1\nfederate:\n  client_num: 2\nseed: 2",
    "documents": "seed: 1\n---\nseed: 2",
    "control": "seed: \x07",
    "list": "[1, 2]",
    "mapping as key": "? {a: 1}\n: 2",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_bombs_are_refused_in_configurations_and_templates(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[name], encoding="utf-8")
    for read in (load, lambda p: load_template(str(p))):
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert str(path) in str(caught.value) and len(str(caught.value)) < 5_000


def test_the_line_of_a_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(BOMBS["twice"])
    with pytest.raises(ConfigError, match=r"at line 4: the key 'seed' stands twice"):
        read_yaml(path)
    path.write_text("base: &b {x: 1, y: 2}\nmore: {<<: *b, x: 3}\n")  # a merged key may be overridden
    assert read_yaml(path)["more"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    "value", ["²", "--5", "9" * 5_000, 10**400, float("inf"), float("nan"), {1: 2}, b"x"], ids=lambda v: str(v)[:9]
)
def test_numbers_that_are_none(value: Any) -> None:
    for key in ("seed", "fedmllm.train.max_grad_norm", "train.optimizer.lr"):
        *sections, last = key.split(".")
        raw: dict[str, Any] = {last: value}
        for section in reversed(sections):
            raw = {section: raw}
        with pytest.raises(ConfigError):
            from_mapping(raw)


def test_words_of_the_command_line_are_bounded_too() -> None:
    assert parse_override("7") == 7
    assert parse_override(BOMBS["digits"]) == BOMBS["digits"]


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ['{"label": %s}' % ("9" * 5_000), '{"a": ' * 50_000, '{"a": "\\ud8"}', "[" * 50_000])
def test_json_rows_that_python_cannot_take(row: str, tmp_path: Path) -> None:
    for name, text in (("d.jsonl", f'{{"text": "fine"}}\n{row}\n'), ("d.json", f'[{{"text": "fine"}},\n{row}]')):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(DataError, match=r":2: this is not valid JSON"):
            list(json_rows(path, Findings()))


def test_a_line_without_an_end_is_not_a_row_of_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fs_fedmllm.data.json_rows.MAX_ROW", 1000)
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "' + "x" * 2000 + '"}\n')
    with pytest.raises(DataError, match=r":2: the row has more than 1,000 bytes"):
        list(json_rows(path, Findings()))


def test_parquet_that_swells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("fs_fedmllm.data.arrow_rows.SWOLLEN", 1 << 20)
    monkeypatch.setattr("fs_fedmllm.data.arrow_rows.MAX_ROWS", 50_000)
    long = "a" * 10_000
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 40_000, pa.int32()), pa.array([long]))
    tables = {
        "one text of many rows": (pa.table({"text": once}), {}),
        "texts that compress well": (pa.table({"text": [long] * 4_000}), {"use_dictionary": False}),
        "bytes in a mapping": (pa.table({"image": [{"bytes": long.encode(), "path": ""}] * 4_000}), {}),
        "lists": (pa.table({"x": [[1] * 1000] * 4_000}), {}),
        "rows": (pa.table({"x": pa.nulls(60_000, pa.int8())}), {}),
    }
    path = tmp_path / "d.parquet"
    for name, (table, options) in tables.items():
        pq.write_table(table, path, compression="zstd", **options)
        with pytest.raises(DataError, match=r"decompression bomb|at most 50,000"):
            rows(path)
        assert path.stat().st_size < 100_000, name
    pq.write_table(pa.table({"text": ["yes", None, "yes"], "label": [1, 0, None], "b": [b"x", b"y", None]}), path)
    assert [row for _, row in rows(path)] == [
        {"text": "yes", "label": 1, "b": b"x"},
        {"text": None, "label": 0, "b": b"y"},
        {"text": "yes", "label": None, "b": None},
    ]


def test_corrupt_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": ["yes", "no"] * 50, "label": [1, 0] * 50}), path)
    good = path.read_bytes()
    for data in (b"", b"PAR1", good[:-1], good[: len(good) // 2], good[:4] + b"\xff" * 40 + good[44:], b"PAR1" * 40):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"d\.parquet"):
            rows(path)


# --- the ledger -----------------------------------------------------------------------------------------------------

LINE = {"round": 0, "noise_multiplier": 1.0, "expected": 2, "clients": 4, "sampling": "fixed", "delta": 0.01}


@pytest.mark.parametrize(
    "line",
    [
        "[]", "3", "null", "[" * 50_000, "9" * 5_000, "{}",
        *(json.dumps(LINE | change) for change in (
            {"noise_multiplier": True}, {"noise_multiplier": float("nan")}, {"noise_multiplier": 1e300},
            {"expected": 5}, {"clients": "4"}, {"sampling": ["fixed"]}, {"sampling": "all"}, {"delta": "0.01"},
            {"delta": None}, {"round": -1}, {"round": "0"}, {"more": 1},
        )),
    ],
)  # fmt: skip
def test_a_ledger_that_somebody_wrote_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "privacy.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n{line}\n")
    with pytest.raises(PrivacyError, match="line 2"):
        Ledger(path, 0.01)


def test_an_error_is_one_paragraph_that_can_be_printed() -> None:
    said = str(ConfigError(f"bad: {'x' * 10**6} \x1b[2J \ud800 \u202e end\nline"))
    assert len(said) < 4_200 and said.startswith("bad: ") and said.endswith("end\nline")
    assert "\x1b" not in said and "\u202e" not in said and r"\ud800" in said
    said.encode()


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"\x09\0\0\0\0\0\0\0" + b'{"a":[]}\n', b"\x10\0\0\0\0\0\0\0{"],
)
def test_weights_that_are_no_safetensors(data: bytes, tmp_path: Path) -> None:
    """A header that says it has exabytes must not be waited for, nor asked of the memory."""
    from fs_fedmllm.models.fingerprint import _tensors
    from fs_fedmllm.models.skeleton import _header_parameters

    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    for read in (_tensors, _header_parameters):
        with pytest.raises(ModelError, match=r"model\.safetensors is"):
            read(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 50_000])
def test_an_index_of_weights_that_is_none(text: str, tmp_path: Path) -> None:
    from fs_fedmllm.models.fingerprint import weight_files

    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"index\.json is damaged"):
        weight_files(tmp_path)


def test_a_parquet_page_that_lies_about_its_size_uses_no_memory_for_it(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    resource = pytest.importorskip("resource")

    def varint(number: int) -> bytes:
        number, out = 2 * number, b""
        while number > 127:
            out, number = out + bytes([number & 127 | 128]), number >> 7
        return out + bytes([number])

    table = pa.table({"text": ["x" * 50 + str(i) for i in range(300)]})
    pq.write_table(table, tmp_path / "d.parquet", compression="snappy", use_dictionary=False, write_statistics=False)
    raw = (tmp_path / "d.parquet").read_bytes()
    assert raw[:7] == b"PAR1\x15\x00\x15", "the page's header: its kind, then its size"
    end = 7 + next(i for i, byte in enumerate(raw[7:]) if byte < 128) + 1
    stored = end + 1 + next(i for i, byte in enumerate(raw[end + 1 :]) if byte < 128) + 1
    lies = raw[:7] + varint(2**31 - 1) + raw[end : end + 1] + varint(1500) + raw[stored:]
    (tmp_path / "d.parquet").write_bytes(lies)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="not a readable Parquet file"):
        rows(tmp_path / "d.parquet")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # kB


def test_a_mapping_is_read_or_its_file_fault_and_remedy_are_said(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    for text, says in ((None, "No such file or directory"), ("[1]", "m.json must be a mapping"), ("{", "Expecting")):
        if text is not None:
            file.write_text(text)
        with pytest.raises(DataError) as refused:
            read_mapping(file, DataError, "Take another.")
        assert str(refused.value).startswith(f"{file} cannot be read ({says}")
        assert str(refused.value).endswith("). Take another.") and str(refused.value).count(str(file)) == 1
        assert object_if_any(file) == {}
    file.write_text('{"a": 1}')
    assert read_mapping(file, DataError) == object_if_any(file) == {"a": 1}
