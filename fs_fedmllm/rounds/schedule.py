"""What a run does and when, told from its configuration alone: who trains, on which rows, what is evaluated when.

A run does these things and the planner counts them, so both ask here. No model is needed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fs_fedmllm.config import Config, LocalConfig, StandInsConfig, TrainConfig
from fs_fedmllm.data.sample import MODALITIES
from fs_fedmllm.rounds.batches import (
    STREAM_MODALITIES,
    STREAM_ORDER,
    STREAM_SAMPLING,
    plan_batches,
    update_generator,
)
from fs_fedmllm.rounds.learning_rate import round_lr
from fs_fedmllm.rounds.modality_draw import Presence, modality_draw, tells_apart


def round_clients(
    config: Config, round_index: int, recorded: Sequence[Sequence[int]] = (), presence: Presence | None = None
) -> list[int]:
    """The clients of a round, ascending; a pure function of the seed and the round, or as a replay says.

    Under differential privacy a run does not ask here: it draws in secret (:mod:`fs_fedmllm.privacy.sampling`), and
    this is one draw that it could make.

    Args:
        config: the run's configuration.
        round_index: from 0.
        recorded: the participants of each round, in a replay.
        presence: what every client's rows show; read by ``fedmllm.sampler: modality``.
    """
    if recorded:
        return list(recorded[round_index])
    method, total = config.method, config.federate.client_num
    if method.pooled:
        return [1]
    if not method.federated:
        return list(range(1, total + 1))
    if config.switches["client_sampling"] == "round_seed":
        return sorted(k + 1 for k in random.Random(round_index).sample(range(total), config.sampled_clients))
    return draw_clients(config, round_index, range(1, total + 1), config.sampled_clients, presence)


def draw_clients(
    config: Config,
    round_index: int,
    candidates: Sequence[int],
    size: int,
    presence: Presence | None = None,
    draw: int = 0,
) -> list[int]:
    """Some of the clients that could be sent the adapter, ascending.

    Args:
        config: the run's configuration.
        round_index: from 0.
        candidates: ascending ids.
        size: how many are drawn; at most all.
        presence: what every client's rows show; read by ``fedmllm.sampler: modality``.
        draw: which draw of the round it is, from 0; synchronous rounds have one.
    """
    if config.fedmllm.sampler == "modality" and presence and tells_apart(presence):
        rng = update_generator(config.seed, STREAM_MODALITIES, round_index, draw)
        return modality_draw({client: presence[client] for client in candidates}, size, round_index, rng)
    rng = update_generator(config.seed, STREAM_SAMPLING, round_index, draw)
    return sorted(candidates[int(k)] for k in rng.choice(len(candidates), size=size, replace=False))


@dataclass(frozen=True)
class LocalWork:
    """How long and how fast a client trains; ``train`` and ``local`` (``fedmllm.train``) hold its own values."""

    seed: int
    train: TrainConfig
    local: LocalConfig
    switches: Mapping[str, str]

    @classmethod
    def of(cls, config: Config, client: int = 0) -> LocalWork:
        """Of one client; without one, of those that differ in nothing."""
        own = config.for_client(client)
        return cls(config.seed, own.train, own.fedmllm.train, config.switches)

    def batches(self, client: int, round_index: int, rows: int) -> list[list[int]]:
        """Row indices of each optimizer step of an update."""
        order_round = 0 if self.switches["sample_order"] == "repeated" else round_index
        return plan_batches(
            rows,
            amount=self.train.local_update_steps,
            unit=self.train.batch_or_epoch,
            batch_size=self.local.batch_size,
            rng=update_generator(self.seed, STREAM_ORDER, order_round, client),
            drop_tail=self.switches["accumulation_tail"] == "dropped",
        )

    def lr(self, round_index: int) -> float:
        """The learning rate of a round, from 0."""
        clamp = self.switches["lr_round0"] == "clamped"
        horizon, warmup = self.local.lr_horizon, self.local.warmup_ratio
        return round_lr(self.train.optimizer.lr, round_index, horizon, warmup, clamp=clamp)


def evaluation_due(config: Config, done_rounds: int) -> bool:
    """Whether the adapter is evaluated after so many rounds, from 1; after the last it always is."""
    return done_rounds % config.eval.freq == 0 or done_rounds >= config.federate.total_round_num


def slices_due(config: Config, done_rounds: int) -> bool:
    """Whether an evaluation after so many rounds also shows each modality alone."""
    wanted = config.fedmllm.eval.slices
    return wanted == "always" or (wanted == "ends" and done_rounds in (0, config.federate.total_round_num))


#: Rounds from one asking of the validation rows about stand-ins to the next.
GUARD_EVERY = 2


def guard_asks(config: Config, round_index: int) -> bool:
    """Whether the complete validation rows are asked, before a round, what one modality alone decides."""
    guarded = config.fedmllm.stand_ins.use != "off" and config.fedmllm.stand_ins.guard == "validation"
    return guarded and round_index > 0 and round_index % GUARD_EVERY == 0


def stand_in_kinds(chosen: StandInsConfig, presence: Presence | None = None) -> frozenset[str]:
    """The modalities that may be stood in for.

    Args:
        chosen: ``fedmllm.stand_ins``.
        presence: what every client's rows show; with it, none where ``use: auto`` finds a complete training row.
    """
    complete = any(own.get("both", 0) > 0 for own in (presence or {}).values())
    if chosen.use == "off" or (chosen.use == "auto" and complete):
        return frozenset()
    return frozenset(kind for kind in MODALITIES if getattr(chosen, kind) != "off")
