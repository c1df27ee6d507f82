"""Wrong SCAFFOLDs and FedDyns, as published code has them: each must fail, and by the check that names its fault."""

import pytest
import torch

from fs_fedmllm import client_part
from fs_fedmllm.aggregation import FedDyn, Scaffold
from fs_fedmllm.conformance import FEDERATED_CHECKS, OurAlgorithm
from fs_fedmllm.training.feddyn import FedDynCorrection
from fs_fedmllm.training.scaffold import ScaffoldCorrection


class NeverComputed(ScaffoldCorrection):
    """The name is accepted and no client ever computes a variate."""

    def variate(self):
        return [torch.zeros_like(total) for total in self._sum]


class SignFlipped(ScaffoldCorrection):
    def __init__(self, shift):
        super().__init__([-tensor for tensor in shift])


class MeanOfCorrected(ScaffoldCorrection):
    """Option II without its -c + c_i: the mean of the corrected gradients."""

    def variate(self):
        return [v + shift for v, shift in zip(super().variate(), self._shift, strict=True)]


class SumOfGradients(ScaffoldCorrection):
    """Forgets to divide by the number of steps."""

    def variate(self):
        return list(self._sum)


class NoParticipationShare(Scaffold):
    """c moves as if every client had taken part."""

    def joined(self, state, share):
        return state


class ReplacesC(Scaffold):
    def step(self, params, state, mean_delta):
        return super().step(params, state | {"c.w": torch.zeros_like(state["c.w"])}, mean_delta)


class NoLinearTerm(FedDynCorrection):
    """FedProx under another name."""

    def add_gradient(self, parameters, anchors, step, steps):
        zeros = [torch.zeros_like(g) for g in self.gradients]
        return FedDynCorrection(self.alpha, zeros).add_gradient(parameters, anchors, step, steps)


class LinearTermFlipped(FedDynCorrection):
    def add_gradient(self, parameters, anchors, step, steps):
        flipped = FedDynCorrection(self.alpha, [-g for g in self.gradients])
        return flipped.add_gradient(parameters, anchors, step, steps)


class HistoryFlipped(FedDynCorrection):
    def next_gradients(self, trained, anchors):
        return super().next_gradients(anchors, trained)


class ForgetsHistory(FedDynCorrection):
    def next_gradients(self, trained, anchors):
        zeros = [torch.zeros_like(g) for g in self.gradients]
        return FedDynCorrection(self.alpha, zeros).next_gradients(trained, anchors)


class NoServerCorrection(FedDyn):
    """The plain mean: h is kept and never used."""

    def step(self, params, state, mean_delta):
        _, moved = super().step(params, state, mean_delta)
        return {name: params[name] + delta for name, delta in mean_delta.items()}, moved


class EveryoneTookPart(FedDyn):
    def joined(self, state, share):
        return state


MUTANTS = {
    NeverComputed: "server_sum",
    SignFlipped: "drift",
    MeanOfCorrected: "drift",
    SumOfGradients: "drift",
    NoParticipationShare: "server_sum",
    ReplacesC: "server_sum",
    NoLinearTerm: "drift",
    LinearTermFlipped: "drift",
    HistoryFlipped: "server_sum",
    ForgetsHistory: "server_sum",
    NoServerCorrection: "drift",
    EveryoneTookPart: "server_sum",
}


@pytest.mark.parametrize(("mutant", "expected"), MUTANTS.items(), ids=lambda x: getattr(x, "__name__", x))
def test_wrong_algorithms_are_caught(mutant, expected, monkeypatch) -> None:
    servers = {ScaffoldCorrection: Scaffold(), FedDynCorrection: FedDyn(alpha=0.5)}
    if issubclass(mutant, ScaffoldCorrection | FedDynCorrection):
        base = ScaffoldCorrection if issubclass(mutant, ScaffoldCorrection) else FedDynCorrection
        monkeypatch.setattr(client_part, base.__name__, mutant)
        server = servers[base]
    else:
        server = mutant(alpha=0.5) if issubclass(mutant, FedDyn) else mutant()
    caught = set()
    for name, check in FEDERATED_CHECKS.items():
        try:
            check(OurAlgorithm(server))
        except AssertionError:
            caught.add(name)
    assert expected in caught
