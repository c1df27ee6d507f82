"""The label prior: its numbers by hand, where it goes, and that it is each client's own."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from fs_fedmllm.algorithms.label_prior import LabelPriorClient, label_prior
from fs_fedmllm.config import LocalConfig, LoraConfig, ModelOptions
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.evaluation.options import OptionTokens, options_of
from fs_fedmllm.models.batch import Batch
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.rounds.lean_trainer import LeanTrainer
from fs_fedmllm.rounds.option_shift import shifted_logits, task_loss_sum
from fs_fedmllm.rounds.trainer import UpdatePlan
from fs_fedmllm.scenarios.federated_data import option_counts
from fs_fedmllm.scenarios.fitting import fitting_template


def test_the_shift_by_hand() -> None:
    # counts 3, 1, 0: (n + 0.1) / sum = 3.1 / 4.3, 1.1 / 4.3, 0.1 / 4.3; three options
    expected = [math.log(3 * 3.1 / 4.3), math.log(3 * 1.1 / 4.3), math.log(3 * 0.1 / 4.3)]
    assert label_prior([3, 1, 0], 1.0) == pytest.approx(expected)
    assert label_prior([3, 1, 0], 0.5) == pytest.approx([value / 2 for value in expected])
    assert label_prior([3, 1, 0], 0.0) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("options", [2, 3, 7, 26])
@pytest.mark.parametrize("rows", [0, 1, 3, 7, 1009])
def test_even_labels_shift_nothing_to_the_bit(options: int, rows: int) -> None:
    assert label_prior([rows] * options, 1.0) == (0.0,) * options
    assert UpdatePlan(batches=[[0]], lr=1.0, halves=[LabelPriorClient([rows] * options, 1.0)]).option_shift == ()


def test_shifts_of_several_halves_add_up() -> None:
    halves = [LabelPriorClient([3, 1], tau) for tau in (1.0, 2.0)]
    shift = UpdatePlan(batches=[[0]], lr=1.0, halves=halves).option_shift
    assert shift == pytest.approx(label_prior([3, 1], 3.0))


def test_the_loss_by_hand() -> None:
    """Two rows of four labels; the options part at an answer's second token."""
    ignored, options = -100, OptionTokens(prefix=(9,), decisions=(2, 5))
    labels = torch.tensor([[ignored, 9, 2, 7], [ignored, ignored, 9, 5]])
    logits = torch.randn(2, 4, 11, generator=torch.Generator().manual_seed(1))
    shift = (0.25, -1.5)
    wanted = 0.0
    for row, (first, answer) in enumerate([(1, (9, 2, 7)), (2, (9, 5))]):
        for place, token in enumerate(answer):
            own = logits[row, first + place - 1].clone()
            if place == 1:  # the deciding token
                own[2], own[5] = own[2] + shift[0], own[5] + shift[1]
            wanted -= float(F.log_softmax(own, dim=-1)[token])
    batch = Batch({}, labels)
    assert float(task_loss_sum(batch, logits, options, shift)) == pytest.approx(wanted, abs=1e-5)
    assert torch.equal(task_loss_sum(batch, logits, options, ()), batch.loss_sum(logits))
    moved = (shifted_logits(logits, labels, options, shift) != logits).nonzero().tolist()
    assert moved == [[0, 1, 2], [0, 1, 5], [1, 2, 2], [1, 2, 5]]


@pytest.fixture(scope="module")
def tiny(federation):
    mllm = load_mllm(ModelOptions(lora=LoraConfig(dropout=0.0)))
    encoder = Encoder(mllm, federation.data.template, "original", None)
    rows = list(federation.data.dataset.test[:6])
    return (
        mllm,
        encoder,
        encoder.encode([r if i % 2 else r.showing(image=True, text=False) for i, r in enumerate(rows)]),
    )


def test_the_deciding_token_of_real_rows_is_the_one_that_evaluation_reads(tiny) -> None:
    """The shifted columns are those whose logits the forced choice of an evaluation compares."""
    mllm, encoder, rows = tiny
    options = options_of(encoder)
    assert options is not None
    mllm.adapter.load(mllm.adapter.initial_state(5))
    mllm.set_training(False)
    batch = encoder.collate(rows, completions=True)
    with torch.no_grad():
        logits = mllm.last_logits(batch.inputs, batch.labels.shape[1])
        asked = encoder.collate(rows, completions=False, suffix=options.prefix)
        decided = mllm.last_logits(asked.inputs, 1)[:, -1][:, list(options.decisions)]
    shift = tuple(float(i + 1) for i in range(len(options.decisions)))
    places = (shifted_logits(logits, batch.labels, options, shift) != logits).nonzero()
    assert len(places) == len(rows) * len(options.decisions)
    column = {int(row): int(place) for row, place, _ in places}
    found = torch.stack([logits[row, column[row], list(options.decisions)] for row in range(len(rows))])
    torch.testing.assert_close(found, decided, rtol=0, atol=1e-4)


def test_both_trainers_train_alike_with_a_prior(tiny) -> None:
    pytest.importorskip("trl", reason="NOT RUN: trl is not installed")
    from fs_fedmllm.rounds.trl_trainer import TrlTrainer

    mllm, encoder, rows = tiny
    start = mllm.adapter.initial_state(5)
    counts = [5, 1] + [0] * (len(encoder.template.options) - 2)
    local = LocalConfig(eps=1.0e-2, micro_batch_size=2)
    ends = {}
    for name, trainer in (("lean", LeanTrainer(mllm, encoder, local)), ("trl", TrlTrainer(mllm, encoder, local))):
        for tau in (0.0, 1.0):
            halves = [LabelPriorClient(counts, tau)]
            plan = UpdatePlan(batches=[[0, 1, 2, 3], [4, 5, 0]], lr=1e-3, halves=halves)
            ends[name, tau] = trainer.fit(start, rows, plan)

    def apart(one, other) -> float:
        return max(float((ends[one][0][n] - ends[other][0][n]).abs().max()) for n in start)

    assert apart(("lean", 1.0), ("trl", 1.0)) < 1e-6 < 1e-5 < apart(("lean", 1.0), ("lean", 0.0))
    assert ends["lean", 1.0][1].loss == pytest.approx(ends["trl", 1.0][1].loss, abs=1e-5)
    assert ends["lean", 1.0][1].loss != pytest.approx(ends["lean", 0.0][1].loss, abs=1e-3)


def test_each_client_has_the_prior_of_its_own_rows(federation) -> None:
    """A prior from the counts of all clients together, which only a server could know, is another one."""
    around = dataclasses.replace(federation.clients.algorithms, label_prior=1.0)
    side = dataclasses.replace(federation.clients, algorithms=around)
    template, shifts = federation.data.template, {}
    for client, rows in federation.data.clients.items():
        (half,) = [half for half in side.halves(client) if half.option_shift]
        own = Counter(row.label for row in rows)
        counts = [own[i] for i in range(len(template.options))]
        assert tuple(half.option_shift) == label_prior(counts, 1.0)
        shifts[client] = tuple(half.option_shift)
    everybody = [row for rows in federation.data.clients.values() for row in rows]
    pooled = label_prior(option_counts(everybody, template), 1.0)
    assert len(set(shifts.values())) == len(shifts) and pooled not in shifts.values()
    assert [half for half in federation.clients.halves(1) if half.option_shift] == []  # off


def test_open_answers_have_no_prior(short_config) -> None:
    config = short_config("cross_i3t7", "fedmllm.label_prior", 1)
    from fs_fedmllm.data.sample import Dataset

    asked = Dataset("questions", "medical", (), (), ())
    with pytest.raises(ConfigError, match=r"fedmllm\.label_prior is 1, .* are open: they have no options"):
        fitting_template(config, asked)
    with pytest.raises(ConfigError, match=r"fedmllm\.predict\.combine is product, .* are open: they have no options"):
        fitting_template(short_config("cross_i3t7", "fedmllm.predict.combine", "product"), asked)


@pytest.mark.parametrize("field", ["loss_type: dft", "label_smoothing_factor: 0.1"])
def test_another_loss_of_trl_has_no_such_logits(short_config, field: str) -> None:
    with pytest.raises(ConfigError, match=r"fedmllm\.label_prior shifts .* fedmllm\.train\.sft\.\w+ chooses another"):
        short_config("cross_i3t7", "fedmllm.label_prior", 1, "fedmllm.train.backend", "trl", "fedmllm.train.sft",
                     f"{{{field}}}")  # fmt: skip
