"""A client's own folder: complete, inside itself, and the same rows."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import pytest

from fs_fedmllm import config as schema
from fs_fedmllm.data.client_folders import read_client, write_client
from fs_fedmllm.data.images import image_sha256
from fs_fedmllm.data.registry import load_dataset
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import DataError


def _bare(row, image=None):
    return dataclasses.replace(row, source="", image=image and image_sha256(row.image) if row.image else None)


@pytest.mark.parametrize("how", ["link", "copy"])
def test_every_client_gets_its_rows_and_only_its_images(cli, own_config, own_vqa, tmp_path, how):
    from fs_fedmllm.commands.data_split import federated

    out, config = tmp_path / "out", own_config()
    assert cli("data", "split", config, "--out", out, "--per-client-folders", "--images", how)[0] == 0
    data = federated(schema.load(config))
    expected = {client: [_bare(row, True) for row in rows] for client, rows in data.clients.items()}
    links = {os.stat(path).st_nlink for path in out.glob("client_*/images/*")}
    assert (max(links) > 1) == (how == "link")
    moved = tmp_path / "elsewhere"
    shutil.copytree(out, moved)
    shutil.rmtree(own_vqa)
    shutil.rmtree(out)
    folders = sorted(moved.glob("client_*"), key=lambda path: int(path.name[7:]))
    assert [folder.name for folder in folders] == [f"client_{c}" for c in range(1, 5)]
    for client, folder in enumerate(folders, 1):
        rows, head = read_client(folder)
        assert [_bare(row, True) for row in rows] == expected[client]
        assert head["client"] == client
        assert head["manifest_sha256"] == data.manifest.sha256
        assert {row.image for row in rows if row.image} == {str(p) for p in folder.glob("images/*")}


def test_a_client_that_may_see_no_images_gets_none(cli, tmp_path):
    words = ("--out", tmp_path, "--per-client-folders")
    assert cli("data", "split", "configs/cross_i3t7.yaml", *words)[0] == 0
    with_images = [folder for folder in tmp_path.glob("client_*") if list(folder.glob("images/*"))]
    assert len(with_images) == 3
    for folder in tmp_path.glob("client_*"):
        if folder not in with_images:
            assert "png" not in (folder / "rows.jsonl").read_text()


def test_the_records_of_a_folder_are_read_back_by_their_adapter(cli, tmp_path):
    assert cli("data", "split", "configs/missing_b50.yaml", "--out", tmp_path, "--per-client-folders")[0] == 0
    rows, head = read_client(tmp_path / "client_2")
    options = {"template": head["template"], "train": "records.json"}
    read = load_dataset("records", tmp_path / "client_2", options).train
    assert [(r.image, r.text, r.answer, r.label) for r in read] == [(r.image, r.text, r.answer, r.label) for r in rows]


def test_a_turn_on_the_folder_gives_the_bytes_of_a_turn_on_the_whole(federation, tmp_path):
    client = 2
    rows = federation.data.clients[client]
    write_client(tmp_path, rows, federation.data.template, {"client": client})
    own, _ = read_client(tmp_path)
    state = federation.initial_state()
    there = federation.clients.update(client, 0, state).state
    whole = federation.data
    federation.data = dataclasses.replace(whole, clients={client: own})
    try:
        here = federation.clients.update(client, 0, state).state
    finally:
        federation.data = whole
    assert all((there[name] == here[name]).all() for name in there)


def test_writing_again_leaves_no_image_of_another_client_behind(tmp_path, own_vqa):
    rows = [row for row in load_dataset("own", own_vqa, {"template": "medical"}).train if row.image]
    template = load_template("medical")
    assert write_client(tmp_path / "c", rows, template, {}) > 1
    assert write_client(tmp_path / "c", rows[:1], template, {}) == len(list(tmp_path.glob("c/images/*"))) == 1


def test_a_folder_with_another_split_is_left_alone(cli, own_config, tmp_path):
    config = own_config()
    assert cli("data", "split", config, "--out", tmp_path / "out")[0] == 0
    assert cli("data", "split", config, "--out", tmp_path / "out")[0] == 0
    code, said = cli("data", "split", config, "--out", tmp_path / "out", "seed", "5")
    assert code == 2
    assert "holds another split" in said


def test_an_empty_text_stays_a_text(tmp_path):
    template = load_template("crisismmd")
    row = Sample("1", None, "", template.answer(7), label=7)
    write_client(tmp_path, [row], template, {})
    assert read_client(tmp_path)[0][0].presence == "text"


def test_changed_rows_and_paths_out_of_the_folder_are_refused(tmp_path, own_vqa):
    rows = load_dataset("own", own_vqa, {"template": "medical"}).train[:4]
    write_client(tmp_path / "c", rows, load_template("medical"), {})
    path = tmp_path / "c/rows.jsonl"
    text = path.read_text()
    path.write_text(text.replace("no", "yes", 1))
    with pytest.raises(DataError, match="not those that client"):
        read_client(tmp_path / "c")
    row = json.loads(text.splitlines()[0]) | {"image": "../../secret.png"}
    path.write_text(json.dumps(row) + "\n")
    head = json.loads((tmp_path / "c/client.json").read_text()) | {"rows_sha256": image_sha256(str(path))}
    (tmp_path / "c/client.json").write_text(json.dumps(head))
    with pytest.raises(DataError, match="leaves the data folder"):
        read_client(tmp_path / "c")
