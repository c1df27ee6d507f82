"""Aggregation rules in runs: attacks, exact LoRA, ranks per client, frozen A; and what the configuration refuses."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from fs_fedmllm.errors import ConfigError, UpdateError
from fs_fedmllm.models.export import adapter_bytes
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.run_folder import RunFolder
from fs_fedmllm.runs.session import Session
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.federated_data import prepare_data

A = "fedmllm.aggregation."
SIX = ("federate.client_num", 6, "federate.sample_client_num", 6, "data.splitter_args", "[{alpha: 50.0}]",
       "train.optimizer.lr", 1.0e-3)  # fmt: skip


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Six clients' real turns of one round, and the pieces that made them."""
    from short_runs import CONFIGS, SHORT

    from fs_fedmllm import config as schema

    words = [*SHORT, "outdir", str(tmp_path_factory.mktemp("exp")), *map(str, SIX)]
    config = schema.load(CONFIGS / "aligned_a05.yaml", words)
    federation = Federation.build(config, prepare_data(config))
    start = federation.initial_state()
    return federation, start, [federation.clients.update(client, 0, start) for client in range(1, 7)]


def attacked(update, start, kind):
    """A bad client's update in place of its honest one."""
    generator = torch.Generator().manual_seed(1)
    state = {
        "sign_flip": lambda n, t: start[n] - 10 * (t - start[n]),
        "large_norm": lambda n, t: start[n] + 1.0e4,
        "nan": lambda n, t: torch.full_like(t, math.nan),
        "gaussian": lambda n, t: start[n] + torch.randn(t.shape, generator=generator),
    }[kind]
    return dataclasses.replace(update, state={n: state(n, t) for n, t in update.state.items()})


def one_round(honest, tmp_path, updates, *words):
    """The round's mean movement, and the session."""
    federation, _, _ = honest
    from fs_fedmllm import config as schema
    from fs_fedmllm.config import to_mapping

    raw = schema.apply_overrides(to_mapping(federation.config), [str(w) for w in words])
    config = schema.from_mapping(raw)
    mine = dataclasses.replace(federation, config=config)
    session = Session(mine, RunFolder(tmp_path / f"run{len(list(tmp_path.iterdir()))}", config), Listener())
    session.begin_round()
    before = session.state.params
    for update in updates:
        session.take(update)
    session.end_round(len(updates))
    return {n: t - before[n] for n, t in session.state.params.items()}, session


def far(one, other) -> float:
    size = math.sqrt(sum(float(t.square().sum()) for t in other.values()))
    return math.sqrt(sum(float((one[n] - t).square().sum()) for n, t in other.items())) / size


@pytest.mark.parametrize("kind", ["sign_flip", "large_norm", "gaussian"])
def test_a_bad_client_spoils_the_mean_of_real_adapters_and_not_the_rules(honest, tmp_path, kind) -> None:
    _, start, updates = honest
    bad = [*updates[:2], attacked(updates[2], start, kind), *updates[3:]]
    target, _ = one_round(honest, tmp_path, [u for u in updates if u.client != 3])
    spoilt, _ = one_round(honest, tmp_path, bad)
    # Krum gives one client's update, so "held" means: no further from the honest mean than an honest client is.
    deltas = [{n: t - start[n] for n, t in u.state.items()} for u in updates if u.client != 3]
    cloud = 1.01 * max(far(delta, target) for delta in deltas)
    assert far(spoilt, target) > 1.5 * cloud
    for words in (
        ("rule", "krum", "byzantine", 1),
        ("rule", "multi_krum", "byzantine", 1),
        ("rule", "median"),
        ("rule", "trimmed_mean", "trim", 0.2),
        ("rule", "norm_bounded"),
        ("outlier_factor", 3.0),
        ("max_update_norm", 1.0),
    ):
        pairs = [A + w if i % 2 == 0 else w for i, w in enumerate(words)]
        held, session = one_round(honest, tmp_path, bad, *pairs)
        assert far(held, target) < cloud, words
        if words[0] in ("outlier_factor", "max_update_norm"):
            (refused,) = session.state.figures["refused"]
            assert refused["client"] == 3


def test_a_bound_on_scaffolds_variates(honest, tmp_path) -> None:
    """Client 3's adapter is honest and the variate that it sends beside it is a thousand times too long."""
    from fs_fedmllm.algorithms.scaffold import VARIATE, Scaffold

    federation, start, updates = honest
    generator = torch.Generator().manual_seed(2)
    shapes = {f"{VARIATE}{name}": tensor.shape for name, tensor in start.items()}
    variates = [{n: torch.randn(shape, generator=generator) for n, shape in shapes.items()} for _ in updates]
    longest = max(math.sqrt(sum(float(t.square().sum()) for t in v.values())) for v in variates)
    sent = [dataclasses.replace(u, state=u.state | v) for u, v in zip(updates, variates, strict=True)]
    loud = dataclasses.replace(updates[2], state=updates[2].state | {n: 1000 * t for n, t in variates[2].items()})
    bounds = (A + "max_update_norm", 1.0, A + "max_variate_norm", 1.01 * longest)
    pieces = (dataclasses.replace(federation, optimizer=Scaffold(1.0)), start, updates)

    def variate(others: list, *words: object) -> tuple[float, list]:
        _, session = one_round(pieces, tmp_path, others, "federate.method", "scaffold", *words)
        c = [t for n, t in session.state.server.items() if n.startswith("c.")]
        return math.sqrt(sum(float(t.square().sum()) for t in c)), session.state.figures["refused"]

    quiet, refused = variate(sent, *bounds)
    assert quiet > 0 and not refused
    spoilt, refused = variate([*sent[:2], loud, *sent[3:]])
    assert spoilt > 100 * quiet and not refused
    held, refused = variate([*sent[:2], loud, *sent[3:]], *bounds)
    assert held < 2 * quiet
    assert [entry["client"] for entry in refused] == [3] and "max_variate_norm" in refused[0]["reason"]


def test_nan_is_refused_under_every_rule(honest, tmp_path) -> None:
    _, start, updates = honest
    bad = [*updates[:2], attacked(updates[2], start, "nan"), *updates[3:]]
    for rule in ("mean", "median"):
        held, session = one_round(honest, tmp_path, bad, A + "rule", rule)
        assert session.state.figures["refused"][0]["client"] == 3
        assert all(bool(t.isfinite().all()) for t in held.values())


def test_an_update_that_is_not_whole_cannot_stop_a_robust_round(honest, tmp_path) -> None:
    _, _, updates = honest
    name = next(iter(updates[0].state))
    partial = dataclasses.replace(updates[1], state={n: t for n, t in updates[1].state.items() if n != name})
    _, session = one_round(honest, tmp_path, [updates[0], partial, *updates[2:]], A + "rule", "median")
    (refused,) = session.state.figures["refused"]
    assert refused["client"] == 2 and name in refused["reason"]


def test_refusals_that_leave_too_few_stop_the_run(honest, tmp_path) -> None:
    _, _, updates = honest
    with pytest.raises(UpdateError, match="at least 5 updates"):
        one_round(honest, tmp_path, updates[:4], A + "rule", "krum", A + "byzantine", 1)


def products(state):
    return {a: state[a.replace("lora_A", "lora_B")].double() @ state[a].double() for a in state if "lora_A" in a}


def test_exact_lora_gives_the_mean_product_where_it_has_the_rank(honest, tmp_path) -> None:
    _, start, updates = honest
    two = updates[:2]
    exact, session = one_round(honest, tmp_path, two, A + "lora", "exact")
    rows = [u.rows for u in two]
    got = products({n: start[n] + t for n, t in exact.items()})
    wanted = [products(u.state) for u in two]
    # B was zero, so each client's product is B_k A_k with A_k near the common A: rank 8 holds nearly all of it.
    for name, product in got.items():
        mean = (rows[0] * wanted[0][name] + rows[1] * wanted[1][name]) / sum(rows)
        assert float((product - mean).norm() / mean.norm()) < 0.2
    lines = (session.folder.path / "metrics.jsonl").read_text()
    assert "lora_residual" in lines and "lora_naive" in lines


def test_ranks_per_client(short_config) -> None:
    words = ("federate.client_num", 3, "federate.sample_client_num", 3, "train.optimizer.lr", 1.0e-3,
             "data.splitter_args", "[{alpha: 5.0}]", A + "lora", "exact")  # fmt: skip
    config = short_config("aligned_a05", *words, A + "ranks", "[2, 8, 4]")
    federation = Federation.build(config, prepare_data(config))
    start = federation.initial_state()
    updates = {client: federation.clients.update(client, 0, start) for client in (1, 2, 3)}
    for client, rank in ((1, 2), (2, 8), (3, 4)):
        assert {t.shape[0] for n, t in updates[client].state.items() if "lora_A" in n} == {rank}
        assert {t.shape[1] for n, t in updates[client].state.items() if "lora_B" in n} == {rank}
        assert all(bool(t.any()) for n, t in updates[client].state.items() if "lora_B" in n)  # it trained
    full = short_config("aligned_a05", *words)
    plain = Federation.build(full, federation.data).clients.update(2, 0, start)
    assert adapter_bytes(plain.state) == adapter_bytes(updates[2].state)  # the full rank is a plain turn
    results, folder = run(config)
    assert results["rounds"] == 2 and not results["refused"]
    assert results["bytes_sent"] < 2 * 2 * 3 * results["adapter_bytes"]
    wrong = dataclasses.replace(updates[1], client=3)
    session = Session(federation, RunFolder(folder.path.parent / "other", config), Listener())
    session.begin_round()
    assert session.take(updates[1]) and session.take(wrong)  # a lower rank than agreed is fine


def test_frozen_a_stays_and_halves_what_is_sent(short_config) -> None:
    config = short_config("aligned_a05", A + "lora", "frozen_a", "train.optimizer.lr", 1.0e-3)
    federation = Federation.build(config, prepare_data(config))
    start = federation.initial_state()
    update = federation.clients.update(1, 0, start)
    assert update.state and not any("lora_A" in name for name in update.state)
    live = federation.mllm.adapter.export()
    assert all(torch.equal(live[n], start[n]) for n in start if "lora_A" in n)
    assert all(p.requires_grad for p in federation.mllm.adapter.parameters)
    results, folder = run(config)
    assert results["bytes_sent"] < 2 * 2 * 2 * results["adapter_bytes"]
    from safetensors.torch import load

    end = load((folder.path / "adapter" / "adapter_model.safetensors").read_bytes())
    assert all(torch.equal(end[n], start[n]) == ("lora_A" in n) for n in start)
    server = federation.server
    opened = server.begin(0, [1], start, federation.optimizer.init(start))
    with pytest.raises(UpdateError, match="frozen in this run"):
        server.take(opened, dataclasses.replace(update, state=live))


def test_client_weights_change_the_mean(honest, tmp_path) -> None:
    _, _, updates = honest
    means = {
        w: one_round(honest, tmp_path, updates, A + "client_weights", w)[0] for w in ("default", "samples", "uniform")
    }
    assert far(means["default"], means["samples"]) == 0.0 < far(means["uniform"], means["samples"])
    on_complete_data, _ = one_round(honest, tmp_path, updates, A + "client_weights", "balanced")
    assert far(on_complete_data, means["samples"]) < 1e-5


REFUSED = {
    "needs rounds of at least 5 clients": (A + "rule", "krum", A + "byzantine", 1),
    "needs fedmllm.aggregation.byzantine": (A + "rule", "krum", "federate.sample_client_num", 5),
    "byzantine is read by krum": (A + "byzantine", 1),
    "keep is read by multi_krum": (A + "keep", 1),
    "Lower it": (A + "rule", "multi_krum", A + "byzantine", 1, A + "keep", 5, "federate.sample_client_num", 5),
    "needs rounds of at least 3": (A + "rule", "median"),
    "leaves none": (A + "rule", "trimmed_mean", A + "trim", 0.4),
    "needs 3 clients": (A + "outlier_factor", 2.0),
    "outlier_factor is 0.5; it must be above 1, or 0": (A + "outlier_factor", 0.5),
    "client_weights uniform has no effect": (
        A + "rule", "median", A + "client_weights", "uniform", "federate.sample_client_num", 3,
    ),
    "momentum, second moments": (A + "lora", "exact", "federate.method", "fedyogi"),
    "with fedmllm.server.lr 1": (A + "lora", "exact", "fedmllm.server.lr", 0.5),
    "switches.fedavg accumulate": (A + "lora", "exact", "fedmllm.switches", "{fedavg: accumulate}"),
    "no mean of products": (A + "lora", "exact", A + "rule", "median", "federate.sample_client_num", 3),
    "rotates the factors' basis": (A + "lora", "exact", "fedmllm.compression.upload", "int8"),
    "ranks needs fedmllm.aggregation.lora exact": (A + "ranks", "[1]"),
    "ranks has 1 entries": (A + "ranks", "[1]", A + "lora", "exact"),
    "client 2 the rank 9": (A + "ranks", "[1, 9]", A + "lora", "exact", "federate.client_num", 2),
    "variates on the server": (A + "rule", "median", "federate.method", "scaffold", "federate.sample_client_num", 3),
    "sum of differences on the server": (
        A + "rule", "median", "federate.method", "feddyn", "federate.sample_client_num", 3,
    ),
    "norm_action refuse": (A + "max_update_norm", 1.0, A + "norm_action", "clip", "federate.method", "feddyn"),
    "set fedmllm.aggregation.max_update_norm": (
        A + "outlier_factor", 2.0, "federate.method", "scaffold", "federate.sample_client_num", 3,
    ),
    "set both fedmllm.aggregation.max_update_norm and fedmllm.aggregation.max_variate_norm": (
        A + "max_update_norm", 1.0, "federate.method", "scaffold",
    ),
    "max_variate_norm bounds what federate.method scaffold": (A + "max_variate_norm", 1.0),
    "scaffold gives all clients equal weight": (A + "client_weights", "samples", "federate.method", "scaffold"),
    "feddyn has no server learning rate": ("federate.method", "feddyn", "fedmllm.server.lr", 0.5),
    "has nothing to aggregate": (A + "rule", "median", "federate.method", "global"),
    "one-round method": ("fedmllm.regularizer.type", "yoco"),
    "frozen_a freezes it": (
        "fedmllm.regularizer.type", "yoco", "federate.total_round_num", 1, A + "lora", "frozen_a",
    ),
    "not from federate.restore_from": (
        "fedmllm.regularizer.type", "yoco", "federate.total_round_num", 1, "federate.restore_from", "x",
    ),
    "moon compares": ("fedmllm.regularizer.type", "moon", "federate.method", "local"),
    "Set fedmllm.aggregation.rule": ("aggregator.robust_rule", "krum"),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_means_nothing_is_refused(short_config, message) -> None:
    own = () if "federate.client_num" in REFUSED[message] else ("federate.client_num", 6)
    with pytest.raises(ConfigError, match=message):
        short_config("aligned_a05", "federate.sample_client_num", 2, *own, *REFUSED[message])
