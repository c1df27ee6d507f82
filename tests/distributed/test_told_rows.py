"""What clients tell of their rows where a draw or weights by modality need it, and that it is no more than that."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from short_runs import CONFIGS, SHORT
from sites import Started, Wire, locked, server_of, site_of

from fs_fedmllm import config as schema
from fs_fedmllm.distributed.protocol import NetworkError
from fs_fedmllm.distributed.roles import introduction
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.trainer import UpdateLog
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data

WORDS = [*SHORT, "federate.client_num", "4", "federate.sample_client_num", "2", "fedmllm.eval.limit", "4",
         "data.splitter_args", "[{alpha: 5.0, image_clients: 1, text_clients: 3}]",
         "fedmllm.sampler", "modality", "fedmllm.label_prior", "1", "fedmllm.stand_ins.use", "auto",
         "federate.total_round_num", "3", "eval.freq", "3",
         "fedmllm.aggregation.client_weights", "balanced"]  # fmt: skip


def lets_in(self: Federation, state: Any, rows: Any) -> dict[str, float]:
    """The guard's question of the validation rows, answered so that stand-ins are on whatever the rows."""
    return {"image": 2.0, "text": 2.0}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, dict[str, Any]]:
    config = schema.load(CONFIGS / "cross_i3t7.yaml", [*WORDS, "outdir", str(tmp_path_factory.mktemp("embedded"))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Federation, "right_alone", lets_in)
        embedded, _ = run(config)
    assert [d["round"] for d in embedded["stand_ins"] if d["image"] and d["text"]] == [2]
    federation = locked(Federation.build(config, prepare_data(config)))
    federation.config = replace(config, federate=replace(config.federate, mode="distributed"))
    return federation, embedded


def test_a_distributed_run_draws_weighs_and_stands_in_as_one_machine_does(shared, tmp_path: Path, monkeypatch) -> None:
    federation, embedded = shared
    monkeypatch.setattr(type(federation), "right_alone", lets_in)
    wire = Wire()
    server = server_of(federation, tmp_path / "server", wire)
    federation.presence.clear()  # a server knows nothing before it is told
    loop = Started(server.run)
    sites = [Started(site_of(federation, client, tmp_path, wire).run) for client in (1, 2, 3, 4)]
    results = loop.join()
    assert results["adapter_sha256"] == embedded["adapter_sha256"]
    assert results["participants"] == embedded["participants"]
    assert results["stand_ins"] == embedded["stand_ins"]
    (pictured,) = [client for client, own in federation.presence.items() if "image" in own]
    assert all(pictured in clients for clients in results["participants"])
    for site in sites:
        site.join()


def test_kinds_are_told_where_kinds_suffice_and_nothing_where_nothing_is_asked(shared) -> None:
    federation, _ = shared
    rows, kind = len(federation.data.clients[1]), federation.data.clients[1][0].presence

    def told(*, sampler: str = "uniform", weights: str = "default", use: str = "off") -> Any:
        ours = federation.config.fedmllm
        ours = replace(
            ours,
            sampler=sampler,
            stand_ins=replace(ours.stand_ins, use=use),
            aggregation=replace(ours.aggregation, client_weights=weights),
        )
        said = introduction(replace(federation.config, fedmllm=ours), 1, federation.data)
        always = {"rows", "missing_rate", "version", "agreed", "manifest", "base", "processor"}
        assert set(said) - {"presence"} == always
        return said.get("presence")

    assert told() is told(weights="samples") is told(use="force") is None
    assert told(sampler="modality") == told(use="auto") == {kind: 1}
    assert told(weights="balanced") == told(sampler="modality", weights="complete") == {kind: rows}
    named = replace(federation.data, names={1: "Klinik Nord", 2: "Klinik Süd"})
    assert introduction(federation.config, 1, named)["name"] == "Klinik Nord"
    figures = {field.name for field in fields(UpdateLog)}  # beside an update, without secure aggregation
    assert figures == {"loss", "penalty", "grad_norm", "steps", "rows", "seconds"}


@pytest.mark.parametrize(
    "said", [None, {}, {"image": -1}, {"picture": 3}, {"image": "3"}, {"image": 10**6}, {"image": 0}, [3]]
)
def test_a_client_that_tells_nonsense_is_refused(shared, tmp_path: Path, said: Any) -> None:
    federation, _ = shared
    wire = Wire()
    server = server_of(federation, tmp_path / "server", wire)
    site = site_of(federation, 1, tmp_path, wire, presence=said)
    with pytest.raises(Exception, match="presence"):
        site.run()
    assert server.roster.get(1) is None


def test_a_server_remembers_what_it_was_told(shared, tmp_path: Path) -> None:
    """After a restart the draw does not wait for a client that is away; without it, it says for whom it waits."""
    federation, _ = shared
    wire = Wire()
    server = server_of(federation, tmp_path / "server", wire, give_up=0.0)
    federation.presence.clear()
    with pytest.raises(NetworkError, match=r"for 0 seconds client 1 has not joined.*Start it once"):
        server._learn_presence()
    server.session.state.figures["presence"] = {str(client): {"image": 5} for client in (1, 2, 3, 4)}
    server._learn_presence()
    assert federation.presence == {client: {"image": 5} for client in (1, 2, 3, 4)}
    server.session._save()
    header = json.loads((tmp_path / "server" / "checkpoint" / "state.json").read_text())
    assert header["figures"]["presence"]["4"] == {"image": 5}
    again = server_of(federation, tmp_path / "server", wire)
    assert again.session.state.figures["presence"]["4"] == {"image": 5}
