"""data check, split, show and plot, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise

from fs_fedmllm.data.images import check_image


def test_check_of_clean_data_ends_with_0(cli, own_vqa):
    code, said = cli("data", "check", "own", own_vqa, "template", "medical", "--decode")
    assert code == 0
    assert "nothing is wrong" in said
    assert "own: 0 errors, 0 warnings" in said


def test_check_names_row_problem_and_remedy_and_ends_with_1(cli, own_vqa):
    with (own_vqa / "train.jsonl").open("a") as stream:
        stream.write(json.dumps({"id": "x", "image": "img/gone.png", "question": "is it?", "answer": "yes"}) + "\n")
        stream.write(json.dumps({"id": "y", "image": "../../etc/passwd", "question": "is it?", "answer": "no"}) + "\n")
    code, said = cli("data", "check", "own", own_vqa, "template", "medical")
    assert code == 1
    assert "train.jsonl:61" in said
    said = " ".join(said.split())  # lines are wrapped
    assert "gone.png does not exist" in said
    assert "leaves the data folder" in said
    assert "own: 2 errors, 0 warnings" in said


def test_check_takes_a_configuration_with_overrides(cli, own_config):
    code, said = cli("data", "check", own_config(), "fedmllm.data.groups", "[ward]")
    assert code == 1
    assert "groups is 'ward', and there is no such column" in " ".join(said.split())


def test_check_shows_the_question_only_baseline(cli):
    code, said = cli("data", "check", "digits_panel", "--baseline")
    assert code == 0
    assert "closed_acc 50.0 %, open_acc 10.0 %" in said  # the exact ceilings from the question alone


def test_check_without_a_folder_says_so(cli):
    code, said = cli("data", "check", "vqa_rad")
    assert code == 2
    assert "needs the folder" in said


def test_split_writes_a_manifest_and_records_that_can_be_read(cli, own_config, tmp_path):
    code, said = cli("data", "split", own_config(), "--out", tmp_path / "out")
    assert code == 0
    assert "scenario cross, seed 0" in said
    records = json.loads((tmp_path / "out/client_1.json").read_text())
    assert list(records[0]) == ["id", "image", "conversations"]
    total = sum(len(json.loads((tmp_path / f"out/client_{c}.json").read_text())) for c in range(1, 5))
    assert total == 60


def test_a_manifest_gives_the_same_clients_whatever_the_seed(cli, own_config, tmp_path):
    config = own_config()
    assert cli("data", "split", config, "--out", tmp_path / "a", "seed", "3")[0] == 0
    words = ("--out", tmp_path / "b", "--from-manifest", tmp_path / "a/manifest.json", "seed", "9")
    assert cli("data", "split", config, *words)[0] == 0
    for name in ("manifest.json", *(f"client_{c}.json" for c in range(1, 5))):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_changed_source_file_is_noticed(cli, own_config, own_vqa, tmp_path):
    config = own_config()
    assert cli("data", "split", config, "--out", tmp_path / "a")[0] == 0
    text = (own_vqa / "train.jsonl").read_text()
    (own_vqa / "train.jsonl").write_text(text.replace("which colour is it?", "which color is it?", 1))
    code, said = cli("data", "split", config, "--out", tmp_path / "b", "--from-manifest", tmp_path / "a/manifest.json")
    assert code == 2
    assert "fingerprint" in said


def test_show_prints_the_final_prompt(cli, own_config):
    code, said = cli("data", "show", own_config(), "-n", "1", "--case", "image", "fedmllm.prompt", "augmented")
    assert code == 0
    assert "Answer without considering the modality. " in said
    assert "shows image" in said
    assert "=> " in said


def test_show_of_a_client_shows_what_it_may_see(cli):
    code, said = cli("data", "show", "configs/cross_i3t7.yaml", "--client", "1", "-n", "2")
    assert code == 0
    assert said.count("--- client 1, row ") == 2
    assert "shows both" not in said
    assert cli("data", "show", "configs/cross_i3t7.yaml", "--client", "11")[0] == 2


def test_plot_draws_every_picture_as_png_and_svg(cli, tmp_path):
    code, said = cli("data", "plot", "configs/hybrid_p60.yaml", "--out", tmp_path, "--embedding", "--rows", "6")
    assert code == 0
    for name in ("labels", "labels_by_modality", "modalities", "embedding"):
        assert f"{name}.png" in said
        width, height = check_image(str(tmp_path / f"{name}.png"))
        assert min(width, height) > 400
        assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")


def test_a_plot_is_the_same_file_twice(cli, tmp_path):
    for folder in ("a", "b"):
        assert cli("data", "plot", "configs/cross_i3t7.yaml", "--out", tmp_path / folder)[0] == 0
    for name in ("labels.svg", "labels_by_modality.svg", "modalities.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_parts_of_a_plot_grow_lighter_and_keep_their_order():
    from fs_fedmllm.tools.report.canvas import shades
    from fs_fedmllm.tools.report.plots import MOST_PARTS, REST, _parts

    for count in range(2, MOST_PARTS + 1):
        luminance = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b, _ in shades(count)]
        assert luminance == sorted(luminance)
        assert min(b - a for a, b in pairwise(luminance)) > 0.03
    many = {1: Counter({f"k{i}": 20 - i for i in range(14)} | {REST: 3})}
    names, merged = _parts(many, ())
    assert len(names) == MOST_PARTS
    assert names.count(REST) == 1
    assert merged[1].total() == many[1].total()


def test_the_command_line_stays_light():
    code = (
        "import sys, fs_fedmllm.cli as c; c.build_parser(); print([m for m in sys.modules if m in ('torch', 'numpy')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_rows_cannot_write_to_the_terminal(tmp_path, capsys) -> None:
    """Escape codes and turned text of a row, its id, its file's name and a column are printed as what they are."""
    import json

    from PIL import Image

    from fs_fedmllm.cli import main

    bad = "\x1b[2J\u202e"
    Image.new("L", (8, 8)).save(tmp_path / f"a{bad}.png")
    rows = [
        {"id": f"{i}{bad}", "image": f"a{bad}.png", "text": bad, "label": 0, "split": split, bad: 1}
        for i, split in enumerate(("train", "val", "test"))
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "c.yaml").write_text(
        f"federate: {{client_num: 1, total_round_num: 1}}\ndata: {{type: own, root: {tmp_path}, "
        "splitter: fedmllm_aligned, splitter_args: [{alpha: 5.0}]}\nfedmllm: {data: {template: digits_triage}}\n"
    )
    assert main(["data", "check", str(tmp_path / "c.yaml")]) == 0
    assert main(["data", "show", str(tmp_path / "c.yaml")]) == 0
    (tmp_path / f"a{bad}.png").unlink()
    assert main(["data", "check", str(tmp_path / "c.yaml")]) == 1
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and "\u202e" not in said.out + said.err and r"\x1b[2J" in said.out
