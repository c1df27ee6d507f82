"""Two rounds of three clients by either trainer, and how far apart the adapters end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fs_fedmllm.algorithms.proximal import Penalty, ProximalClient
from fs_fedmllm.config import LocalConfig
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.mllm import MLLM
from fs_fedmllm.rounds.lean_trainer import LeanTrainer
from fs_fedmllm.rounds.trainer import UpdatePlan
from fs_fedmllm.rounds.trl_trainer import TrlTrainer

State = dict[str, torch.Tensor]


def distance(ours: State, theirs: State) -> float:
    """Relative L2 distance of two adapters."""
    apart = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in ours)
    return float((apart / sum(float(t.double().square().sum()) for t in ours.values())) ** 0.5)


def mixed(rows: Sequence[Sample]) -> list[Sample]:
    """Rows with both, with their image alone and with their text alone, in turn."""
    return [r if i % 3 == 0 else r.showing(image=i % 3 == 1, text=i % 3 == 2) for i, r in enumerate(rows)]


def two_rounds(mllm: MLLM, trainer: Any, rows: Any, lr: float, **plan: Any) -> State:
    """Two rounds of an image client, a text client and a mixed one, averaged after each."""
    state = mllm.adapter.initial_state(5)
    penalty = ProximalClient(Penalty(2.0, tuple(range(len(mllm.adapter.names)))))
    for round_index in range(2):
        updates = []
        for kind in (1, 2, 0):
            own = [i for i in range(len(rows)) if i % 3 == kind or kind == 0]
            steps = UpdatePlan(
                batches=[own[:4], own[1:4]], lr=lr, dropout_seed=round_index + kind, halves=[penalty], **plan
            )
            trained, log = trainer.fit(state, rows, steps)
            assert log.steps == 2 and log.rows == 7 and log.penalty >= 0 and log.grad_norm > 0
            updates.append(trained)
        state = {name: torch.stack([update[name] for update in updates]).mean(0) for name in state}
    return state


def apart(mllm: MLLM, encoder: Encoder, rows: Sequence[Sample], local: LocalConfig, lr: float, **plan: Any) -> float:
    """The distance between the lean loop's adapter and TRL's."""
    encoded = encoder.encode(mixed(rows))
    lean = two_rounds(mllm, LeanTrainer(mllm, encoder, local), encoded, lr, **plan)
    trl = two_rounds(mllm, TrlTrainer(mllm, encoder, local), encoded, lr, **plan)
    assert distance(lean, mllm.adapter.initial_state(5)) > lr / 10
    return distance(lean, trl)
