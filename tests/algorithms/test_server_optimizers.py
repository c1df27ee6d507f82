"""Server optimizers against numbers worked out by hand from the papers, and against the authors' closed forms."""

import math

import pytest
import torch

from fs_fedmllm.algorithms import OPTIMIZERS, build_server_optimizer
from fs_fedmllm.config.profiles import profile_switches
from fs_fedmllm.conformance import REFERENCES, Hyper
from fs_fedmllm.errors import ConfigError

UPSTREAM = profile_switches("upstream")


def run(method, deltas, *, switches=None, start=0.0, **hyper):
    """The value of one coordinate after each round."""
    server = OPTIMIZERS[method](switches=switches or {}, **hyper)
    params = {"w": torch.tensor([start])}
    state = server.init(params)
    values = []
    for delta in deltas:
        params, state = server.step(params, state, {"w": torch.tensor([delta])})
        values.append(params["w"].item())
    return values


def test_fedavg_moves_along_the_mean():
    # w = 1, then 1 + 0.5 = 1.5, then 1.5 - 2 = -0.5
    assert run("fedavg", [0.5, -2.0], start=1.0) == [1.5, -0.5]
    # half the learning rate: 1 + 0.25, then 1.25 - 1
    assert run("fedavg", [0.5, -2.0], start=1.0, lr=0.5) == [1.25, 0.25]


def test_fedavgm_is_hsus_momentum():
    # beta = 0.9: m = 1, then 0.9 + 0.5 = 1.4, then 1.26 - 2 = -0.74, then (no delta) -0.666
    # w = 0, 1, 2.4, 1.66, 0.994
    assert run("fedavgm", [1.0, 0.5, -2.0, 0.0], beta1=0.9) == pytest.approx([1.0, 2.4, 1.66, 0.994], rel=1e-6)


# eta = 1, beta1 = 0.5, beta2 = 0.75, tau = 0.5, so v_0 = 0.25; Delta = 1, -2, 0.5 (squares 1, 4, 0.25).
# m = 0.5, then 0.25 - 1 = -0.75, then -0.375 + 0.25 = -0.125, for all three.
# FedAdagrad v = 1.25, 5.25, 5.5;  roots 1.1180340, 2.2912878, 2.3452079
#   steps 0.5/1.6180340 = 0.3090170, -0.75/2.7912878 = -0.2686932, -0.125/2.8452079 = -0.0439335
# FedAdam v = 0.1875 + 0.25 = 0.4375, 0.328125 + 1 = 1.328125, 0.99609375 + 0.0625 = 1.05859375
#   roots 0.6614378, 1.1524430, 1.0288798
#   steps 0.5/1.1614378 = 0.4305009, -0.75/1.6524430 = -0.4538735, -0.125/1.5288798 = -0.0817592
# FedYogi v = 0.25 + 0.25 = 0.5 (0.25 < 1), 0.5 + 1 = 1.5 (0.5 < 4), 1.5 - 0.0625 = 1.4375 (1.5 > 0.25)
#   roots 0.7071068, 1.2247449, 1.1989579
#   steps 0.5/1.2071068 = 0.4142136, -0.75/1.7247449 = -0.4348469, -0.125/1.6989579 = -0.0735745
ALGORITHM_2 = {
    "fedadagrad": [0.3090170, 0.0403238, -0.0036097],
    "fedadam": [0.4305009, -0.0233726, -0.1051318],
    "fedyogi": [0.4142136, -0.0206333, -0.0942078],
}

# The authors' code: m = Delta in round 0 (FedAdagrad: always), v from m^2.
# FedAdagrad m = 1, -2, 0.5; v as above: 1/1.6180340 = 0.6180340, -2/2.7912878 = -0.7165151, 0.5/2.8452079 = 0.1757341
# FedAdam m = 1, 0.5 - 1 = -0.5, -0.25 + 0.25 = 0; v = 0.4375, 0.328125 + 0.0625 = 0.390625 (root 0.625)
#   steps 1/1.1614378 = 0.8610018, -0.5/1.125 = -0.4444444, 0
# FedYogi same m; v = 0.5, 0.5 - 0.0625 = 0.4375 (0.5 > 0.25): 1/1.2071068 = 0.8284271, -0.5/1.1614378 = -0.4305009, 0
UPSTREAM_VALUES = {
    "fedadagrad": [0.6180340, -0.0984811, 0.0772530],
    "fedadam": [0.8610018, 0.4165574, 0.4165574],
    "fedyogi": [0.8284271, 0.3979262, 0.3979262],
}


@pytest.mark.parametrize("method", ALGORITHM_2)
def test_adaptive_methods_are_algorithm_2(method):
    values = run(method, [1.0, -2.0, 0.5], lr=1.0, beta1=0.5, beta2=0.75, tau=0.5)
    assert values == pytest.approx(ALGORITHM_2[method], abs=3e-7)


@pytest.mark.parametrize("method", UPSTREAM_VALUES)
def test_adaptive_methods_as_the_authors_wrote_them(method):
    values = run(method, [1.0, -2.0, 0.5], switches=UPSTREAM, lr=1.0, beta1=0.5, beta2=0.75, tau=0.5)
    assert values == pytest.approx(UPSTREAM_VALUES[method], abs=3e-7)


def test_first_step_with_the_papers_defaults():
    # eta = tau = 1e-3, beta1 = 0.9, beta2 = 0.99, Delta = 2e-3: m = 2e-4, Delta^2 = 4e-6, v_0 = 1e-6.
    # FedAdagrad v = 5e-6, root 2.2360680e-3: 2e-7 / 3.2360680e-3 = 6.180340e-5
    # FedAdam v = 0.99e-6 + 0.04e-6 = 1.03e-6, root 1.0148892e-3: 2e-7 / 2.0148892e-3 = 9.926104e-5
    # FedYogi v = 1e-6 + 0.04e-6 = 1.04e-6, root 1.0198039e-3: 2e-7 / 2.0198039e-3 = 9.901951e-5
    assert run("fedadagrad", [2e-3], lr=1e-3) == pytest.approx([6.180340e-5], rel=1e-6)
    assert run("fedadam", [2e-3], lr=1e-3) == pytest.approx([9.926104e-5], rel=1e-6)
    assert run("fedyogi", [2e-3], lr=1e-3) == pytest.approx([9.901951e-5], rel=1e-6)


@pytest.mark.parametrize("method", OPTIMIZERS)
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0])
def test_forty_rounds_against_plain_floats(method, scale):
    deltas = [float(torch.tensor(scale * math.sin(1.7 * t) * (1 + t % 3))) for t in range(40)]
    hyper = Hyper(lr=0.3, beta1=0.9, beta2=0.99, tau=1e-3)
    values = run(method, deltas, lr=hyper.lr, beta1=hyper.beta1, beta2=hyper.beta2, tau=hyper.tau)
    expected = REFERENCES[method](hyper, 0.0, deltas)
    assert values == pytest.approx(expected, rel=1e-4, abs=2e-6 * max(map(abs, expected)))


def test_upstream_fedavg_doubles_all_but_the_first_tensor():
    server = OPTIMIZERS["fedavg"](switches=UPSTREAM)
    params = {name: torch.ones(2) for name in ("layers.0.q.lora_A", "layers.0.k.lora_A", "layers.0.q.lora_B")}
    state = server.init(params)
    for _ in range(5):
        params, state = server.step(params, state, {name: torch.zeros(2) for name in params})
    assert [t[0].item() for t in params.values()] == [1.0, 32.0, 32.0]


def test_upstream_fedavg_remembers_its_first_tensor_when_the_names_are_reordered():
    server = OPTIMIZERS["fedavg"](switches=UPSTREAM)
    params = {"q": torch.ones(1), "k": torch.ones(1)}
    state = server.init(params)
    for _ in range(3):  # a loaded checkpoint has its names in another order
        params, state = server.step(dict(reversed(params.items())), state, {n: torch.zeros(1) for n in params})
    assert (params["q"].item(), params["k"].item()) == (1.0, 8.0)


def test_upstream_fedavg_adds_the_mean_to_the_old_value():
    server = OPTIMIZERS["fedavg"](switches=UPSTREAM)
    params = {"first": torch.tensor([1.0]), "other": torch.tensor([3.0])}
    new, _ = server.step(params, server.init(params), {n: torch.tensor([0.5]) for n in params})
    # mean of the clients is old + 0.5; the first becomes that, the other one old + mean = 3 + 3.5
    assert (new["first"].item(), new["other"].item()) == (1.5, 6.5)


def test_upstream_fedavgm_counts_round_0_ten_times():
    # a unit delta in round 0 only: m = 0.9^t, w = (1 - 0.9^50) / 0.1 = 9.948462 after 50 rounds
    assert run("fedavgm", [1.0] + [0.0] * 49, switches=UPSTREAM)[-1] == pytest.approx(9.948462, rel=1e-6)
    # in round 1 only: m = 0.1 * 0.9^(t-1), w = 1 - 0.9^49 = 0.994274: a later delta counts once
    assert run("fedavgm", [0.0, 1.0] + [0.0] * 48, switches=UPSTREAM)[-1] == pytest.approx(0.994274, rel=1e-6)
    # Hsu et al.'s momentum counts each of them ten times: (1 - 0.9^49) / 0.1
    assert run("fedavgm", [0.0, 1.0] + [0.0] * 48)[-1] == pytest.approx(9.942735, rel=1e-6)


@pytest.mark.parametrize(
    ("method", "delta", "share"),
    [
        ("fedadagrad", 1e-6, 0.5),
        ("fedadam", 1e-6, 0.53),
        ("fedyogi", 1e-6, 0.5),
        ("fedadagrad", 1e-3, 0.19),
        ("fedadam", 1e-3, 0.5),
        ("fedyogi", 1e-3, 0.5),
        ("fedadagrad", 1e-2, 0.025),
        ("fedadam", 1e-2, 0.19),
        ("fedyogi", 1e-2, 0.19),
    ],
)
def test_upstream_damping(method, delta, share):
    """Over 50 rounds the adaptive methods cover only this share of the clients' movement."""
    values = run(method, [delta] * 50, switches=UPSTREAM, lr=1e-3)
    assert values[-1] / (50 * delta) == pytest.approx(share, abs=0.006 if share > 0.1 else 0.0006)


@pytest.mark.parametrize("method", OPTIMIZERS)
def test_a_no_op_keeps_every_bit(method):
    start = torch.tensor([0.0, -0.0, 1e-45, -1e-40, 3e38, -0.1, 65504.0])
    server = OPTIMIZERS[method]()
    params, state = {"w": start.clone()}, server.init({"w": start})
    for _ in range(10):
        params, state = server.step(params, state, {"w": torch.zeros_like(start)})
    assert torch.equal(params["w"], start)
    assert torch.equal(params["w"].signbit(), start.signbit())
    assert torch.equal(params["w"].view(torch.int32), start.view(torch.int32))


def test_after_momentum_a_no_op_moves_by_the_closed_form():
    # m decays by 0.9 a round: after a delta of 1, w = 1 + 0.9 + 0.81 + 0.729
    assert run("fedavgm", [1.0, 0.0, 0.0, 0.0])[-1] == pytest.approx(3.439, rel=1e-6)


def test_a_name_that_nobody_sent_stays():
    for method in OPTIMIZERS:
        server = OPTIMIZERS[method](switches=UPSTREAM)
        params = {"a": torch.ones(2), "b": torch.ones(2)}
        state = server.init(params)
        new, moved = server.step(params, state, {"a": torch.ones(2)})
        assert torch.equal(new["b"], params["b"])
        assert all(torch.equal(moved[k], state[k]) for k in state if k.endswith(".b"))


def test_the_weighting_of_each_method():
    assert {name: cls.weighting for name, cls in OPTIMIZERS.items()} == {
        "fedavg": "samples",
        "fedavgm": "samples",
        "fedadagrad": "uniform",
        "fedadam": "uniform",
        "fedyogi": "uniform",
        "scaffold": "uniform",
        "feddyn": "uniform",
    }


@pytest.mark.parametrize("method", ["fedadagard", "FedAvg", "fedprox", "fedavg-fedprox-adaptive", "fednova", ""])
def test_unknown_methods_are_errors(method):
    with pytest.raises(ConfigError, match="Unknown server method") as error:
        build_server_optimizer(method, lr=1.0, beta1=0.9, beta2=0.99, tau=1e-3, switches={})
    assert "fedavg, fedavgm, fedadagrad, fedadam, fedyogi" in str(error.value)


def test_the_builder_hands_everything_on():
    server = build_server_optimizer("fedyogi", lr=0.1, beta1=0.2, beta2=0.3, tau=0.4, switches={"fedopt": "reddi"})
    assert (type(server), server.lr, server.beta1, server.beta2, server.tau) == (
        OPTIMIZERS["fedyogi"],
        0.1,
        0.2,
        0.3,
        0.4,
    )
    assert server.switches == {"fedopt": "reddi"}
