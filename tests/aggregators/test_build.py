"""The rule of a round: what the configuration picks, and attacks under which the mean fails and the rule holds."""

from __future__ import annotations

import math

import pytest
import torch

from fs_fedmllm.aggregators import RunningMean, build_aggregator, check_update
from fs_fedmllm.aggregators.lora_exact import exact_lora_mean
from fs_fedmllm.aggregators.norm_bound import bound_update
from fs_fedmllm.aggregators.updates import weighted_mean
from fs_fedmllm.algorithms import FedAvg
from fs_fedmllm.algorithms.lora_ranks import to_rank
from fs_fedmllm.config import AggregationConfig
from fs_fedmllm.errors import UpdateError

HONEST, BAD = 9, 2
ROBUST = {
    "krum": AggregationConfig(rule="krum", byzantine=BAD),
    "multi_krum": AggregationConfig(rule="multi_krum", byzantine=BAD),
    "median": AggregationConfig(rule="median"),
    "trimmed_mean": AggregationConfig(rule="trimmed_mean", trim=0.2),
    "norm_bounded": AggregationConfig(rule="norm_bounded"),
}


def direction() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        n: torch.randn(s, generator=generator) for n, s in (("q.lora_A.weight", (4, 6)), ("q.lora_B.weight", (6, 4)))
    }


def honest_deltas() -> list[dict[str, torch.Tensor]]:
    """A common direction and, per client, noise of a third of its length."""
    generator = torch.Generator().manual_seed(4)
    common = direction()
    return [{n: t + torch.randn(t.shape, generator=generator) / 3 for n, t in common.items()} for _ in range(HONEST)]


def _spread(honest: list[dict[str, torch.Tensor]], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    stack = torch.stack([delta[name] for delta in honest])
    return stack.mean(dim=0), stack.std(dim=0)


def sign_flip(honest, name):
    return -8 * _spread(honest, name)[0]


def large_norm(honest, name):
    return torch.full_like(honest[0][name], 1.0e6)


def gaussian(honest, name):
    return 50 * torch.randn(honest[0][name].shape, generator=torch.Generator().manual_seed(9))


ATTACKS = {"sign_flip": sign_flip, "large_norm": large_norm, "gaussian": gaussian}


def distance(one, other) -> float:
    return math.sqrt(sum(float((one[n] - other[n]).square().sum()) for n in other))


def combined(config: AggregationConfig, deltas, *, presence=None, params=None):
    params = params or {n: torch.zeros_like(t) for n, t in deltas[0].items()}
    rule = build_aggregator(config, params, presence or {})
    for client, delta in enumerate(deltas, start=1):
        rule.add(client, 1.0, {n: params[n] + d for n, d in delta.items()})
    return rule.mean(), rule


@pytest.mark.parametrize("attack", ["sign_flip", "large_norm", "gaussian"])
@pytest.mark.parametrize("name", ROBUST)
def test_two_loud_clients_spoil_the_mean_and_not_the_rule(name, attack) -> None:
    honest = honest_deltas()
    bad = {n: ATTACKS[attack](honest, n) for n in honest[0]}
    target, _ = combined(AggregationConfig(), honest)
    spoilt, _ = combined(AggregationConfig(), [bad, *honest, bad])
    held, _ = combined(ROBUST[name], [bad, *honest, bad])
    size = distance(target, {n: torch.zeros_like(t) for n, t in target.items()})
    assert distance(spoilt, target) > size  # further from the honest mean than doing nothing
    # norm_bounded scales and does not leave out: two of eleven of honest length still point elsewhere.
    assert distance(held, target) < (0.5 if name == "norm_bounded" else 0.4) * size


@pytest.mark.parametrize("name", ["krum", "multi_krum", "median", "trimmed_mean"])
def test_a_little_is_enough_bends_rules_within_the_honest_range_and_a_lot_only_the_mean(name) -> None:
    """Baruch et al. 2019: all bad clients alike, some standard deviations off in every coordinate.

    The attack stays within the spread, so no rule is untouched: what a rule guarantees is that none leaves it.
    """
    honest = honest_deltas()
    target, _ = combined(AggregationConfig(), honest)
    for deviations in (1.5, 40.0):
        bad = {n: _spread(honest, n)[0] - deviations * _spread(honest, n)[1] for n in honest[0]}
        held, _ = combined(ROBUST[name], [bad, *honest, bad])
        spoilt, _ = combined(AggregationConfig(), [bad, *honest, bad])
        for n in target:
            stack = torch.stack([delta[n] for delta in honest])
            # A median of 11 with 2 bad ones is between honest values; Krum may take a bad one, which is a little off.
            low, high = stack.amin(dim=0), stack.amax(dim=0)
            slack = 1.5 * _spread(honest, n)[1] if deviations == 1.5 else torch.zeros(())
            assert bool(((held[n] >= low - slack) & (held[n] <= high + slack)).all())
        if deviations == 40.0:
            assert distance(held, target) < 0.2 * distance(spoilt, target)


def test_nan_never_reaches_a_rule() -> None:
    params = {n: torch.zeros_like(t) for n, t in direction().items()}
    plain = RunningMean(params)
    plain.add(1, 1.0, {n: torch.full_like(t, math.nan) for n, t in params.items()})
    assert all(bool(t.isnan().all()) for t in plain.mean().values())  # the mean fails
    with pytest.raises(UpdateError, match="not finite"):  # what every update passes before any rule
        check_update(1, params, {n: torch.full_like(t, math.nan) for n, t in params.items()})


def test_outliers_are_left_out_and_named() -> None:
    honest = honest_deltas()
    loud = {n: 10 * t for n, t in honest[0].items()}
    held, rule = combined(AggregationConfig(outlier_factor=3.0), [*honest, loud])
    assert list(rule.refused) == [HONEST + 1] and "times the round's median" in rule.refused[HONEST + 1]
    target, quiet = combined(AggregationConfig(outlier_factor=3.0), honest)
    assert quiet.refused == {} and distance(held, target) == 0.0
    still = [{n: torch.zeros_like(t) for n, t in direction().items()}] * 3
    assert combined(AggregationConfig(outlier_factor=2.0), still)[1].refused == {}


def test_a_bound_refuses_or_clips() -> None:
    params = {"w": torch.tensor([1.0, 1.0])}
    update = {"w": torch.tensor([4.0, 5.0])}  # 5 away
    assert bound_update(1, params, update, limit=5.0, clip=False) is update
    with pytest.raises(UpdateError, match=r"Client 7.*norm 5, above fedmllm.aggregation.max_update_norm, 2"):
        bound_update(7, params, update, limit=2.0, clip=False)
    clipped = bound_update(7, params, update, limit=2.0, clip=True)
    torch.testing.assert_close(clipped["w"], torch.tensor([1 + 1.2, 1 + 1.6]))


def test_the_plain_mean_keeps_one_adapter_and_the_others_the_cohort() -> None:
    params = {"w": torch.zeros(2)}
    assert isinstance(build_aggregator(AggregationConfig(), params, {}), RunningMean)
    bounded = AggregationConfig(lora="frozen_a", max_update_norm=1.0)
    assert isinstance(build_aggregator(bounded, params, {}), RunningMean)
    for config in (*ROBUST.values(), AggregationConfig(lora="exact"), AggregationConfig(outlier_factor=2.0)):
        assert not isinstance(build_aggregator(config, params, {}), RunningMean)


@pytest.mark.parametrize("config", [*ROBUST.values(), AggregationConfig(lora="exact")], ids=lambda c: c.rule + c.lora)
def test_a_round_in_which_nobody_moves_is_bit_identical(config) -> None:
    params = direction() | {"bias": torch.tensor([-0.0, 1e-40])}
    rule = build_aggregator(config, params, {})
    for client in range(1, 8):
        rule.add(client, 3.0, {n: t.clone() for n, t in params.items()})
    new, _ = FedAvg().step(params, {}, rule.mean())
    assert all(torch.equal(params[n].view(torch.int32), new[n].view(torch.int32)) for n in params)


def test_clients_come_in_ascending_order_with_a_weight() -> None:
    rule = build_aggregator(ROBUST["median"], {"w": torch.zeros(1)}, {})
    rule.add(2, 1.0, {"w": torch.ones(1)})
    with pytest.raises(ValueError, match="ascending"):
        rule.add(1, 1.0, {"w": torch.ones(1)})
    with pytest.raises(UpdateError, match="cannot be weighted"):
        rule.add(3, math.inf, {"w": torch.ones(1)})


def test_too_few_left_after_refusals_stops_the_round() -> None:
    rule = build_aggregator(ROBUST["krum"], {"w": torch.zeros(1)}, {})
    rule.add(1, 1.0, {"w": torch.ones(1)})
    with pytest.raises(UpdateError, match="at least 7 updates"):
        rule.mean()


def test_exact_lora_composes_with_krum_and_modality_weights() -> None:
    params, honest = direction(), honest_deltas()
    bad = {n: 1.0e3 * t for n, t in direction().items()}
    config = AggregationConfig(rule="multi_krum", byzantine=BAD, keep=HONEST, lora="exact")
    mean, rule = combined(config, [*honest, bad, bad], params=params)
    expected, _ = exact_lora_mean(params, [(c, 1.0, d) for c, d in enumerate(honest, start=1)])
    for n in expected:
        torch.testing.assert_close(mean[n], expected[n], atol=1e-5, rtol=0)
    assert rule.figures["kept_clients"] == HONEST and rule.figures["lora_naive"] > rule.figures["lora_residual"]
    presence = {1: {"image": 3}, 2: {"text": 1}, 3: {"both": 1}}
    weights = {1: 3 / 4, 2: 1 / 2, 3: 1 / 4 + 1 / 2}  # I_k / sum I + T_k / sum T
    mean, _ = combined(AggregationConfig(client_weights="balanced", lora="exact"), honest[:3], presence=presence,
                       params=params)  # fmt: skip
    expected, _ = exact_lora_mean(params, [(c, weights[c], d) for c, d in enumerate(honest[:3], start=1)])
    for n in expected:
        torch.testing.assert_close(mean[n], expected[n], atol=1e-5, rtol=0)
    mean, _ = combined(AggregationConfig(client_weights="balanced"), honest[:3], presence=presence)
    for n, tensor in weighted_mean([(c, weights[c], d) for c, d in enumerate(honest[:3], start=1)]).items():
        torch.testing.assert_close(mean[n], tensor)


def test_a_truncated_adapter_is_the_first_rows_and_columns() -> None:
    low = to_rank(direction(), 2)
    assert low["q.lora_A.weight"].shape == (2, 6) and low["q.lora_B.weight"].shape == (6, 2)
