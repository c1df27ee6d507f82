"""The example data sets: made by their scripts, configured by `init`, and run for two rounds."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from PIL import Image
from short_runs import REPOSITORY, SHORT

from fs_fedmllm.cli import main

EXAMPLES = REPOSITORY / "examples"
#: Example -> what is looked at, and the question that its template asks.
STORIES = {"wounds": ("wounds/wounds.csv", "How is the wound?"), "reports": ("reports", "What does the report tell?")}


@pytest.fixture(params=STORIES)
def story(request, tmp_path, monkeypatch):
    """A folder with the rows of an example; its name, and where its rows are."""
    name = request.param
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path(str(EXAMPLES / name / f"make_{name}.py"))["make"]
    return name, made(Path(name)), made


def test_a_story_is_what_init_writes_and_runs(story, capsys):
    name, _, _ = story
    path, question = STORIES[name]
    out = f"{name}.yaml"
    assert main(["init", path, "--yes", "--out", out, "--ask", question]) == 0
    for written in (out, f"{name}_template.yaml"):
        assert Path(written).read_text() == (EXAMPLES / name / written).read_text()
    assert main(["data", "check", out]) == 0
    assert "own: 0 errors, 0 warnings" in capsys.readouterr().out
    assert main(["run", out, *SHORT, "expname", "job", "--engine", "embedded"]) == 0
    results = json.loads(Path("exp/job/results.json").read_text())
    names = {"wounds": ["Ambulanz West", "Klinikum Nord", "St. Anna"],
             "reports": ["Hills", "Old Town", "Riverside", "Upper Valley"]}  # fmt: skip
    assert list(results["client_names"].values()) == names[name] and results["rounds"] == 2


def test_rows_are_the_same_every_time_and_pictures_say_what_they_are(story, tmp_path):
    _, rows, made = story
    again = made(tmp_path / "again")
    assert again.read_bytes() == rows.read_bytes()
    pictures = sorted(rows.parent.glob("*/*.png"))
    assert [p.read_bytes() for p in pictures] == [p.read_bytes() for p in sorted(again.parent.glob("*/*.png"))]
    for path in pictures:
        banner = Image.open(path).crop((0, 83, 96, 96)).convert("L")
        assert banner.getpixel((1, 1)) == 255 and min(banner.tobytes()) < 60  # "synthetic", black on white
