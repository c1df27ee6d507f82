"""Differential privacy between sites: epsilon, ledger and clipping as on the embedded engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from short_runs import CONFIGS, SHORT
from sites import Started, Wire, locked, server_of, site_of

from fs_fedmllm import config as schema
from fs_fedmllm.aggregators.norms import l2_norm
from fs_fedmllm.algorithms import State
from fs_fedmllm.cli import main
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.privacy.masked_sum import MaskedSum
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data

CLIP = 0.05
WORDS = [*SHORT, "federate.client_num", "3", "federate.sample_client_num", "3", "fedmllm.eval.limit", "4",
         "data.splitter_args", "[{alpha: 5.0}]", "fedmllm.privacy.dp.clip_norm", str(CLIP),
         "fedmllm.privacy.dp.noise_multiplier", "1.0", "fedmllm.privacy.dp.delta", "0.01"]  # fmt: skip
SECURE = ["fedmllm.privacy.secure_aggregation.enabled", "True"]


def both(tmp_path: Path, words: list[str]) -> tuple[dict[str, Any], Federation]:
    """What the embedded engine's results say about privacy, and the pieces of the same run between sites."""
    config = schema.load(CONFIGS / "aligned_a50.yaml", [*WORDS, *words, "outdir", str(tmp_path / "embedded")])
    results, _ = run(config)
    federation = locked(Federation.build(config, prepare_data(config)))
    federation.config = replace(config, federate=replace(config.federate, mode="distributed"))
    return results["privacy"], federation


def moved(answer: State, sent: State) -> float:
    """How far an answer is from what the server sent."""
    return l2_norm({name: tensor.double() - sent[name].double() for name, tensor in answer.items()})


def check_books(tmp_path: Path, results: dict[str, Any], embedded: dict[str, Any]) -> None:
    """Report, ledger and figures of every round."""
    assert results["privacy"] == embedded  # epsilon, delta, sampling, clip norm, multipliers, releases
    ledger = (tmp_path / "server" / "privacy.jsonl").read_text().splitlines()
    assert len(ledger) == embedded["differential_privacy"]["releases"] == 2
    lines = map(json.loads, (tmp_path / "server" / "metrics.jsonl").read_text().splitlines())
    rounds = [line["epsilon"] for line in lines if line["kind"] == "round"]
    assert 0 < rounds[0] < rounds[1] == embedded["differential_privacy"]["epsilon"]


def test_differential_privacy_between_sites(tmp_path: Path, capsys) -> None:
    """Client 2 does not clip in round 1, and is named."""
    embedded, federation = both(tmp_path, [])
    wire, norms = Wire(), []
    sent: dict[int, State] = {}

    def careless(client: int, round_index: int, state: Any, carried: Any) -> ClientUpdate:
        update = federation.clients.update(client, round_index, state, carried)
        if round_index == 1:
            update = replace(update, state={n: state[n] + 2 * (t - state[n]) for n, t in update.state.items()})
        return update

    def before(client: int, message: Message) -> None:
        if message.kind == "answer":
            norms.append((message.header["round"], client, moved(message.tensors, sent[client])))

    def after(client: int, message: Message, answer: Message) -> None:
        if answer.kind == "task":
            sent[client] = dict(answer.tensors)

    wire.before, wire.after = before, after
    loop = Started(server_of(federation, tmp_path / "server", wire).run)
    turns = {1: None, 2: careless, 3: None}
    sites = [Started(site_of(federation, client, tmp_path, wire, turn).run) for client, turn in turns.items()]
    results = loop.join()
    for site in sites:
        site.join()
    check_books(tmp_path, results, embedded)
    # What leaves a site is as long as the bound: training went further, and clipping is the site's own.
    honest = [norm for index, client, norm in norms if (index, client) != (1, 2)]
    assert len(honest) == 5 and all(norm == pytest.approx(CLIP, rel=1e-3) for norm in honest)
    assert [(entry["round"], entry["client"]) for entry in results["refused"]] == [(1, 2)]
    assert "clip" in results["refused"][0]["reason"]
    assert main(["status", str(tmp_path / "server")]) == 0
    epsilon = embedded["differential_privacy"]["epsilon"]
    assert f"privacy: epsilon {epsilon:.4g} at delta" in capsys.readouterr().out


def test_differential_privacy_of_sums_that_only_open_together(tmp_path: Path, monkeypatch) -> None:
    """With secure aggregation: the server sees the mean of clipped updates, and no update."""
    embedded, federation = both(tmp_path, SECURE)
    wire, tensors, means = Wire(), set(), []
    wire.before = lambda client, message: tensors.update(message.tensors)
    unmasked = MaskedSum.mean

    def mean(self: MaskedSum) -> State:
        found = unmasked(self)
        means.append(l2_norm({name: tensor.double() for name, tensor in found.items()}))
        return found

    monkeypatch.setattr(MaskedSum, "mean", mean)
    loop = Started(server_of(federation, tmp_path / "server", wire).run)
    sites = [Started(site_of(federation, client, tmp_path, wire).run) for client in (1, 2, 3)]
    results = loop.join()
    for site in sites:
        site.join()
    check_books(tmp_path, results, embedded)
    assert results["participants"] == [[1, 2, 3]] * 2 and not results["refused"]
    assert tensors == {"masked"}
    assert len(means) == 2 and all(0 < norm <= CLIP for norm in means)
