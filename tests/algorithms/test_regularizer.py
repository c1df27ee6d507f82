"""The layer-masked adaptive penalty and FedProx."""

import pytest
import torch

from fs_fedmllm.algorithms.proximal import Penalty, coefficient, layer_mask
from fs_fedmllm.config import RegularizerConfig
from fs_fedmllm.conformance import CLIENT_CHECKS
from fs_fedmllm.errors import ConfigError


def two_per_layer(depth):
    """Layer index of each tensor of an adapter with an A and a B a layer, and one tensor outside the layers."""
    return [None, *(layer for layer in range(depth) for _ in "AB")]


def layers_of(positions, layers):
    return sorted({layers[i] for i in positions})


@pytest.mark.parametrize("check", CLIENT_CHECKS.values(), ids=CLIENT_CHECKS)
def test_conformance(check):
    check(Penalty)


@pytest.mark.parametrize(
    ("depth", "skip", "first", "last"),
    [(12, 4, 4, 7), (28, 4, 4, 23), (32, 4, 4, 27), (12, 0, 0, 11), (28, 8, 8, 19), (12, 5, 5, 6), (11, 5, 5, 5)],
)
def test_layers_s_to_l_minus_1_minus_s(depth, skip, first, last):
    layers = two_per_layer(depth)
    positions = layer_mask(layers, depth, skip)
    assert layers_of(positions, layers) == list(range(first, last + 1))
    assert len(positions) == 2 * (last - first + 1)
    assert 0 not in positions  # outside the language layers


@pytest.mark.parametrize(("block", "covered"), [("early", range(4)), ("middle", range(4, 8)), ("late", range(8, 12))])
def test_a_block_has_as_many_layers_wherever_it_lies(block, covered):
    layers = two_per_layer(12)
    assert layers_of(layer_mask(layers, 12, 4, block), layers) == list(covered)
    assert layer_mask(layers, 12, 0, block) == layer_mask(layers, 12, 0)  # every layer


def test_160_of_the_authors_238_trainable_tensors():
    """28 layers with q, k, v, o: 8 tensors each, 14 more in embeddings and resampler: layers 4..23 have 160."""
    layers = [layer for layer in range(28) for _ in range(8)] + [None] * 14
    assert len(layers) == 238
    assert len(layer_mask(layers, 28, 4)) == 160


@pytest.mark.parametrize(("depth", "last"), [(12, 11), (28, 23), (32, 23)])
def test_the_authors_hard_coded_27(depth, last):
    """Right for 28 layers; leaves the last four of a 32-layer model free and none of a 12-layer one."""
    layers = two_per_layer(depth)
    assert layers_of(layer_mask(layers, depth, 4, fixed_27=True), layers) == list(range(4, last + 1))


@pytest.mark.parametrize(("depth", "skip", "most"), [(12, 6, 5), (12, 40, 5), (8, 4, 3), (11, 6, 5), (1, 1, 0)])
def test_an_empty_mask_is_an_error_that_says_what_would_work(depth, skip, most):
    with pytest.raises(ConfigError, match=rf"skip_layers is {skip}, .* with {depth} .*Use at most {most}\."):
        layer_mask(two_per_layer(depth), depth, skip)
    assert layer_mask(two_per_layer(depth), depth, most)


def test_nothing_in_the_language_layers_is_an_error():
    with pytest.raises(ConfigError, match="leaves no layer"):
        layer_mask([None, None], 12, 0)


def test_value_and_gradient_by_hand():
    # gamma = 0.5, w - w_global = (3, 4): value 0.5 * 25 = 12.5, gradient 2 * 0.5 * (3, 4)
    parameter = torch.nn.Parameter(torch.tensor([4.0, 4.0]))
    parameter.grad = torch.tensor([10.0, 20.0])
    value = Penalty(0.5, (0,)).add_gradient([parameter], [torch.tensor([1.0, 0.0])])
    assert value.item() == pytest.approx(12.5)
    assert parameter.grad.tolist() == [13.0, 24.0]


@pytest.mark.parametrize("mu", [0.01, 1.0])
def test_fedprox_is_half_mu_times_the_squared_distance(mu):
    config = RegularizerConfig(type="fedprox", mu=mu)
    for switch in ("measured", "by_scenario", "constant"):
        gamma = coefficient(config, beta=0.7, switch=switch, scenario="cross")
        assert gamma == mu / 2
    parameter, anchor = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5])), torch.tensor([0.5, 1.0, 0.0])
    (mu / 2 * (parameter - anchor).square().sum()).backward()
    expected, parameter.grad = parameter.grad.clone(), torch.zeros(3)
    Penalty(gamma, (0,)).add_gradient([parameter], [anchor])
    torch.testing.assert_close(parameter.grad, expected)


def test_the_penalty_in_the_loss_and_in_the_gradient_train_alike():
    """Ten steps of clipped AdamW: adding the gradient before clipping is the penalty in the loss."""
    generator = torch.Generator().manual_seed(3)
    inputs, targets = torch.randn(32, 5, generator=generator), torch.randn(32, 3, generator=generator)
    start = [torch.randn(5, 4, generator=generator), torch.randn(4, 3, generator=generator)]
    gamma, positions = 0.3, (1,)
    results = []
    for in_loss in (True, False):
        parameters = [torch.nn.Parameter(t.clone()) for t in start]
        optimizer = torch.optim.AdamW(parameters, lr=0.05)
        for _ in range(10):
            loss = ((inputs @ parameters[0]).tanh() @ parameters[1] - targets).square().mean()
            if in_loss:
                loss = loss + gamma * sum((parameters[i] - start[i]).square().sum() for i in positions)
            loss.backward()
            if not in_loss:
                Penalty(gamma, positions).add_gradient(parameters, start)
            torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        results.append([p.detach() for p in parameters])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def gamma(switch, beta, scenario="missing", kind="adaptive"):
    config = RegularizerConfig(type=kind, gamma_max=0.1)
    return coefficient(config, beta=beta, switch=switch, scenario=scenario)


@pytest.mark.parametrize("scenario", ["aligned", "missing", "cross", "hybrid"])
@pytest.mark.parametrize(("beta", "expected"), [(0.0, 0.0), (0.3, 0.03), (1.0, 0.1)])
def test_measured_rate(scenario, beta, expected):
    assert gamma("measured", beta, scenario) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scenario", "beta", "expected"),
    [
        ("aligned", 0.2, 0.0),
        ("missing", 0.37, 0.037),  # the client's own rate, not the level's
        ("missing", 0.0, 0.0),
        ("missing", 1.0, 0.1),
        ("cross", 0.9, 0.1),
        ("hybrid", 0.0, 0.0),  # a client with complete rows
        ("hybrid", 0.25, 0.025),
        ("hybrid", 1.0, 0.1),  # a client with one modality
    ],
)
def test_the_papers_rules_by_scenario(scenario, beta, expected):
    assert gamma("by_scenario", beta, scenario) == pytest.approx(expected)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_authors_constant(beta):
    # prox_mu / 2 * mu_w = 0.005 * 0.1
    assert gamma("constant", beta) == pytest.approx(5e-4)


def test_upstream_fedprox_coefficient():
    # S = 0, mu_w = 1: prox_mu / 2 = 5e-3 on every layer
    config = RegularizerConfig(type="fedprox")
    assert coefficient(config, beta=0, switch="constant", scenario="cross") == pytest.approx(5e-3)


@pytest.mark.parametrize("switch", ["measured", "by_scenario", "constant"])
def test_none_is_none(switch):
    assert gamma(switch, 1.0, "cross", kind="none") == 0.0


def test_no_penalty_needs_neither_gradients_nor_anchors():
    assert Penalty(0.0, ()).add_gradient([torch.nn.Parameter(torch.ones(2))], []).item() == 0.0


def test_a_parameter_without_a_gradient_gets_the_penaltys_alone():
    """An expert that no token was sent to: with the penalty in the loss it has a gradient too."""
    reached, missed, uncovered = (torch.nn.Parameter(torch.full((2,), 3.0)) for _ in range(3))
    reached.grad = torch.ones(2)
    anchors = [torch.full((2,), 1.0)] * 3
    value = Penalty(0.5, (0, 1)).add_gradient([reached, missed, uncovered], anchors)
    assert value.item() == pytest.approx(0.5 * 4 * 4)
    assert reached.grad.tolist() == [3.0, 3.0] and missed.grad.tolist() == [2.0, 2.0] and uncovered.grad is None
