"""The noise has the distribution that epsilon is computed for, and nobody can draw it again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from fs_fedmllm.algorithms import OPTIMIZERS, build_server_optimizer
from fs_fedmllm.config.profiles import profile_switches
from fs_fedmllm.privacy.noise import add_noise, standard_normal
from fs_fedmllm.privacy.sampling import draw


def entropy(seed: int):
    return np.random.default_rng(seed).bytes


def test_standard_normal() -> None:
    values = standard_normal(200_000, entropy(0))
    assert stats.kstest(values, "norm").pvalue > 0.001
    assert np.std(values) == pytest.approx(1.0, abs=0.01)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.01
    # Both halves of a Box-Muller pair go into one number; a wrong count of them shows in the fourth moment too.
    assert stats.kurtosis(values) == pytest.approx(0.0, abs=0.05)


def test_std_per_tensor_and_shape() -> None:
    noisy = add_noise({"w": torch.full((200, 300), 5.0, dtype=torch.float64), "v": torch.zeros(3)}, 0.02, entropy(1))
    assert noisy["w"].shape == (200, 300) and noisy["w"].dtype == torch.float32 and noisy["v"].shape == (3,)
    assert noisy["w"].mean().item() == pytest.approx(5.0, abs=5e-4)
    assert noisy["w"].std().item() == pytest.approx(0.02, rel=0.02)


def test_two_draws_differ_and_no_seed_reaches_them() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    first = standard_normal(64)
    torch.manual_seed(0)
    np.random.seed(0)
    assert not np.array_equal(first, standard_normal(64))


@pytest.mark.parametrize("method", sorted(OPTIMIZERS))
def test_composes_with_every_server_optimizer(method: str) -> None:
    """Noise comes before the step, so the step is a function of the noisy mean alone."""
    size, std = 40_000, 0.05
    params = {"w": torch.zeros(size)}
    optimizer = build_server_optimizer(
        method, lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3, switches=profile_switches("fixed")
    )
    noisy = add_noise({"w": torch.zeros(size)}, std, entropy(2))
    stepped, _ = optimizer.step(params, optimizer.init(params), noisy)
    again, _ = optimizer.step(params, optimizer.init(params), {"w": noisy["w"].clone()})
    assert torch.equal(stepped["w"], again["w"])
    moved = stepped["w"] - params["w"]
    if method in ("fedavg", "fedavgm"):  # linear: the noise's size arrives times lr
        assert moved.std().item() == pytest.approx(0.1 * std, rel=0.02)
    else:
        assert moved.abs().max() > 0 and torch.isfinite(moved).all()


def test_draws() -> None:
    from random import Random

    rng = Random(3)
    counts = np.zeros(10)
    for _ in range(3000):
        drawn = draw(10, 3, "fixed", rng)
        assert drawn == sorted(set(drawn)) and len(drawn) == 3 and drawn[0] >= 1 and drawn[-1] <= 10
        counts[np.array(drawn) - 1] += 1
    assert stats.chisquare(counts).pvalue > 0.001
    sizes = np.array([len(draw(10, 3, "poisson", rng)) for _ in range(3000)])
    assert sizes.mean() == pytest.approx(3.0, abs=0.1) and sizes.var() == pytest.approx(2.1, abs=0.2)
    assert sizes.min() == 0
    assert len({tuple(draw(50, 10, "fixed")) for _ in range(20)}) == 20  # no seed
