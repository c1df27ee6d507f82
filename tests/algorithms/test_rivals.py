"""FedLC, FediLoRA's two halves and FedRPCA: numbers by hand, the limits in which they are FedAvg, and refusals."""

from __future__ import annotations

import math

import pytest
import torch

from fs_fedmllm.aggregators import RunningMean
from fs_fedmllm.aggregators.dimension_wise import dimension_wise_mean
from fs_fedmllm.aggregators.robust_pca import robust_pca, robust_pca_mean
from fs_fedmllm.algorithms.client import ClientContext
from fs_fedmllm.algorithms.fedilora import FediLoRAClient, FediLoRAConfig, edited
from fs_fedmllm.algorithms.fedlc import FedLC, FedLCConfig, calibration
from fs_fedmllm.errors import ConfigError

A, B, OTHER = "layers.0.q.lora_A.weight", "layers.0.q.lora_B.weight", "layers.0.norm.weight"


# --- FedLC ----------------------------------------------------------------------------------------------------------


def test_the_calibration_by_hand() -> None:
    # n = 16, 81, 1: n^(-1/4) = 1/2, 1/3, 1; moved so that the most frequent label's is 0
    assert calibration([16, 81, 1], 2.0) == pytest.approx([2 * (1 / 3 - 1 / 2), 0.0, 2 * (1 / 3 - 1)])
    assert calibration([5, 5, 5], 1.0) == (0.0, 0.0, 0.0)
    assert calibration([16, 0], 1.0) == pytest.approx([0.0, 0.5 - 100.0])  # out of the softmax


def test_it_is_the_papers_loss_among_the_options() -> None:
    """Moving all shifts by one number changes no softmax over the options."""
    counts, z, tau = [3, 40, 7], torch.tensor([0.3, -0.2, 1.1]), 1.5
    paper = z - tau * torch.tensor([n**-0.25 for n in counts])
    ours = z + torch.tensor(calibration(counts, tau))
    torch.testing.assert_close(torch.log_softmax(ours, 0), torch.log_softmax(paper, 0))


def test_a_client_calibrates_by_its_own_counts() -> None:
    context = ClientContext(client=1, names=[], device=torch.device("cpu"), label_counts=(16, 81))
    half = FedLC.client(FedLCConfig(tau=1.0), context)
    assert half is not None and half.option_shift == pytest.approx([1 / 3 - 1 / 2, 0.0])
    assert FedLC.client(FedLCConfig(), ClientContext(1, [], torch.device("cpu"))) is None


# --- FediLoRA -------------------------------------------------------------------------------------------------------


def test_the_least_similar_layer_is_brought_back_by_hand() -> None:
    one = torch.tensor([[1.0, 0.0]])
    received = {"a.lora_A": one, "b.lora_A": one, "b.lora_B": torch.zeros(1)}
    local = {"a.lora_A": torch.tensor([[2.0, 0.1]]), "b.lora_A": torch.tensor([[3.0, 4.0]]), "b.lora_B": torch.ones(1)}
    found, name = edited(local, received, 0.95)
    assert name == "b.lora_A"  # cosine 0.6: 0.4 (1, 0) + 0.6 (3, 4)
    torch.testing.assert_close(found[name], torch.tensor([[2.2, 2.4]]))
    assert all(torch.equal(found[other], local[other]) for other in ("a.lora_A", "b.lora_B"))
    turned, _ = edited({"b.lora_A": torch.tensor([[-1.0, 0.0]])}, received, 0.95)
    assert torch.equal(turned["b.lora_A"], received["b.lora_A"])  # a similarity below 0 counts as 0
    same, nothing = edited(received, received, 0.95)
    assert nothing is None and all(torch.equal(same[n], received[n]) for n in received)


def test_a_client_of_a_lower_rank_compares_the_rows_that_it_has() -> None:
    half = FediLoRAClient(FediLoRAConfig())
    start = {A: torch.eye(3), B: torch.zeros(2, 3)}
    half.begin(start, {}, start)
    sent = {A: torch.tensor([[0.0, 1.0, 0.0]]), B: torch.ones(2, 1)}
    done, kept = half.finish(start, sent)
    assert torch.equal(done[A], torch.tensor([[1.0, 0.0, 0.0]])) and torch.equal(done[B], sent[B]) and kept == {}


def test_each_dimension_is_averaged_over_the_clients_that_have_it() -> None:
    """Ranks 1, 3 and 2 with weights 1, 2 and 3; dimension 2 has one client, a fourth has none."""
    params = {A: torch.zeros(4, 2), B: torch.zeros(2, 4), OTHER: torch.zeros(1)}
    rows = {1: 10.0, 2: 20.0, 3: 30.0}
    updates = [
        (client, weight, {A: torch.full((4, 2), rows[client]), B: torch.full((2, 4), -rows[client]),
                          OTHER: torch.tensor([rows[client]])})
        for client, weight in ((1, 1.0), (2, 2.0), (3, 3.0))
    ]  # fmt: skip
    mean = dimension_wise_mean(params, updates, {1: 1, 2: 3, 3: 2})
    expected = [(10 + 40 + 90) / 6, (40 + 90) / 5, 20.0, 0.0]
    torch.testing.assert_close(mean[A], torch.tensor(expected)[:, None].expand(4, 2))
    torch.testing.assert_close(mean[B], -torch.tensor(expected)[None].expand(2, 4))
    torch.testing.assert_close(mean[OTHER], torch.tensor([140 / 6]))


def cohort(seed: int = 1, clients: int = 4):
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(shape, generator=generator)

    return [(client, float(client + 1), {A: drawn(3, 5), B: drawn(4, 3)}) for client in range(1, clients + 1)]


def plain_mean(updates):
    mean = RunningMean({A: torch.zeros(3, 5), B: torch.zeros(4, 3)})
    for client, weight, delta in updates:
        mean.add(client, weight, delta)
    return mean.mean()


def test_equal_ranks_are_the_plain_mean() -> None:
    updates, plain = cohort(), plain_mean(cohort())
    mean = dimension_wise_mean({A: torch.zeros(3, 5), B: torch.zeros(4, 3)}, updates, dict.fromkeys(range(1, 5), 3))
    for name in plain:
        torch.testing.assert_close(mean[name], plain[name])


# --- FedRPCA --------------------------------------------------------------------------------------------------------


def test_a_known_low_rank_and_sparse_sum_is_taken_apart() -> None:
    """The exact recovery of Candes et al. 2011: rank 1 of 60 x 40, and 5 % of large entries."""
    generator = torch.Generator().manual_seed(3)
    low = torch.randn(60, 1, generator=generator).double() @ torch.randn(1, 40, generator=generator).double()
    places = torch.rand(60, 40, generator=generator) < 0.05
    sparse = torch.where(places, 20 * torch.sign(torch.randn(60, 40, generator=generator)), 0.0).double()
    found_low, found_sparse = robust_pca(low + sparse)
    assert float((found_low - low).norm() / low.norm()) < 1e-4
    assert float((found_sparse - sparse).norm() / sparse.norm()) < 1e-4
    torch.testing.assert_close(found_low + found_sparse, low + sparse, rtol=0, atol=1e-12)


def test_what_one_client_alone_does_is_scaled_and_what_all_do_is_not() -> None:
    """Ten clients with one update, but for a single entry of one of them; beta times a tenth of it comes through."""
    common = torch.randn(40, generator=torch.Generator().manual_seed(5))
    updates = []
    for client in range(1, 11):
        own = common.clone()
        if client == 4:
            own[7] += 30.0
        updates.append((client, 1.0, {A: own.reshape(8, 5)}))
    mean, share = robust_pca_mean(updates, 2.0)
    expected = common.clone()
    expected[7] += 2.0 * 30.0 / 10
    torch.testing.assert_close(mean[A].flatten(), expected, rtol=0, atol=0.05)
    assert 0 < share < 1


def test_scale_one_is_the_plain_mean_and_nothing_moved_is_nothing() -> None:
    updates, plain = cohort(), plain_mean(cohort())
    mean, _ = robust_pca_mean(updates, 1.0)
    for name in plain:
        torch.testing.assert_close(mean[name], plain[name], rtol=0, atol=1e-6)
    still = [(client, weight, {n: torch.zeros_like(t) for n, t in delta.items()}) for client, weight, delta in updates]
    unmoved, share = robust_pca_mean(still, 2.0)
    assert share == 0.0 and not any(bool(tensor.any()) for tensor in unmoved.values())


# --- In a run -------------------------------------------------------------------------------------------------------

RANKS = ("fedmllm.aggregation.ranks", "[2, 8, 4]", "federate.client_num", 3, "federate.sample_client_num", 3,
         "data.splitter_args", "[{alpha: 5.0, image_clients: 1, text_clients: 2}]")  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ("fedmllm.regularizer.type", "fedlc"),
        ("fedmllm.regularizer.type", "fedilora", "fedmllm.aggregation.lora", "dimension_wise", *RANKS),
        # Of two layers: every tensor is taken apart in up to a thousand steps.
        (
            "fedmllm.aggregation.rule",
            "robust_pca",
            "federate.method",
            "fedyogi",
            *("model.fedmllm.lora.target", r".*language_model\.layers\.([45])\.self_attn\.q_proj"),
        ),
    ],
    ids=["fedlc", "fedilora", "robust_pca"],
)
def test_a_short_run_moves_and_is_not_fedavg(short_config, words) -> None:
    from fs_fedmllm.runs.simulation import run

    results, folder = run(short_config("cross_i3t7", *words, "expname", "it", "train.optimizer.lr", 1.0e-3))
    assert results["rounds"] == 2 and not results["refused"]
    assert math.isfinite(results["evaluations"][-1]["test_loss"])
    if "robust_pca" in words:
        assert '"sparse_share"' in (folder.path / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fedmllm.regularizer.type", "fedlc", "fedmllm.label_prior", 1), "both shift the options' logits"),
        (("fedmllm.regularizer.type", "fedilora", "fedmllm.aggregation.lora", "frozen_a"), "freezes it"),
        (("fedmllm.regularizer.type", "fedilora", "federate.method", "scaffold"), "sums what the training moved"),
        (("fedmllm.regularizer.type", "fedilora", "model.fedmllm.peft", "loha"), "edits LoRA's A"),
        (("fedmllm.aggregation.lora", "dimension_wise"), "where all clients have one rank"),
        (("fedmllm.aggregation.lora", "dimension_wise", "fedmllm.aggregation.rule", "norm_bounded", *RANKS),
         "is a mean of its own"),
        (("fedmllm.aggregation.rule", "robust_pca", "federate.sample_client_num", 1), "compares clients"),
        (("fedmllm.aggregation.rule", "robust_pca", "fedmllm.aggregation.lora", "exact"), "averages their products"),
        (("fedmllm.aggregation.sparse_scale", 3), "is read by robust_pca"),
        (("fedmllm.aggregation.rule", "robust_pca", "federate.method", "feddyn"), "so it needs"),
    ],
)  # fmt: skip
def test_refusals(short_config, words, says) -> None:
    with pytest.raises(ConfigError, match=says):
        short_config("cross_i3t7", *words)
