"""Differential privacy in whole runs: configuration, composition, resume."""

from __future__ import annotations

import json

import pytest
import torch

from fs_fedmllm.aggregators.norms import l2_norm
from fs_fedmllm.errors import ConfigError, PrivacyError, UpdateError
from fs_fedmllm.privacy import central
from fs_fedmllm.privacy.accountant import epsilon
from fs_fedmllm.runs import simulation
from fs_fedmllm.runs.console import closing_table
from fs_fedmllm.runs.session import Session

DP = ("fedmllm.privacy.dp.clip_norm", "0.05", "fedmllm.privacy.dp.noise_multiplier", "2.0")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("fedmllm.privacy.dp.noise_multiplier", "1"), "clip_norm is 0"),
        (("fedmllm.privacy.dp.target_epsilon", "1"), "clip_norm is 0"),
        (("fedmllm.privacy.dp.sampling", "poisson"), "has no effect"),
        (("fedmllm.privacy.dp.clip_norm", "1"), "without noise"),
        ((*DP, "fedmllm.privacy.dp.target_epsilon", "3"), "both set"),
        ((*DP, "federate.method", "local"), "federate.method is local"),
        ((*DP, "fedmllm.compression.upload", "int8"), "fedmllm.compression.error_feedback"),
        ((*DP, "federate.method", "global"), "federate.method is global"),
        ((*DP, "fedmllm.privacy.dp.delta", "0.1"), "must be below 0.1"),
        ((*DP, "fedmllm.privacy.dp.sampling", "poisson", "federate.sample_client_num", "10"), "every client"),
        ((*DP, "fedmllm.switches", "{fedavg: accumulate}"), "fedmllm.switches.fedavg"),
        ((*DP, "fedmllm.switches", "{client_sampling: round_seed}"), "client_sampling"),
        (("fedmllm.privacy.dp.accountant", "rdp"), "has no effect"),
        ((*DP, "fedmllm.privacy.dp.accountant", "pld"), r"accountant is pld.*sampling is fixed"),
        ((*DP, "fedmllm.privacy.dp.accountant", "rdp", "federate.sample_client_num", "10"), "epsilon is exact"),
        ((*DP, "fedmllm.privacy.dp.clip_norm", "-1"), "at least 0"),
    ],
)
def test_meaningless_combinations_name_the_key(short_config, words, key) -> None:
    with pytest.raises(ConfigError, match=key):
        short_config("cross_i3t7", *words)


def test_clip_is_in_the_clients_turn(federation, short_config) -> None:
    from dataclasses import replace

    start = federation.initial_state()
    free = federation.clients.update(1, 0, start)
    norm = l2_norm({n: t.double() - start[n].double() for n, t in free.state.items()})
    words = ("fedmllm.privacy.dp.clip_norm", norm / 3, "fedmllm.privacy.dp.noise_multiplier", "1")
    config = short_config("cross_i3t7", *words)
    clipped = replace(federation, config=config).clients.update(1, 0, start)
    got = {n: t.double() - start[n].double() for n, t in clipped.state.items()}
    assert l2_norm(got) == pytest.approx(norm / 3, rel=1e-3)
    for name, tensor in got.items():  # the same direction
        expected = (free.state[name].double() - start[name].double()) / 3
        torch.testing.assert_close(tensor, expected, rtol=1e-2, atol=norm * 1e-6)


def test_run_says_epsilon_everywhere(short_config) -> None:
    config = short_config("cross_i3t7", *DP, "federate.sample_client_num", "3", "federate.method", "fedadam")
    results, folder = simulation.run(config)
    privacy = said(results)
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    rounds = [line["epsilon"] for line in lines if line["kind"] == "round"]
    assert len(rounds) == 2 and 0 < rounds[0] < rounds[1] == privacy["epsilon"]
    assert privacy["releases"] == 2 and privacy["neighbouring"] == "replace one client"
    assert privacy["delta"] == pytest.approx(10**-1.1) and privacy["reproducible_bytes"] is False
    assert f"privacy: epsilon {privacy['epsilon']:.4g} at delta" in closing_table(results, "x")
    # A second run of the same configuration has other noise.
    again, _ = simulation.run(config)
    assert again["adapter_sha256"] != results["adapter_sha256"]


def test_poisson_rounds_of_any_size(short_config, monkeypatch) -> None:
    sizes = iter([[], [2, 5, 7]])
    monkeypatch.setattr(central, "draw", lambda *_: next(sizes))
    config = short_config(
        "cross_i3t7", *DP, "federate.sample_client_num", "2", "fedmllm.privacy.dp.sampling", "poisson"
    )
    results, _ = simulation.run(config)
    assert results["rounds"] == 2 and said(results)["releases"] == 2
    assert said(results)["accountant"] == "pld"


def test_target_epsilon(short_config) -> None:
    config = short_config(
        *("cross_i3t7", "fedmllm.privacy.dp.clip_norm", "0.05", "fedmllm.privacy.dp.target_epsilon", "5"),
        *("federate.sample_client_num", "10", "federate.total_round_num", "1"),
    )
    results, _ = simulation.run(config)
    assert 4.9 < said(results)["epsilon"] <= 5.0


def said(results):
    return results["privacy"]["differential_privacy"]


class Killed(BaseException):
    """Stands for kill -9: no handler of the program sees it."""


def test_kill_between_noise_and_checkpoint_counts_twice(short_config, monkeypatch) -> None:
    config = short_config("cross_i3t7", *DP, "federate.sample_client_num", "2", "expname", "killed")
    original = Session.checkpoint
    drawn: list[dict[str, torch.Tensor]] = []
    noise = central.add_noise

    def spy(mean, std, *rest):
        assert len(ledger.read_text().splitlines()) == len(drawn) + 1  # on disk before the noise exists
        assert std == pytest.approx(2.0 * 0.05 / 2)
        noisy = noise(mean, std, *rest)
        drawn.append({name: noisy[name].double() - mean[name] for name in mean})
        return noisy

    from pathlib import Path

    ledger = Path(config.outdir) / "killed" / "privacy.jsonl"
    monkeypatch.setattr(central, "add_noise", spy)

    def die(self: Session) -> None:
        raise Killed

    monkeypatch.setattr(Session, "checkpoint", die)
    with pytest.raises(Killed):
        simulation.run(config)  # round 0's noisy adapter may have been seen
    monkeypatch.setattr(Session, "checkpoint", original)
    results, _ = simulation.run(config)
    assert results["rounds"] == 2 and said(results)["releases"] == 3
    uninterrupted = epsilon(results_releases(ledger)[:2], said(results)["delta"])
    assert said(results)["epsilon"] > uninterrupted
    first, second = (torch.cat([t.flatten() for t in d.values()]) for d in drawn[:2])
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.05  # the noise was drawn anew


def results_releases(path):
    from fs_fedmllm.privacy.ledger import Ledger

    return Ledger(path, 10**-1.1).releases


def test_resume_with_target_epsilon_still_keeps_it(short_config, monkeypatch) -> None:
    words = ("fedmllm.privacy.dp.clip_norm", "0.05", "fedmllm.privacy.dp.target_epsilon", "6", "expname", "again")
    config = short_config("cross_i3t7", *words, "federate.sample_client_num", "10", "train.local_update_steps", "1")
    original = Session.checkpoint

    def die(self: Session) -> None:
        raise Killed

    monkeypatch.setattr(Session, "checkpoint", die)
    with pytest.raises(Killed):
        simulation.run(config)
    monkeypatch.setattr(Session, "checkpoint", original)
    results, _ = simulation.run(config)
    assert said(results)["releases"] == 3 and len(said(results)["noise_multipliers"]) == 2
    assert 5.9 < said(results)["epsilon"] <= 6.0


def test_a_full_disk_draws_no_noise(short_config, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fs_fedmllm.privacy.ledger.os.fsync", full)
    monkeypatch.setattr(central, "add_noise", lambda *_: pytest.fail("noise was drawn"))
    monkeypatch.setattr("fs_fedmllm.runs.run_folder.write_atomically", lambda *_: None)
    monkeypatch.setattr("fs_fedmllm.runs.opening.write_manifest", lambda *_: None)
    with pytest.raises(OSError, match="No space"):
        simulation.run(short_config("cross_i3t7", *DP, "federate.sample_client_num", "2"))


def test_without_the_clients_half_the_run_stops(short_config, monkeypatch) -> None:
    """The mutant of a rival: noise is calibrated to a clip that no client does."""
    monkeypatch.setattr("fs_fedmllm.rounds.client.clip_update", lambda start, state, bound: state)
    config = short_config(
        *("cross_i3t7", "fedmllm.privacy.dp.clip_norm", "1e-4", "fedmllm.privacy.dp.noise_multiplier", "1"),
        *("federate.sample_client_num", "2", "train.optimizer.lr", "1e-3"),
    )
    with pytest.raises(UpdateError, match="it did not clip"):
        simulation.run(config)


def test_a_missing_library_is_named(monkeypatch) -> None:
    import sys

    from fs_fedmllm.privacy.accountant import Release, epsilon

    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(PrivacyError, match=r"fs-fedmllm\[privacy\]"):
        epsilon([Release(1.0, 10, 10, "fixed")], 1e-2)
