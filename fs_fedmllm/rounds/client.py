"""What one client's update computes: begin, plan, train, finish, clip, compress."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fs_fedmllm.algorithms import METHODS, REGULARIZERS, ClientContext, ClientHalf, State, parameters_of
from fs_fedmllm.algorithms.factors import is_a
from fs_fedmllm.algorithms.frozen_a import FrozenAClient
from fs_fedmllm.algorithms.label_prior import LabelPriorClient
from fs_fedmllm.algorithms.lora_ranks import RankedClient
from fs_fedmllm.compression import Codec
from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.models.adapter import Adapter
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.privacy.clipping import clip_update
from fs_fedmllm.rounds.batches import STREAM_DROPOUT, update_generator
from fs_fedmllm.rounds.client_update import NOTHING, ClientUpdate, FailedUpdate
from fs_fedmllm.rounds.learning_rate import round_lr
from fs_fedmllm.rounds.schedule import stand_in_kinds, update_batches
from fs_fedmllm.rounds.stand_ins import StandIns, allowed_in, place_of
from fs_fedmllm.rounds.trainer import LocalTrainer, UpdatePlan
from fs_fedmllm.scenarios.federated_data import missing_rate, option_counts

#: Owner of what rounding took in ``ClientUpdate.client_state``.
_RESIDUAL = "compression/"


@dataclass(frozen=True)
class ClientSide:
    """The clients of a run that are in this process; they share one model.

    Attributes:
        config: the run's configuration.
        rows: client id -> training rows.
        scenario: parameters of the scenario, as the manifest has them.
        adapter: of the model.
        encoder: rows to token ids.
        trainer: local training.
        codec: how updates are written for the wire.
    """

    config: Config
    rows: Mapping[int, Sequence[Sample]]
    scenario: Mapping[str, Any]
    adapter: Adapter
    encoder: Encoder
    trainer: LocalTrainer
    codec: Codec

    def update(
        self,
        client: int,
        round_index: int,
        message: Mapping[str, torch.Tensor],
        client_state: Mapping[str, torch.Tensor] = NOTHING,
    ) -> ClientUpdate:
        """Take the global adapter, train it on the client's rows, and give the client's adapter back.

        A pure function of its arguments: where and when it runs does not change a bit of the result.

        Args:
            client: id.
            round_index: from 0.
            message: what the server sent, :attr:`fs_fedmllm.rounds.server.Round.message`.
            client_state: ``client_state`` of the client's last update that the server accepted; empty before it.

        Returns:
            The update; under differential privacy its adapter is clipped here, before it leaves the client.

        Raises:
            UpdateError: the loss is not finite.
        """
        rows = self.rows[client]
        received = {name: tensor.float() for name, tensor in message.items()}
        start, halves = self.begin(client, received, client_state)
        plan = self.plan(client, round_index, len(rows), halves)
        plan, made = self.completed(plan, client, round_index, received)
        used = [index for index in plan.rows if index not in made]
        encoded = dict(zip(used, self.encoder.encode([rows[i] for i in used]), strict=True))
        encoded |= dict(zip(made, self.encoder.encode(list(made.values()), keep=False), strict=True))
        trained, log = self.trainer.fit(start, encoded, plan)
        keeps: State = {}
        sent = trained
        for half in halves:
            sent, own = half.finish(trained, sent)
            keeps |= own
        dp = self.config.fedmllm.privacy.dp
        if dp.enabled:
            sent = clip_update(start, sent, dp.clip_norm)
        if self.codec.kind != "float32":
            sent, keeps = self._compressed(received, sent, client_state, keeps)
        return ClientUpdate(client, len(rows), sent, log, keeps)

    def completed(
        self, plan: UpdatePlan, client: int, round_index: int, received: Mapping[str, torch.Tensor]
    ) -> tuple[UpdatePlan, dict[int, Sample]]:
        """The plan with stand-ins, where the server allows them, and the rows that this makes, by new indices."""
        # A server cannot switch on what the client's own configuration leaves off.
        allowed = allowed_in(received) & stand_in_kinds(self.config)
        if not allowed:
            return plan, {}
        maker = StandIns(self.config.fedmllm.stand_ins, self.encoder.template.options, self.encoder.mllm.tokenizer)
        place = place_of(self.config.seed, round_index, client)
        batches, made = maker.completed(self.rows[client], plan.batches, allowed, place)
        return dataclasses.replace(plan, batches=batches), made

    def attempt(
        self,
        client: int,
        round_index: int,
        message: Mapping[str, torch.Tensor],
        client_state: Mapping[str, torch.Tensor] = NOTHING,
    ) -> ClientUpdate | FailedUpdate:
        """:meth:`update`, or why there is none."""
        try:
            return self.update(client, round_index, message, client_state)
        except UpdateError as error:
            return FailedUpdate(client, str(error))

    def begin(
        self, client: int, received: Mapping[str, torch.Tensor], client_state: Mapping[str, torch.Tensor]
    ) -> tuple[State, list[ClientHalf]]:
        """What a client's training starts from, and the algorithms' part of it.

        Args:
            client: id.
            received: everything that the server sent, float32.
            client_state: what the client kept from its last update; empty before its first.
        """
        start = {name: received[name] for name in self.adapter.names if name in received}
        halves = self.halves(client)
        for half in halves:
            start = half.begin(received, client_state, start)
        return start, halves

    def plan(self, client: int, round_index: int, rows: int, halves: Sequence[ClientHalf] = ()) -> UpdatePlan:
        """What the client does in this round: rows of each step, learning rate, dropout seed."""
        config, local, switches = self.config, self.config.fedmllm.train, self.config.switches
        return UpdatePlan(
            batches=update_batches(config, client, round_index, rows),
            lr=round_lr(
                config.for_client(client).train.optimizer.lr,
                round_index,
                local.lr_horizon,
                local.warmup_ratio,
                clamp=switches["lr_round0"] == "clamped",
            ),
            lr_inner=switches["lr_inner"],
            dropout_seed=int(update_generator(config.seed, STREAM_DROPOUT, round_index, client).integers(2**31)),
            halves=halves,
        )

    def halves(self, client: int) -> list[ClientHalf]:
        """As :func:`client_halves`, of a client here."""
        rows, template = self.rows.get(client, ()), self.encoder.template
        return client_halves(self.config, self.adapter, template, client, rows, self.scenario)

    def _compressed(
        self, received: State, sent: State, client_state: Mapping[str, torch.Tensor], keeps: State
    ) -> tuple[State, State]:
        """An update as it goes over the wire; what rounding took is kept by the client."""
        own = {name: received[name] for name in self.adapter.names}
        residual = {name.removeprefix(_RESIDUAL): t for name, t in client_state.items() if name.startswith(_RESIDUAL)}
        coded, residual = self.codec.encode(own, sent, residual)
        return coded, keeps | {_RESIDUAL + name: tensor for name, tensor in residual.items()}


def client_halves(
    config: Config,
    adapter: Adapter,
    template: Template,
    client: int,
    rows: Sequence[Sample],
    scenario: Mapping[str, Any],
) -> list[ClientHalf]:
    """The client halves of one update: of how factors are averaged, the label prior, the method, the regulariser.

    Args:
        config: of the run.
        adapter: of the model, which may be one without weights.
        template: of the rows.
        client: id.
        rows: of the client.
        scenario: parameters of the scenario, as the manifest has them.

    Raises:
        ConfigError: the regulariser leaves no layer of this model.
    """
    aggregation = config.fedmllm.aggregation
    frozen = aggregation.lora == "frozen_a"
    context = ClientContext(
        client=client,
        names=adapter.names,
        device=adapter.parameters[0].device,
        layers=adapter.layers,
        depth=adapter.depth,
        frozen=tuple(i for i, name in enumerate(adapter.names) if frozen and is_a(name)),
        label_counts=option_counts(rows, template),
        missing_rate=missing_rate(rows) if rows else 0.0,
        scenario=config.missingness,
        scenario_params=scenario,
        switches=config.switches,
    )
    halves: list[ClientHalf | None] = []
    if aggregation.ranks:
        halves.append(RankedClient(int(aggregation.ranks[client - 1])))
    if context.frozen:
        halves.append(FrozenAClient(context))
    if config.fedmllm.label_prior and context.label_counts:
        halves.append(LabelPriorClient(context.label_counts, config.fedmllm.label_prior))
    for algorithm in (METHODS[config.federate.method], REGULARIZERS[config.fedmllm.regularizer.type]):
        halves.append(algorithm.client(parameters_of(config, algorithm), context))
    return [half for half in halves if half is not None]
