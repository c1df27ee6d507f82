"""The suite catches what real code bases got wrong: each mutant must fail, and by the check that names its fault."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from fs_fedmllm.aggregators import RunningMean
from fs_fedmllm.algorithms import OPTIMIZERS, FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from fs_fedmllm.algorithms.proximal import Penalty
from fs_fedmllm.conformance import CHECKS, CLIENT_CHECKS, NotApplicable

# Server optimizers --------------------------------------------------------------------------------------------------


class YogiSignFlipped(FedYogi):
    def second_moment(self, v, square):
        return v + (1 - self.beta2) * square * torch.sign(v - square)


class YogiSignOfMomentum(FedYogi):
    """sign(m - Delta^2) in place of sign(v - Delta^2), as one published code base has it."""

    def step(self, params, state, mean_delta):
        new, moved = super().step(params, state, mean_delta)
        for name, delta in mean_delta.items():
            m, square = moved[f"m.{name}"], delta.square()
            v = state[f"v.{name}"] - (1 - self.beta2) * square * torch.sign(m - square)
            moved[f"v.{name}"] = v
            new[name] = params[name] + self.lr * m / (v.sqrt() + self.tau)
        return new, moved


class YogiIsAdam(FedYogi):
    def second_moment(self, v, square):
        return self.beta2 * v + (1 - self.beta2) * square


class AdamBetasSwapped(FedAdam):
    def second_moment(self, v, square):
        return (1 - self.beta2) * v + self.beta2 * square


class AdamBiasCorrected(FedAdam):
    """Adam as for training, and as Flower has it: Algorithm 2 has no bias correction."""

    def step(self, params, state, mean_delta):
        new, moved = super().step(params, state, mean_delta)
        t = float(moved["round"])
        for name in mean_delta:
            m = moved[f"m.{name}"] / (1 - self.beta1**t)
            v = moved[f"v.{name}"] / max(1 - self.beta2**t, 1e-12)
            new[name] = params[name] + self.lr * m / (v.sqrt() + self.tau)
        return new, moved


class AdamFromZeroSecondMoment(FedAdam):
    def init(self, params):
        return super().init(params) | {f"v.{name}": torch.zeros_like(p) for name, p in params.items()}


class AdamTauUnderTheRoot(FedAdam):
    def step(self, params, state, mean_delta):
        new, moved = super().step(params, state, mean_delta)
        for name in mean_delta:
            new[name] = params[name] + self.lr * moved[f"m.{name}"] / (moved[f"v.{name}"] + self.tau).sqrt()
        return new, moved


class _SquareOfMomentum:
    """v from m^2 in place of Delta^2: the authors' code."""

    def step(self, params, state, mean_delta):
        moved, new = dict(state), dict(params)
        for name, delta in mean_delta.items():
            m = self.beta1 * state[f"m.{name}"] + (1 - self.beta1) * delta
            v = self.second_moment(state[f"v.{name}"], m.square())
            moved |= {f"m.{name}": m, f"v.{name}": v}
            new[name] = params[name] + self.lr * m / (v.sqrt() + self.tau)
        moved["round"] = state["round"] + 1
        return new, moved


class AdamSquareOfMomentum(_SquareOfMomentum, FedAdam):
    pass


class YogiSquareOfMomentum(_SquareOfMomentum, FedYogi):
    pass


class AdagradSquareOfMomentum(_SquareOfMomentum, FedAdagrad):
    pass


class AdagradForgets(FedAdagrad):
    def second_moment(self, v, square):
        return square


class AdagradWithoutMomentum(FedAdagrad):
    def first_moment(self, m, delta, first):
        return delta


class _FirstDeltaFull:
    def first_moment(self, m, delta, first):
        return delta if first else super().first_moment(m, delta, first)


class AdamFirstDeltaFull(_FirstDeltaFull, FedAdam):
    pass


class AdamWeighsByRows(FedAdam):
    weighting: ClassVar[str] = "samples"


class FedAvgUniform(FedAvg):
    weighting: ClassVar[str] = "uniform"


class FedAvgFlagForgotten(FedAvg):
    """The authors' FedAvg: all tensors but the first become old + mean."""

    def step(self, params, state, mean_delta):
        new, state = super().step(params, state, mean_delta)
        first = next(iter(params))
        return {n: t if n == first or n not in mean_delta else t + params[n] for n, t in new.items()}, state


class FedAvgAgainstTheDelta(FedAvg):
    def step(self, params, state, mean_delta):
        return super().step(params, state, {n: -d for n, d in mean_delta.items()})


class FedAvgInPlace(FedAvg):
    def step(self, params, state, mean_delta):
        for name, delta in mean_delta.items():
            params[name].add_(delta, alpha=self.lr)
        return params, state


class FedAvgLosesTheSignOfZero(FedAvg):
    def step(self, params, state, mean_delta):
        return {n: p + self.lr * mean_delta[n] if n in mean_delta else p for n, p in params.items()}, state


class FedAvgMovesWhatNobodySent(FedAvg):
    def step(self, params, state, mean_delta):
        last = list(mean_delta.values())[-1]
        full = {n: mean_delta.get(n, last.mean().expand_as(p)) for n, p in params.items()}
        return super().step(params, state, full)


class FedAvgDependsOnTheOrderOfNames(FedAvg):
    def step(self, params, state, mean_delta):
        first = next(iter(mean_delta))
        new, state = super().step(params, state, mean_delta)
        return new | {first: params[first] + 0.5 * mean_delta[first]}, state


class FedAvgInDoublePrecision(FedAvg):
    def step(self, params, state, mean_delta):
        return super().step({n: p.double() for n, p in params.items()}, state, mean_delta)


@dataclass(frozen=True)
class FedAvgMDamped(FedAvgM):
    """beta m + (1 - beta) Delta: ten times slower than Hsu et al."""

    def step(self, params, state, mean_delta):
        return super().step(params, state, {n: (1 - self.beta1) * d for n, d in mean_delta.items()})


class FedAvgMNesterov(FedAvgM):
    def step(self, params, state, mean_delta):
        _, moved = super().step(params, state, mean_delta)
        return {
            n: p + self.lr * (self.beta1 * moved[f"m.{n}"] + mean_delta[n]) if n in mean_delta else p
            for n, p in params.items()
        }, moved


class FedAvgMForgetsMomentum(FedAvgM):
    def step(self, params, state, mean_delta):
        new, _ = super().step(params, state, mean_delta)
        return new, state | {"round": state["round"] + 1}


class FedAvgMHiddenState(FedAvgM):
    """Keeps its momentum in the object, where no checkpoint finds it."""

    memory: ClassVar[dict[str, torch.Tensor]] = {}

    def init(self, params):
        self.memory.clear()
        return super().init(params)

    def step(self, params, state, mean_delta):
        new, moved = super().step(params, state | {k: t for k, t in self.memory.items() if k in state}, mean_delta)
        self.memory.update({k: t for k, t in moved.items() if k != "round"})
        return new, state | {"round": moved["round"]}


class FedAvgMNotSerialisable(FedAvgM):
    def init(self, params):
        return super().init(params) | {"round": 0.0}

    def step(self, params, state, mean_delta):
        new, moved = super().step(params, state | {"round": torch.tensor([state["round"]])}, mean_delta)
        return new, moved | {"round": float(moved["round"])}


class FedAvgMDecaysWhatNobodySent(FedAvgM):
    def step(self, params, state, mean_delta):
        full = {n: mean_delta.get(n, torch.zeros_like(p)) for n, p in params.items()}
        return super().step(params, state, full)


OPTIMIZER_MUTANTS = {
    YogiSignFlipped: "trajectory",
    YogiSignOfMomentum: "trajectory",
    YogiIsAdam: "trajectory",
    AdamBetasSwapped: "trajectory",
    AdamBiasCorrected: "trajectory",
    AdamFromZeroSecondMoment: "equals_fedavg",
    AdamTauUnderTheRoot: "equals_fedavg",
    AdamSquareOfMomentum: "trajectory",
    YogiSquareOfMomentum: "trajectory",
    AdagradSquareOfMomentum: "trajectory",
    AdagradForgets: "trajectory",
    AdagradWithoutMomentum: "trajectory",
    AdamFirstDeltaFull: "trajectory",
    AdamWeighsByRows: "weights",
    FedAvgUniform: "weights",
    FedAvgFlagForgotten: "noop",
    FedAvgAgainstTheDelta: "trajectory",
    FedAvgInPlace: "pure",
    FedAvgLosesTheSignOfZero: "noop",
    FedAvgMovesWhatNobodySent: "weights",
    FedAvgDependsOnTheOrderOfNames: "order",
    FedAvgInDoublePrecision: "resume",
    FedAvgMDamped: "trajectory",
    FedAvgMNesterov: "trajectory",
    FedAvgMForgetsMomentum: "trajectory",
    FedAvgMHiddenState: "pure",
    FedAvgMNotSerialisable: "resume",
    FedAvgMDecaysWhatNobodySent: "trajectory",
}

# Means --------------------------------------------------------------------------------------------------------------


class AnyOrder(RunningMean):
    """A running sum that takes clients as they come: float32 addition is not associative."""

    def add(self, client, weight, update):
        self._last = -1
        super().add(client, weight, update)


class WeightDropped(RunningMean):
    def add(self, client, weight, update):
        super().add(client, 1.0, update)


class OneWeightForAllNames(RunningMean):
    """Divides by everybody's weight, also where not everybody sent the tensor."""

    def __init__(self, params):
        super().__init__(params)
        self.total = 0.0

    def add(self, client, weight, update):
        super().add(client, weight, update)
        self.total += weight

    def mean(self):
        return {name: total / self.total for name, total in self._sums.items()}


class NamesOfTheFirstMessage(RunningMean):
    """FederatedScope's average: the keys of the first message count, the others' are lost."""

    def add(self, client, weight, update):
        known = self._sums or update
        super().add(client, weight, {name: tensor for name, tensor in update.items() if name in known})


class NotNormalised(RunningMean):
    def mean(self):
        return dict(self._sums)


class LastClientWins(RunningMean):
    def add(self, client, weight, update):
        self._sums, self._weights = {}, {}
        super().add(client, weight, update)


class HeavierWithItsId(RunningMean):
    def add(self, client, weight, update):
        super().add(client, weight * client, update)


class SumsInBfloat16(RunningMean):
    def mean(self):
        return {name: tensor.bfloat16().float() for name, tensor in super().mean().items()}


class KeepsTheClientsDtype(RunningMean):
    def mean(self):
        return {name: tensor.to(self.dtype) for name, tensor in super().mean().items()}

    def add(self, client, weight, update):
        self.dtype = next(iter(update.values())).dtype
        super().add(client, weight, update)


class InventsTensors(RunningMean):
    def mean(self):
        return {name: torch.zeros_like(p) for name, p in self._params.items()} | super().mean()


MEAN_MUTANTS = {
    AnyOrder: "order",
    WeightDropped: "weights",
    OneWeightForAllNames: "weights",
    NamesOfTheFirstMessage: "weights",
    NotNormalised: "weights",
    LastClientWins: "weights",
    HeavierWithItsId: "weights",
    SumsInBfloat16: "trajectory",
    KeepsTheClientsDtype: "precision",
    InventsTensors: "weights",
}

# Client penalties ---------------------------------------------------------------------------------------------------


class _Mutant(Penalty):
    factor, mask, anchored, value = 1.0, True, True, 1.0

    def add_gradient(self, parameters, anchors):
        positions = self.positions if self.mask else tuple(range(len(parameters)))
        anchors = anchors if self.anchored else [torch.zeros_like(a) for a in anchors]
        before = [p.grad.clone() for p in parameters]
        result = Penalty(self.gamma, positions).add_gradient(parameters, anchors)
        for parameter, old in zip(parameters, before, strict=True):
            parameter.grad.copy_(old + self.factor * (parameter.grad - old))
        return result * self.value


class Half(_Mutant):
    """gamma (w - w_global): the factor 2 of the square is lost."""

    factor = 0.5


class Pushes(_Mutant):
    factor = -1.0


class EveryLayer(_Mutant):
    mask = False


class WeightDecay(_Mutant):
    anchored = False


class WrongValue(_Mutant):
    value = 2.0


class OnAtZero(Penalty):
    def add_gradient(self, parameters, anchors):
        return Penalty(self.gamma + 1e-3, self.positions).add_gradient(parameters, anchors)


PENALTY_MUTANTS = {
    Half: "penalty_gradient",
    Pushes: "penalty_anchor",
    EveryLayer: "penalty_mask",
    WeightDecay: "penalty_anchor",
    WrongValue: "penalty_gradient",
    OnAtZero: "penalty_off",
}


def fails(check, *arguments):
    """Whether a check that applies fails."""
    try:
        check(*arguments)
    except NotApplicable:
        return False
    except (AssertionError, AttributeError):  # a state that is no tensor
        return True
    return False


@pytest.mark.parametrize(("mutant", "check"), OPTIMIZER_MUTANTS.items(), ids=lambda x: getattr(x, "__name__", x))
def test_optimizer_mutants_are_caught(mutant, check):
    assert fails(CHECKS[check], mutant(), RunningMean)


@pytest.mark.parametrize(("mutant", "check"), MEAN_MUTANTS.items(), ids=lambda x: getattr(x, "__name__", x))
def test_mean_mutants_are_caught(mutant, check):
    assert fails(CHECKS[check], FedAvg(), mutant)


@pytest.mark.parametrize(("mutant", "check"), PENALTY_MUTANTS.items(), ids=lambda x: getattr(x, "__name__", x))
def test_penalty_mutants_are_caught(mutant, check):
    assert fails(CLIENT_CHECKS[check], mutant)


@pytest.mark.parametrize("method", OPTIMIZERS)
def test_the_originals_are_not(method):
    original = OPTIMIZERS[method]()
    assert not [name for name, check in CHECKS.items() if fails(check, original, RunningMean)]
