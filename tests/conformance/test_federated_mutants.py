"""Wrong SCAFFOLDs and FedDyns, as published code has them: each must fail, and by the check that names its fault."""

import pytest
import torch

from fs_fedmllm.algorithms import FedDyn, Scaffold
from fs_fedmllm.algorithms.feddyn import FedDynClient, FedDynConfig
from fs_fedmllm.algorithms.scaffold import ScaffoldClient
from fs_fedmllm.conformance import FEDERATED_CHECKS, OurAlgorithm


class NeverComputed(ScaffoldClient):
    """The name is accepted and no client ever computes a variate."""

    def variates(self):
        return {name: torch.zeros_like(v) for name, v in super().variates().items()}


class SignFlipped(ScaffoldClient):
    def begin(self, received, kept, start):
        start = super().begin(received, kept, start)
        self._shift = [-shift for shift in self._shift]
        return start


class MeanOfCorrected(ScaffoldClient):
    """Option II without its -c + c_i: the mean of the corrected gradients."""

    def variates(self):
        right = super().variates()
        return {name: v + shift for (name, v), shift in zip(right.items(), self._shift, strict=True)}


class SumOfGradients(ScaffoldClient):
    """Forgets to divide by the number of steps."""

    def variates(self):
        return dict(zip(super().variates(), self._sum, strict=True))


class NoParticipationShare(Scaffold):
    """c moves as if every client had taken part."""

    def joined(self, state, share):
        return state


class ReplacesC(Scaffold):
    def step(self, params, state, mean_delta):
        return super().step(params, state | {"c.w": torch.zeros_like(state["c.w"])}, mean_delta)


class NoLinearTerm(FedDynClient):
    """FedProx under another name."""

    def begin(self, received, kept, start):
        start = super().begin(received, kept, start)
        self._moved = [torch.zeros_like(g) for g in self._moved]
        return start


class LinearTermFlipped(FedDynClient):
    def begin(self, received, kept, start):
        start = super().begin(received, kept, start)
        self._moved = [-g for g in self._moved]
        return start


class HistoryFlipped(FedDynClient):
    def finish(self, trained, sent):
        right = self._start
        self._start = trained
        try:
            return sent, super().finish(right, sent)[1]
        finally:
            self._start = right


class ForgetsHistory(FedDynClient):
    def finish(self, trained, sent):
        self._gradients = {name: torch.zeros_like(g) for name, g in self._gradients.items()}
        return super().finish(trained, sent)


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
    parameters = FedDynConfig(alpha=0.5)
    if issubclass(mutant, ScaffoldClient):
        monkeypatch.setattr(Scaffold, "client", lambda given, context: mutant(context))
        server = Scaffold()
    elif issubclass(mutant, FedDynClient):
        monkeypatch.setattr(FedDyn, "client", lambda given, context: mutant(given.alpha, context))
        server = FedDyn(alpha=0.5)
    else:
        server = mutant(alpha=0.5) if issubclass(mutant, FedDyn) else mutant()
    with pytest.raises(AssertionError):
        FEDERATED_CHECKS[expected](OurAlgorithm(server, parameters))
