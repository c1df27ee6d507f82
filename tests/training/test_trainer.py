"""The lean loop has the numbers of the stock Hugging Face trainer, and of the plain loss."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from fs_fedmllm.algorithms.proximal import Penalty, ProximalClient
from fs_fedmllm.config import LocalConfig, LoraConfig, ModelOptions
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.rounds import lean_trainer as trainer_module
from fs_fedmllm.rounds.lean_trainer import LeanTrainer, grouped
from fs_fedmllm.rounds.trainer import UpdateLog, UpdatePlan


@pytest.fixture(scope="module")
def trained(federation):
    """A model without dropout, whose steps can be compared, with its rows."""
    mllm = load_mllm(ModelOptions(lora=LoraConfig(dropout=0.0)))
    encoder = Encoder(mllm, federation.data.template, "original", None)
    rows = list(federation.data.dataset.test[:12])
    mixed = [r if i % 3 == 0 else r.showing(image=i % 3 == 1, text=i % 3 == 2) for i, r in enumerate(rows)]
    return mllm, encoder, encoder.encode(mixed)


def _state(mllm):
    return mllm.adapter.initial_state(5)


def _moved(mllm, start):
    return {n: t - start[n] for n, t in mllm.adapter.export().items()}


def test_the_answer_columns_give_the_loss_of_the_whole_sequence(trained) -> None:
    mllm, encoder, rows = trained
    mllm.adapter.load(_state(mllm))
    mllm.set_training(False)
    trainer = LeanTrainer(mllm, encoder, LocalConfig())
    batch = encoder.collate(rows, completions=True)
    with torch.no_grad():
        lean = trainer._loss_sum(batch) / batch.supervised
        logits = mllm.inner(**batch.inputs).logits
    whole = torch.full_like(batch.inputs["input_ids"], -100)
    whole[:, -batch.labels.shape[1] :] = batch.labels
    plain = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), whole[:, 1:].reshape(-1))
    assert abs(float(lean) - float(plain)) < 1e-6


def test_micro_batches_give_the_step_of_the_whole_batch(trained) -> None:
    mllm, encoder, rows = trained
    start = _state(mllm)
    moves, losses = [], []
    for micro in (0, 5):
        trainer = LeanTrainer(mllm, encoder, LocalConfig(batch_size=12, micro_batch_size=micro))
        losses.append(trainer.fit(start, rows, UpdatePlan(batches=[list(range(12))], lr=1e-3))[1].loss)
        moves.append(_moved(mllm, start))
    assert abs(losses[0] - losses[1]) < 1e-6
    for name in start:
        torch.testing.assert_close(moves[0][name], moves[1][name], rtol=0, atol=2e-5)


def test_a_forward_pass_holds_rows_of_like_length_and_kind(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouped, the passes of a step pad less than as drawn, and those without images send none through the tower."""
    mllm, encoder, rows = trained
    step = [11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert sorted(grouped(rows, step, 4)) == sorted(step)
    assert grouped(rows, step, 1) == grouped(rows, step, 12) == step  # nothing to gain: as drawn
    passes: list[list[int]] = []
    collate = encoder.collate

    def watched(chosen, completions):
        passes[-1].append(max(len(row.prompt) + len(row.completion) for row in chosen) * len(chosen))
        pictured.append({row.image is not None for row in chosen})
        return collate(chosen, completions=completions)

    monkeypatch.setattr(encoder, "collate", watched)
    trainer = LeanTrainer(mllm, encoder, LocalConfig(batch_size=12, micro_batch_size=4))
    for order in (grouped, lambda rows, indices, micro: list(indices)):
        monkeypatch.setattr(trainer_module, "grouped", order)
        passes.append([])
        pictured: list[set[bool]] = []
        trainer.fit(_state(mllm), rows, UpdatePlan(batches=[step], lr=1e-3))
        if order is grouped:
            assert pictured == [{False}, {True}, {True}]
    assert len(passes[0]) == len(passes[1]) == 3 and sum(passes[0]) < sum(passes[1])


def test_fit_equals_the_stock_trainer(trained) -> None:
    mllm, encoder, rows = trained
    start = _state(mllm)
    local = LocalConfig(batch_size=4)
    batches = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    trainer = LeanTrainer(mllm, encoder, local)
    lean, log = trainer.fit(start, rows, UpdatePlan(batches=batches, lr=1e-3))

    mllm.adapter.load(start)
    stock = LeanTrainer(mllm, encoder, local)
    stock.args.learning_rate = 1e-3
    ordered = [rows[i] for batch in batches for i in batch]
    stock.get_train_dataloader = lambda: [stock._collate(ordered[i : i + 4]) for i in range(0, 12, 4)]
    stock.train_dataset = ordered
    result = stock.train()
    assert result.global_step == log.steps == 3
    assert abs(result.training_loss - log.loss) < 1e-5
    for name, value in mllm.adapter.export().items():
        torch.testing.assert_close(value, lean[name], rtol=0, atol=1e-6)
    assert any(not torch.equal(lean[n], start[n]) for n in start)


def test_nothing_leaks_from_one_update_to_the_next(federation) -> None:
    state = federation.initial_state()
    first = federation.clients.update(1, 0, state)
    federation.clients.update(2, 0, state)
    again = federation.clients.update(1, 0, state)
    assert all(torch.equal(first.state[n], again.state[n]) for n in state)
    assert first.log.loss == again.log.loss


def test_the_global_generators_are_left_alone(federation) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    federation.clients.update(1, 0, federation.initial_state())
    assert torch.equal(torch.rand(3), expected)


def test_a_strong_penalty_holds_the_masked_layers(federation) -> None:
    adapter = federation.mllm.adapter
    masked = tuple(i for i, layer in enumerate(adapter.layers) if layer in (4, 5))
    rows = federation.encoder.encode(federation.data.clients[1])
    start = federation.initial_state()
    turns = {}
    for gamma in (0.0, 1e5):
        pulled = [ProximalClient(Penalty(gamma, masked))]
        plan = UpdatePlan([[0, 1], [0, 1], [0, 1]], 1e-2, halves=pulled)
        trained, log = federation.trainer.fit(start, rows, plan)
        moved = {n: float((t - start[n]).norm()) for n, t in trained.items()}
        turns[gamma] = (log, moved)
    free, held = turns[0.0][1], turns[1e5][1]
    inside = [adapter.names[i] for i in masked]
    assert sum(held[n] for n in inside) < sum(free[n] for n in inside)
    assert turns[0.0][0].penalty == 0.0 and turns[1e5][0].penalty > 0.0


def test_a_loss_that_is_not_finite_is_refused(federation) -> None:
    state = federation.initial_state()
    name = next(iter(state))
    with pytest.raises(UpdateError, match="loss"):
        federation.clients.update(1, 0, state | {name.replace("lora_A", "lora_B"): torch.full_like(
            state[name.replace("lora_A", "lora_B")], float("nan"))})  # fmt: skip


def test_fewer_rows_than_a_batch_still_train(federation) -> None:
    update = federation.trainer
    rows = federation.encoder.encode(federation.data.clients[1][:1])
    plan = dataclasses.replace(federation.clients.plan(1, 0, 1), lr=1e-3)
    _, log = update.fit(federation.initial_state(), rows, plan)
    assert log.rows == log.steps == 2


def test_another_trainer_can_stand_in_its_place(federation) -> None:
    """Everything around the training is the client's side; what trains is a protocol."""
    plans = []

    class Doubling:
        def fit(self, start, rows, plan):
            plans.append(plan)
            assert sorted(rows) == plan.rows
            return {name: 2 * tensor for name, tensor in start.items()}, UpdateLog(0.0, 0.0, 0.0, 1, len(rows), 0.0)

    state = federation.initial_state()
    update = dataclasses.replace(federation, trainer=Doubling()).clients.update(1, 0, state)
    assert all(torch.equal(update.state[name], 2 * tensor) for name, tensor in state.items())
    assert plans[0].batches == federation.clients.plan(1, 0, update.rows).batches and update.log.steps == 1
