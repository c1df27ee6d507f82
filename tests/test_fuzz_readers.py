"""A small share of what ``tests/fuzz/fuzz_readers.py`` does in full, and the inputs that it once found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("grpc", reason="needs the extra distributed")
pytest.importorskip("cryptography", reason="needs the extra distributed")
pytest.importorskip("pyarrow", reason="needs pyarrow")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "fuzz"), str(HERE / "distributed")]

from fuzz_readers import fuzz  # noqa: E402
from readers import READERS  # noqa: E402

from fs_fedmllm.errors import DataError, ModelError  # noqa: E402


def test_the_page_counts_them() -> None:
    page = (HERE.parent / "docs" / "deployment.md").read_text()
    assert f"passes them to {len(READERS)} readers" in page


@pytest.mark.parametrize("reader", READERS)
def test_only_our_own_errors_come_out(reader: str, tmp_path: Path) -> None:
    if (module := {"dicom": "pydicom", "heif": "pillow_heif"}.get(reader)) is not None:
        pytest.importorskip(module, reason=f"needs the extra {reader}")
    found = fuzz(reader, 40, 1, tmp_path / "kept", tmp_path)
    assert not found["findings"]
    assert 0 < found["refused"] <= 40


def test_the_same_seed_gives_the_same_inputs(tmp_path: Path) -> None:
    refused = []
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        refused.append(fuzz("ledger", 50, 3, tmp_path / "kept", tmp_path / name)["refused"])
    assert refused[0] == refused[1]


def test_a_parquet_file_that_ended_the_process_is_refused(tmp_path: Path) -> None:
    """Statistics of one column that do not fit it; pyarrow's accessor of that column's metadata calls abort()."""
    data = (HERE / "fuzz" / "inputs" / "parquet-histogram.parquet").read_bytes()
    with pytest.raises(DataError, match=r"not a readable Parquet file"):
        READERS["parquet"](tmp_path).read(data)


@pytest.mark.parametrize(
    ("reader", "data"),
    [
        # An image under a column without a name, which no mapping can name either.
        ("json_lines", b'{"id": "1", "text": "one", "label": 0, "split": "test", "": ["b.png"]}\n'),
        ("json_list", b'[{"id": "1", "image": "-1", "text": null, "label": 1, "split": "test", "": "a.png"}]'),
    ],
)
def test_inputs_that_were_found(reader: str, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        READERS[reader](tmp_path).read(data)


@pytest.mark.parametrize("number", ["Infinity", "1e999", "NaN", "null", "[]", '"many"'])
def test_a_description_whose_numbers_are_none(number: str, tmp_path: Path) -> None:
    made = READERS["adapter"](tmp_path)
    whole = json.loads(made.seeds[0])
    whole["text"] = json.dumps({**whole["head"], "max_new_tokens": 0}).replace(
        '"max_new_tokens": 0', f'"max_new_tokens": {number}'
    )
    whole["text"] = whole["text"].encode().hex()
    with pytest.raises(ModelError, match=r"fedmllm\.json cannot be read"):
        made.read(json.dumps(whole).encode())
