"""Files of rows to ask an adapter about, with the columns that the run's own data has."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from PIL import Image

from fs_fedmllm.errors import DataError
from fs_fedmllm.tools.adapters.predict import read_rows
from fs_fedmllm.tools.adapters.row_files import RowForm, form_of
from fs_fedmllm.tools.adapters.score import read_truths

OPTIONS = {"columns": {"image": "photo", "text": "note", "label": "state"}, "image_root": "pictures", "absent": ["NA"]}


@pytest.fixture
def run(tmp_path):
    """A run folder, as far as it says how rows are written, and rows like that."""
    folder = tmp_path / "exp/job"
    (folder / "adapter_best").mkdir(parents=True)
    raw = {"data": {"type": "own", "root": "somewhere"}, "fedmllm": {"data": OPTIONS}}
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "new/pictures").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "new/pictures/a.png")
    (tmp_path / "new/rows.csv").write_text("photo,note,state\na.png,NA,dry\n,wet,\n")
    return folder, tmp_path / "new/rows.csv"


def test_rows_are_read_as_the_run_has_them(run):
    folder, file = run
    for reference in (folder, folder / "adapter_best"):
        form = form_of(str(reference))
        rows = read_rows(file, form)
        assert [(row.id, row.presence, row.text) for row in rows] == [("1", "image", None), ("2", "text", "wet")]
        assert rows[0].image.endswith("pictures/a.png")
        assert [truth["label"] for truth, _ in read_truths(file, form)] == ["dry", None]


def test_names_of_ours_need_no_mapping(run, tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"text": "one", "note": "other", "id": 7}\n')
    (row,) = read_rows(plain, form_of(str(run[0])))
    assert (row.id, row.text) == ("7", "one")
    assert form_of("hub:some/where") == RowForm() and form_of(str(tmp_path)) == RowForm()


def test_without_the_run_a_column_that_looks_like_ours_is_refused(run):
    with pytest.raises(DataError, match=r"rows\.csv:\d: the rows have no image beside .photo."):
        read_rows(run[1])


def test_embedded_images_are_asked_about_as_they_were_trained_on(tmp_path, monkeypatch):
    """Rows whose images stand in the file, as Hugging Face keeps them, need not be written out first."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("FS_FEDMLLM_CACHE", str(tmp_path / "cache"))
    made = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(made, "PNG")
    scans = [{"bytes": made.getvalue(), "path": "/home/a/1.png"}, None]
    pq.write_table(pa.table({"scan": scans, "text": ["a", "b"]}), tmp_path / "r.parquet")
    rows = read_rows(tmp_path / "r.parquet", RowForm({"image": "scan"}))
    assert [row.presence for row in rows] == ["both", "text"]
    assert Path(rows[0].image).parent == tmp_path / "cache" / "images"
    assert Path(rows[0].image).read_bytes() == made.getvalue()
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "../../1.png"}]}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match="leaves the data folder"):
        read_rows(tmp_path / "r.parquet")
