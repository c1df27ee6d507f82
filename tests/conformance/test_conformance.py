"""Our own algorithms pass the suite that others can run on theirs."""

import os

import pytest
import torch

from fs_fedmllm import algorithms
from fs_fedmllm.aggregators import RunningMean
from fs_fedmllm.algorithms import OPTIMIZERS, build_server_optimizer
from fs_fedmllm.algorithms.feddyn import FedDynConfig
from fs_fedmllm.algorithms.proximal import Penalty
from fs_fedmllm.config.profiles import profile_switches
from fs_fedmllm.conformance import (
    CHECKS,
    CLIENT_CHECKS,
    FEDERATED_CHECKS,
    NotApplicable,
    OurAlgorithm,
    certify,
    check_trajectory,
    toy_training,
)
from fs_fedmllm.conformance.__main__ import main
from fs_fedmllm.conformance.references import REFERENCES, WEIGHTING

SETTINGS = {
    "defaults": {},
    "paper": {"lr": 1e-3, "switches": profile_switches("paper")},
    "fixed": {"lr": 0.5, "beta1": 0.5, "beta2": 0.9, "tau": 1e-2, "switches": profile_switches("fixed")},
}


#: FedDyn's server adds up all differences: there are no hyper-parameters that make it FedAvg.
NEVER_FEDAVG = {("feddyn", "equals_fedavg"), ("feddyn", "centralised")}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("method", OPTIMIZERS)
def test_server_algorithms(method, settings, check):
    server = OPTIMIZERS[method](**settings)
    if (method, check) in NEVER_FEDAVG:
        with pytest.raises(NotApplicable):
            CHECKS[check](server, RunningMean)
    else:
        CHECKS[check](server, RunningMean)


@pytest.mark.parametrize("check", FEDERATED_CHECKS.values(), ids=FEDERATED_CHECKS)
@pytest.mark.parametrize("method", ["scaffold", "feddyn"])
def test_algorithms_with_a_part_on_the_client(method, check):
    parameters = FedDynConfig(alpha=0.5)
    server = build_server_optimizer(method, lr=1, beta1=0, beta2=0, tau=1, switches={}, parameters=parameters)
    check(OurAlgorithm(server, parameters))


@pytest.mark.parametrize("check", CLIENT_CHECKS.values(), ids=CLIENT_CHECKS)
def test_client_penalty(check):
    check(Penalty)


def test_every_method_has_a_reference():
    assert set(REFERENCES) == set(WEIGHTING) == set(OPTIMIZERS) == set(UPSTREAM_FAILURES) | NEW_METHODS


#: What the authors' rules fail: the doubling FedAvg even the no-op, the others only their papers' numbers.
UPSTREAM_FAILURES = {
    "fedavg": {"noop", "equals_fedavg", "centralised", "trajectory"},
    "fedavgm": {"trajectory"},
    "fedadagrad": {"trajectory"},
    "fedadam": {"trajectory"},
    "fedyogi": {"trajectory"},
}
NEW_METHODS = {"scaffold", "feddyn"}  # the authors have none


@pytest.mark.parametrize("method", UPSTREAM_FAILURES)
def test_the_authors_rules_fail_where_they_differ_from_the_papers(method):
    verdicts = certify(OPTIMIZERS[method](switches=profile_switches("upstream")))
    assert {name for name, verdict in verdicts.items() if verdict != "passed"} == UPSTREAM_FAILURES[method]


def federate(method, penalty, **hyper):
    """Ten rounds of three toy clients with unequal rows."""
    server = OPTIMIZERS[method](**hyper)
    params = {"weight": torch.zeros(4, 3), "bias": torch.zeros(4)}
    state = server.init(params)
    for index in range(10):
        mean = RunningMean(params)
        for client, rows in ((1, 10), (2, 3), (3, 1)):
            steps = range(100 * client + 5 * index, 100 * client + 5 * index + 5)
            mean.add(client, float(rows), toy_training(params, steps, penalty))
        params, state = server.step(params, state, mean.mean())
    return params


def test_fedprox_with_mu_0_is_fedavg():
    plain, prox = federate("fedavg", None), federate("fedavg", Penalty(0.0, (0, 1)))
    assert all(torch.equal(plain[name], prox[name]) for name in plain)
    none = federate("fedavg", Penalty(0.0, ()))
    assert all(torch.equal(plain[name], none[name]) for name in plain)
    pulled = federate("fedavg", Penalty(0.5, (0, 1)))
    assert not any(torch.equal(plain[name], pulled[name]) for name in plain)


def test_fedavgm_without_momentum_at_learning_rate_1_is_fedavg_to_the_bit():
    plain, momentum = federate("fedavg", None), federate("fedavgm", None, lr=1.0, beta1=0.0)
    assert all(torch.equal(plain[name], momentum[name]) for name in plain)


def test_an_algorithm_of_your_own_needs_its_own_reference():
    class Mine(OPTIMIZERS["fedavg"]):
        name = "mine"

    verdicts = certify(Mine())
    assert verdicts["trajectory"].startswith("not applicable")
    assert verdicts["equals_fedavg"].startswith("not applicable")
    assert {v for n, v in verdicts.items() if n not in ("trajectory", "equals_fedavg", "centralised")} == {"passed"}
    with pytest.raises(NotApplicable, match="'mine'"):
        check_trajectory(Mine())
    check_trajectory(Mine(), RunningMean, REFERENCES["fedavg"])
    with pytest.raises(AssertionError, match="the reference gives 7 values for 8 rounds"):
        check_trajectory(Mine(), RunningMean, lambda *known: REFERENCES["fedavg"](*known)[:-1])
    with pytest.raises(AssertionError, match="the paper's update gives"):
        check_trajectory(Mine(), RunningMean, REFERENCES["fedavgm"])


def test_command_line(forks, tmp_path):
    line = ["-m", "fs_fedmllm.conformance", "fs_fedmllm.algorithms:FedYogi"]
    done = forks.run(line, tmp_path, os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("passed") == len(CHECKS)


def test_command_line_verdicts(capsys, monkeypatch):
    class Broken(OPTIMIZERS["fedavg"]):
        def step(self, params, state, mean_delta):
            return {name: 2 * p for name, p in params.items()}, state

    monkeypatch.setattr(algorithms, "Broken", Broken, raising=False)
    assert main(["fs_fedmllm.algorithms:Broken"]) == 1
    assert "noop           FAILED: clients changed nothing" in capsys.readouterr().out
    assert main(["fs_fedmllm.algorithms:NoSuch"]) == 2
    assert "cannot be imported" in capsys.readouterr().err
    assert main(["FedYogi"]) == 2
    assert "module:Class" in capsys.readouterr().err
