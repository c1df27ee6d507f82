"""Client sides of SCAFFOLD, FedDyn, MOON and YOCO: numbers by hand, autograd, and real turns."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from fs_fedmllm.algorithms import ClientContext, ClientHalf
from fs_fedmllm.algorithms.feddyn import GRADIENT, FedDynClient
from fs_fedmllm.algorithms.moon import PREVIOUS, contrastive_loss
from fs_fedmllm.algorithms.scaffold import VARIATE, ScaffoldClient
from fs_fedmllm.algorithms.yoco import YocoConfig, gram_loss, initial_b, schedule, sign_loss
from fs_fedmllm.models.batch import Batch
from fs_fedmllm.models.export import adapter_bytes
from fs_fedmllm.rounds.federation import Federation

ONE = ClientContext(client=1, names=("w",), device=torch.device("cpu"))


def scaffold(c, c_i) -> ScaffoldClient:
    half = ScaffoldClient(ONE)
    half.begin({f"{VARIATE}w": torch.tensor([c])}, {f"{VARIATE}w": torch.tensor([c_i])}, {"w": torch.zeros(1)})
    return half


def feddyn(alpha, history, start) -> FedDynClient:
    half = FedDynClient(alpha, ONE)
    half.begin({}, {f"{GRADIENT}w": torch.tensor(history)}, {"w": torch.tensor(start)})
    return half


def descend(half, slope, start=0.5, lr=0.1, steps=7) -> float:
    """Plain SGD on one weight, with noise in the gradient that does not depend on the correction."""
    weight = torch.nn.Parameter(torch.tensor([start]))
    noise = torch.randn(steps, generator=torch.Generator().manual_seed(2))
    for step in range(steps):
        weight.grad = slope * (weight.detach() - 2) + noise[step]
        if half.corrects:
            half.correct([weight], [torch.tensor([start])], step, steps)
        with torch.no_grad():
            weight.sub_(lr * weight.grad)
    return float(weight.detach())


def test_scaffolds_mean_gradient_is_option_two_under_sgd() -> None:
    c, c_i, lr, steps = 0.7, -0.4, 0.1, 7
    half = scaffold(c, c_i)
    end = descend(half, 1.5, lr=lr, steps=steps)
    option_two = c_i - c + (0.5 - end) / (steps * lr)
    assert float(half.variates()[f"{VARIATE}w"]) == pytest.approx(option_two, abs=1e-5)


def test_without_variates_scaffold_and_without_alpha_feddyn_are_plain_descent() -> None:
    plain = descend(ClientHalf(), 1.5)
    assert descend(scaffold(0.0, 0.0), 1.5) == plain
    assert descend(feddyn(0.0, [0.0], [0.5]), 1.5) == plain
    assert descend(feddyn(0.3, [0.0], [0.5]), 1.5) != plain


def test_feddyns_gradient_is_autograds() -> None:
    weight = torch.nn.Parameter(torch.tensor([0.3, -1.0]))
    anchor, history = torch.tensor([0.1, 0.4]), torch.tensor([0.5, -0.2])
    weight.grad = torch.tensor([1.0, 2.0])
    value = feddyn(0.7, [0.5, -0.2], [0.1, 0.4]).correct([weight], [anchor], 0, 1)
    loss = -(history * weight).sum() + 0.35 * (weight - anchor).square().sum()
    assert float(value) == pytest.approx(float(loss))
    torch.testing.assert_close(weight.grad, torch.tensor([1.0, 2.0]) + torch.autograd.grad(loss, weight)[0])


def test_moons_loss_by_hand_and_its_direction() -> None:
    east, north = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    # -log(e^2 / (e^2 + e^0)) with tau = 1/2
    assert float(contrastive_loss(east, east, north, 0.5)) == pytest.approx(math.log(1 + math.exp(-2)))
    assert float(contrastive_loss(north, east, north, 0.5)) == pytest.approx(2 + math.log(1 + math.exp(-2)))
    z = torch.tensor([[1.0, 1.0]], requires_grad=True)
    contrastive_loss(z, east, north, 0.5).sum().backward()
    assert z.grad[0, 0] < 0 < z.grad[0, 1]  # descent goes to the global model and away from the old one
    same = torch.tensor([[1.0, 1.0]], requires_grad=True)
    contrastive_loss(same, east, east, 0.5).sum().backward()
    assert not same.grad.any()


def test_moons_representation_is_the_column_before_the_answer() -> None:
    labels = torch.tensor([[-100, -100, 7, 8], [-100, 5, 6, 8]])
    hidden = torch.arange(8.0).reshape(2, 4, 1)
    assert Batch({}, labels).representations(hidden).flatten().tolist() == [1.0, 4.0]


def test_yocos_terms_are_those_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 7, generator=generator, requires_grad=True)
    dense = (a.T @ a - torch.eye(7)).norm() ** 2
    value, gradient = gram_loss(a.detach())
    torch.testing.assert_close(value, dense.detach(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient, torch.autograd.grad(dense, a)[0], rtol=1e-4, atol=1e-4)
    b = torch.randn(7, 3, generator=generator, requires_grad=True)
    signs = torch.randn(7, 3, generator=generator).sign()
    loss = (torch.tanh(2.5 * b) - signs).norm() / (signs.norm() + 1e-6)
    value, gradient = sign_loss(b.detach(), signs, 2.5)
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, b)[0])
    config = YocoConfig()
    assert schedule(config, 0, 5) == (1.0, 0.1) and schedule(config, 4, 5) == pytest.approx((200.0, 0.01))
    assert schedule(config, 2, 5) == pytest.approx((100.5, 0.055))
    weight = torch.randn(6, 4, generator=generator)
    start = initial_b(weight, 2)
    s = torch.linalg.svdvals(weight)
    torch.testing.assert_close(start.T @ start, torch.diag(s[:2]), atol=1e-5, rtol=1e-5)  # orthogonal
    best = torch.linalg.lstsq(start, weight).solution
    assert float((start @ best - weight).norm()) == pytest.approx(float(s[2:].norm()), rel=1e-4)


# Real turns ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_config(federation):
    def make(**changes) -> Federation:
        config = federation.config
        if "method" in changes:
            federate = dataclasses.replace(config.federate, method=changes["method"])
            config = dataclasses.replace(config, federate=federate)
        if "regularizer" in changes:
            kind = dataclasses.replace(config.fedmllm.regularizer, type=changes["regularizer"])
            config = dataclasses.replace(config, fedmllm=dataclasses.replace(config.fedmllm, regularizer=kind))
        return dataclasses.replace(federation, config=config)

    return make


def test_scaffold_on_the_model(federation, with_config) -> None:
    start = federation.initial_state()
    plain = federation.clients.update(1, 0, start)
    mine = with_config(method="scaffold")
    zeros = {f"{VARIATE}{n}": torch.zeros_like(t) for n, t in start.items()}
    first = mine.clients.update(1, 0, start | zeros)
    adapter = {n: first.state[n] for n in start}
    assert adapter_bytes(adapter) == adapter_bytes(plain.state)  # zero variates: FedAvg's first round, to the bit
    assert set(first.state) == set(start) | set(zeros) and set(first.client_state) == set(zeros)
    assert all(torch.equal(first.state[n], first.client_state[n]) for n in zeros)
    # Variates that cancel (c = c_i) change nothing; others do.
    again = mine.clients.update(1, 0, start | first.client_state, first.client_state)
    assert adapter_bytes({n: again.state[n] for n in start}) == adapter_bytes(plain.state)
    pushed = mine.clients.update(1, 0, start | zeros, first.client_state)
    assert adapter_bytes({n: pushed.state[n] for n in start}) != adapter_bytes(plain.state)


def test_moon_on_the_model(federation, with_config) -> None:
    start = federation.initial_state()
    plain = federation.clients.update(1, 0, start)
    mine = with_config(regularizer="moon")
    first = mine.clients.update(1, 0, start)
    assert adapter_bytes(first.state) == adapter_bytes(plain.state)  # no past, no term
    assert {n.removeprefix(PREVIOUS) for n in first.client_state} == set(start)
    same = mine.clients.update(1, 0, start, {f"{PREVIOUS}{n}": t for n, t in start.items()})
    assert same.log.penalty == pytest.approx(math.log(2), abs=1e-3)  # the two models are one: log 2
    away = {n: t + 0.05 * torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) for n, t in start.items()}
    second = mine.clients.update(1, 0, start, {f"{PREVIOUS}{n}": t for n, t in away.items()})
    assert adapter_bytes(second.state) != adapter_bytes(plain.state) and 0 < second.log.penalty < math.log(2)


def test_yoco_on_the_model(federation, with_config) -> None:
    mine = with_config(regularizer="yoco")
    start, fresh = mine.initial_state(), federation.initial_state()
    assert all(torch.equal(start[n], fresh[n]) == ("lora_A" in n) for n in start)
    update = mine.clients.update(1, 0, start)
    assert update.log.penalty > 0 and not update.client_state


def test_a_bfloat16_base_gives_nearly_the_float32_client(federation) -> None:
    """Stated bound: the loss within 1 percent, the clients' movements within 45 degrees of each other."""
    options = dataclasses.replace(federation.config.model.fedmllm, dtype="bfloat16")
    model = dataclasses.replace(federation.config.model, fedmllm=options)
    config = dataclasses.replace(federation.config, model=model)
    start = federation.initial_state()
    one = federation.clients.update(1, 0, start)
    other = Federation.build(config, federation.data).clients.update(1, 0, start)
    assert other.log.loss == pytest.approx(one.log.loss, rel=0.01)
    moved = [torch.cat([(u.state[n] - start[n]).flatten() for n in start if "lora_B" in n]) for u in (one, other)]
    assert all(t.dtype == torch.float32 for t in other.state.values())
    cosine = torch.nn.functional.cosine_similarity(*moved, dim=0)
    assert float(cosine) > math.sqrt(0.5)
