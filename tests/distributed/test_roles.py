"""What each site of a distributed run reads: its own folder, its share of the whole data set, or its own rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from short_runs import CONFIGS

from fs_fedmllm import config as schema
from fs_fedmllm.cli import main
from fs_fedmllm.distributed.roles import agreement, client_data, introduction, server_data, split_of_clients
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.scenarios.federated_data import prepare_data


def load(name: str, *words: str) -> schema.Config:
    return schema.load(CONFIGS / f"{name}.yaml", [*words, "federate.mode", "distributed"])


@pytest.mark.parametrize("name", ["cross_i3t7", "missing_b50", "hybrid_p60"])
def test_a_client_with_the_whole_data_set_takes_its_share(name: str) -> None:
    """The rows, and what they show, that the client has on one machine; nothing of anybody else's."""
    config = load(name)
    whole = prepare_data(config)
    server = server_data(config)
    assert not server.clients and not server.dataset.train
    assert server.manifest_sha256 == split_of_clients(server) == whole.manifest.sha256
    for client, rows in whole.clients.items():
        found, data = client_data(config, client)
        assert found == client and list(data.clients) == [client]
        assert list(data.clients[client]) == list(rows) == list(data.dataset.train)
        assert data.manifest_sha256 == whole.manifest.sha256
    said = introduction(config, 1, client_data(config, 1)[1])
    assert said["manifest"] == whole.manifest.sha256 and said["rows"] == len(whole.clients[1])


def test_further_test_sets_are_the_servers_own_affair() -> None:
    config, plain = load("cross_i3t7", "fedmllm.test_sets", "{panel: {type: digits_panel}}"), load("cross_i3t7")
    assert len(server_data(config).test_sets["panel"].rows) == 360
    elsewhere = load("cross_i3t7", "fedmllm.test_sets", "{gone: {type: slake, root: /nowhere}}")
    _, data = client_data(elsewhere, 1)  # a client reads none, so that what it names need not be there
    assert data.test_sets == {}
    assert agreement(elsewhere, data.template) == agreement(config, data.template) == agreement(plain, data.template)
    with pytest.raises(ConfigError, match=r"fedmllm\.test_sets\.gone\.root: /nowhere is not a folder"):
        server_data(elsewhere)


def test_own_rows_are_the_clients_all_of_them() -> None:
    config = load("cross_i3t7", "fedmllm.network.own_rows", "True")
    _, data = client_data(config, 3)
    assert len(data.clients[3]) == len(prepare_data(config).dataset.train)
    assert introduction(config, 3, data)["manifest"] == "" and split_of_clients(server_data(config)) == ""


def test_without_an_id_and_without_a_dealt_folder_a_client_is_refused() -> None:
    config = load("cross_i3t7")
    with pytest.raises(ConfigError, match=r"not clear which client this is.*--id \(distribute\.data_idx\)"):
        client_data(config)
    with pytest.raises(ConfigError, match=r"no client 11: federate\.client_num is 10"):
        client_data(config, 11)


def test_a_folder_of_another_site_is_refused(tmp_path: Path, capsys) -> None:
    words = ["data", "split", str(CONFIGS / "cross_i3t7.yaml"), "--out", str(tmp_path), "--per-client-folders"]
    assert main(words) == 0
    config = load("cross_i3t7")

    def at(folder: Path) -> schema.Config:
        return replace(config, data=replace(config.data, root=str(folder)))

    for read in (client_data, server_data):
        with pytest.raises(ConfigError, match=r"holds the folders of all sites; name .*client_1 or .*server"):
            read(at(tmp_path))
    with pytest.raises(ConfigError, match="is the server's folder; those of clients are client_1"):
        client_data(at(tmp_path / "server"), 2)
    with pytest.raises(ConfigError, match=r"is a client's folder; the server's is named 'server'"):
        server_data(at(tmp_path / "client_2"))
    with pytest.raises(ConfigError, match="is the folder of client 2, not of client 3"):
        client_data(at(tmp_path / "client_2"), 3)
    # A dealt folder and a share of the whole are the same rows, and one server takes both.
    dealt, share = client_data(at(tmp_path / "client_2"))[1], client_data(config, 2)[1]
    assert dealt.split == share.split == server_data(config).split
    assert [(row.text, bool(row.image), row.label) for row in dealt.clients[2]] == [
        (row.text, bool(row.image), row.label) for row in share.clients[2]
    ]


def test_the_commands_refuse_what_cannot_be(tmp_path: Path, capsys) -> None:
    config = str(CONFIGS / "cross_i3t7.yaml")
    assert main(["client", config, "--data", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["client", config, "--id", "0"]) == 2
    assert "client ids begin with 1" in capsys.readouterr().err
    assert json.dumps(schema.to_mapping(load("cross_i3t7"))["fedmllm"]["network"]["own_rows"]) == "false"
