"""Averaging products of LoRA factors exactly, with equal and with unequal ranks."""

import pytest
import torch

from fs_fedmllm.aggregators.lora_exact import exact_lora_mean
from fs_fedmllm.aggregators.updates import weighted_mean
from fs_fedmllm.algorithms import FedAvg
from fs_fedmllm.algorithms.factors import pairs
from fs_fedmllm.algorithms.frozen_a import without_a
from fs_fedmllm.algorithms.lora_ranks import from_rank, to_rank
from fs_fedmllm.errors import UpdateError

A, B = "layers.0.q_proj.lora_A.weight", "layers.0.q_proj.lora_B.weight"


def adapter(rank=4, d_in=12, d_out=9, seed=0, zero_b=False):
    generator = torch.Generator().manual_seed(seed)
    b = torch.zeros(d_out, rank) if zero_b else torch.randn(d_out, rank, generator=generator)
    return {A: torch.randn(rank, d_in, generator=generator) / d_in**0.5, B: b, "head": torch.ones(3)}


def moved(params, seed, size=0.5):
    """A client's delta."""
    generator = torch.Generator().manual_seed(seed)
    return {n: size * torch.randn(t.shape, generator=generator) for n, t in params.items()}


def product(params):
    return params[B].double() @ params[A].double()


def plus(params, delta):
    return {n: t + delta[n] if n in delta else t for n, t in params.items()}


def mean_product(params, updates):
    total = sum(w for _, w, _ in updates)
    return sum(w / total * product(plus(params, delta)) for _, w, delta in updates)


def truncated(matrix, rank):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank]


def norm(matrix):
    return torch.linalg.matrix_norm(matrix).item()


def step(params, updates):
    delta, report = exact_lora_mean(params, updates)
    return plus(params, delta), report


def test_the_best_rank_r_answer():
    params = adapter()
    updates = [(k, w, moved(params, k)) for k, w in ((1, 5.0), (2, 1.0), (3, 14.0))]
    new, report = step(params, updates)
    wanted = mean_product(params, updates)
    best = truncated(wanted, 4)
    assert norm(product(new) - best) < 1e-6 * norm(best)
    assert report[A].rank == 9  # 3 clients of rank 4, but the matrix has 9 rows only
    assert report[A].residual == pytest.approx(norm(wanted - best) / norm(wanted), rel=1e-5)
    naive = plus(params, weighted_mean(updates))
    assert report[A].naive == pytest.approx(norm(wanted - product(naive)) / norm(wanted), rel=1e-5)
    assert report[A].naive > 1.5 * report[A].residual
    torch.testing.assert_close(new["head"], naive["head"])  # other tensors: the plain mean


def test_by_hand():
    # One entry each: A = (1), B = (1) becomes B A = 2 * 2 = 4 and 0 * 6 = 0, equal weights: product 2 = sqrt2 * sqrt2.
    # Averaging apart gives B = 1, A = 4: product 4, off by 2 of 2.
    params = {A: torch.ones(1, 1), B: torch.ones(1, 1)}
    updates = [
        (1, 1.0, {A: torch.tensor([[1.0]]), B: torch.tensor([[1.0]])}),
        (2, 1.0, {A: torch.tensor([[5.0]]), B: torch.tensor([[-1.0]])}),
    ]
    new, report = step(params, updates)
    assert new[A].item() == pytest.approx(2**0.5, rel=1e-6)
    assert new[B].item() == pytest.approx(2**0.5, rel=1e-6)
    assert (report[A].rank, report[A].residual, report[A].naive) == (1, pytest.approx(0, abs=1e-9), pytest.approx(1.0))


def test_the_split_is_symmetric():
    """sqrt(S) on one factor only leaves the product wrong: 82 % off in one published code base."""
    params = adapter()
    updates = [(k, 1.0, moved(params, k)) for k in (1, 2)]
    new, _ = step(params, updates)
    torch.testing.assert_close(new[B].norm(dim=0), new[A].norm(dim=1), rtol=1e-5, atol=1e-6)
    u, s, vh = torch.linalg.svd(mean_product(params, updates), full_matrices=False)
    one_sided = u[:, :4] @ torch.diag(s[:4].sqrt()) @ vh[:4]
    best = truncated(mean_product(params, updates), 4)
    assert norm(one_sided - best) > 0.1 * norm(best)
    assert new[A].norm(dim=1).tolist() == pytest.approx(s[:4].sqrt().tolist(), rel=1e-5)  # sorted


def test_one_client_keeps_its_product_exactly():
    params = adapter()
    updates = [(1, 3.0, moved(params, 1))]
    new, report = step(params, updates)
    wanted = product(plus(params, updates[0][2]))
    assert norm(product(new) - wanted) < 1e-6 * norm(wanted)
    assert report[A].residual < 1e-9
    assert report[A].rank == 4


@pytest.mark.parametrize("zero_b", [True, False])
def test_a_no_op_round_is_bit_identical(zero_b):
    """The SVD alone would turn a fresh adapter (B = 0) into A = B = 0, which no gradient can leave."""
    params = adapter(zero_b=zero_b)
    zero = {n: torch.zeros_like(t) for n, t in params.items()}
    delta, report = exact_lora_mean(params, [(1, 1.0, zero), (2, 5.0, zero)])
    server = FedAvg()
    new, _ = server.step(params, server.init(params), delta)
    assert all(torch.equal(new[n], params[n]) for n in params)
    assert report == {}


def test_no_direction_dies():
    """Only one direction of B was learnt: the other rows of A stay alive, outside it, and the product is untouched."""
    params = adapter(zero_b=True)
    delta = {A: torch.zeros(4, 12), B: torch.outer(torch.linspace(-1, 1, 9), torch.tensor([1.0, 0, 0, 0]))}
    new, report = step(params, [(1, 1.0, delta), (2, 1.0, delta)])
    wanted = product(plus(params, delta))
    assert report[A].rank == 1
    assert norm(product(new) - wanted) < 1e-6 * norm(wanted)
    assert not new[B][:, 1:].any()
    lengths = new[A].norm(dim=1)
    assert lengths[1:].tolist() == pytest.approx([params[A].norm(dim=1).mean().item()] * 3, rel=1e-5)
    directions = new[A] / lengths[:, None]
    torch.testing.assert_close(directions @ directions.T, torch.eye(4), rtol=0, atol=1e-5)
    spanned = torch.linalg.lstsq(params[A].T, new[A].T).solution  # still within the old A's rows
    torch.testing.assert_close(params[A].T @ spanned, new[A].T, rtol=0, atol=1e-4)


def test_everything_cancels():
    params = adapter()
    updates = [(k, 1.0, {A: torch.zeros(4, 12), B: -params[B]}) for k in (1, 2)]
    new, report = step(params, updates)
    assert report[A].rank == 0
    assert norm(product(new)) == 0
    assert new[A].norm(dim=1).min() > 0.1
    assert bool(torch.isfinite(new[A]).all())


def test_more_rank_than_width():
    params = adapter(rank=4, d_in=3, d_out=2)
    updates = [(k, 1.0, moved(params, k)) for k in (1, 2)]
    new, report = step(params, updates)
    assert norm(product(new) - mean_product(params, updates)) < 1e-6
    assert report[A].rank == 2


def test_arrival_order_does_not_matter_and_inputs_stay():
    params = adapter()
    updates = [(k, float(k), moved(params, k)) for k in (1, 2, 3)]
    expected, _ = exact_lora_mean(params, updates)
    got, _ = exact_lora_mean(params, updates[::-1])
    assert all(torch.equal(expected[n], got[n]) for n in expected)
    assert all(torch.equal(params[n], adapter()[n]) for n in params)
    assert all(torch.equal(d[n], moved(params, k)[n]) for k, _, d in updates for n in d)


def test_the_signs_are_a_function_of_the_product():
    """The same product from other factors gives the same new factors."""
    params, delta = adapter(), moved(adapter(), 1)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(5)))[0]
    client = plus(params, delta)
    turned = {A: turn @ client[A] - params[A], B: client[B] @ turn.T - params[B]}
    one, _ = step(params, [(1, 1.0, delta)])
    other, _ = step(params, [(1, 1.0, turned)])
    for name in (A, B):
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-4)


def test_a_client_that_sends_b_only_keeps_the_global_a():
    params = adapter()
    only_b = {B: moved(params, 1)[B]}
    updates = [(1, 1.0, only_b), (2, 3.0, moved(params, 2)), (3, 2.0, {"head": torch.ones(3)})]
    new, _ = step(params, updates)
    best = truncated(mean_product(params, updates[:2]), 4)
    assert norm(product(new) - best) < 1e-6 * norm(best)


def test_a_pair_that_nobody_sent_is_absent():
    params = adapter() | {n.replace("0", "1"): t for n, t in adapter(seed=1).items() if n != "head"}
    delta, report = exact_lora_mean(params, [(1, 1.0, {n: torch.ones_like(params[n]) for n in (A, B)})])
    assert set(delta) == {A, B}
    assert set(report) == {A}
    assert len(pairs(params)) == 2


def test_convolution_factors_get_the_plain_mean():
    params = {A: torch.ones(2, 3, 3, 3), B: torch.ones(5, 2, 1, 1)}
    updates = [(k, 1.0, moved(params, k)) for k in (1, 2)]
    delta, report = exact_lora_mean(params, updates)
    assert report == {}
    assert all(torch.equal(delta[n], t) for n, t in weighted_mean(updates).items())


# Heterogeneous ranks -------------------------------------------------------------------------------------------------


def test_ranks_per_client():
    params = step(adapter(), [(1, 1.0, moved(adapter(), 9))])[0]  # factors sorted by singular value
    ranks, updates, products = {1: 1, 2: 2, 3: 4}, [], []
    for client, rank in ranks.items():
        received = to_rank(params, rank)
        assert received[A].shape == (rank, 12)
        assert received[B].shape == (9, rank)
        torch.testing.assert_close(product(received), truncated(product(params), rank), rtol=0, atol=1e-5)
        trained = plus(received, moved(received, client, size=0.2))
        products.append(product(trained))
        sent = from_rank(trained, params)
        torch.testing.assert_close(product(sent), product(trained))
        updates.append((client, 1.0, {n: sent[n] - params[n] for n in params}))
    new, report = step(params, updates)
    wanted = sum(products) / 3
    assert norm(product(new) - truncated(wanted, 4)) < 1e-5 * norm(wanted)
    assert report[A].residual < 0.7 * report[A].naive


def test_the_clients_scaling_goes_into_b():
    """alpha / rank differs between clients of unequal rank: what counts is scale * B A."""
    params = adapter()
    client = to_rank(adapter(seed=3), 2)
    padded = from_rank(client, params, scale=2.0)
    torch.testing.assert_close(product(padded), 2.0 * product(client))
    assert torch.equal(padded["head"], client["head"])


@pytest.mark.parametrize(
    "broken",
    [
        {A: torch.zeros(5, 12), B: torch.zeros(9, 5)},  # above the global rank
        {A: torch.zeros(2, 12), B: torch.zeros(9, 3)},  # ranks that differ
        {A: torch.zeros(2, 11), B: torch.zeros(9, 2)},  # another width
        {A: torch.zeros(2, 12), B: torch.zeros(8, 2)},
        {A: torch.zeros(()), B: torch.zeros(9, 2)},  # of other dimensions
        {A: torch.zeros(2, 12), B: torch.zeros(9)},
        {A: torch.zeros(2, 12), B: torch.zeros(9, 2, 2)},
        {A: torch.zeros(0, 12), B: torch.zeros(9, 0)},
    ],
)
def test_factors_that_do_not_fit(broken):
    with pytest.raises(UpdateError, match=r"lora_A.weight' has shape \("):
        from_rank(broken, adapter())


def test_factors_of_another_model_are_left_to_the_check_of_the_update():
    strange = {"x.lora_A.weight": torch.zeros(2, 12), "x.lora_B.weight": torch.zeros(9, 2)}
    assert set(from_rank(strange, adapter())) == set(strange)


def test_frozen_a_makes_the_plain_mean_exact():
    params = adapter()
    updates = [(k, float(k), {B: moved(params, k)[B], "head": torch.ones(3)}) for k in (1, 2, 3)]
    delta = weighted_mean([(client, weight, without_a(part)) for client, weight, part in updates])
    wanted = mean_product(params, updates)
    assert norm(product(plus(params, delta)) - wanted) < 1e-6 * norm(wanted)
