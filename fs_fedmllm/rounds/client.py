"""What one client's update computes: begin, plan, train, finish, clip, compress."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fs_fedmllm.algorithms import ClientHalf, State
from fs_fedmllm.algorithms.outside import ask, is_outside
from fs_fedmllm.algorithms.outside_halves import RESIDUAL, begun, finished, placed, settle
from fs_fedmllm.compression import Codec
from fs_fedmllm.config import Config, DPConfig, StandInsConfig
from fs_fedmllm.config.clients import client_id
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.models.adapter import Adapter
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.privacy.clipping import clip_update
from fs_fedmllm.rounds.batches import STREAM_DROPOUT, update_generator
from fs_fedmllm.rounds.client_halves import ClientAlgorithms
from fs_fedmllm.rounds.client_update import NOTHING, ClientUpdate, FailedUpdate
from fs_fedmllm.rounds.schedule import LocalWork, stand_in_kinds
from fs_fedmllm.rounds.stand_ins import StandIns, allowed_in, place_of
from fs_fedmllm.rounds.trainer import LocalTrainer, UpdatePlan


@dataclass(frozen=True)
class ClientSide:
    """The clients of a run that are in this process; they share one model.

    Attributes:
        seed: of the run.
        rows: client id -> training rows.
        work: how long and how fast a client trains.
        own_work: the same of clients that differ in it.
        algorithms: what is around and inside the training.
        stand_ins: ``fedmllm.stand_ins``.
        dp: ``fedmllm.privacy.dp``.
        adapter: of the model.
        encoder: rows to token ids.
        trainer: local training.
        codec: how updates are written for the wire.
    """

    seed: int
    rows: Mapping[int, Sequence[Sample]]
    work: LocalWork
    own_work: Mapping[int, LocalWork]
    algorithms: ClientAlgorithms
    stand_ins: StandInsConfig
    dp: DPConfig
    adapter: Adapter
    encoder: Encoder
    trainer: LocalTrainer
    codec: Codec

    @classmethod
    def of(
        cls,
        config: Config,
        rows: Mapping[int, Sequence[Sample]],
        scenario: Mapping[str, Any],
        *,
        adapter: Adapter,
        encoder: Encoder,
        trainer: LocalTrainer,
    ) -> ClientSide:
        """From a run's configuration, and the scenario's parameters as the manifest has them."""
        return cls(
            seed=config.seed,
            rows=rows,
            work=LocalWork.of(config),
            own_work={client_id(name): LocalWork.of(config, client_id(name)) for name in config.fedmllm.clients},
            algorithms=ClientAlgorithms.of(config, scenario),
            stand_ins=config.fedmllm.stand_ins,
            dp=config.fedmllm.privacy.dp,
            adapter=adapter,
            encoder=encoder,
            trainer=trainer,
            codec=Codec.of(config.fedmllm.compression),
        )

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
            ConfigError: an algorithm sends what it does not declare.
        """
        with placed(client, round_index):
            return self._update(client, round_index, message, client_state)

    def _update(
        self,
        client: int,
        round_index: int,
        message: Mapping[str, torch.Tensor],
        client_state: Mapping[str, torch.Tensor],
    ) -> ClientUpdate:
        rows = self.rows[client]
        received = {name: tensor.float() for name, tensor in message.items()}
        start, halves = self.begin(client, received, client_state)
        template = self.encoder.template
        settle(halves, len(self.adapter.names), len(template.options) if template.task == "choice" else 0)
        plan = self.plan(client, round_index, len(rows), halves)
        plan, made = self.completed(plan, client, round_index, received)
        used = [index for index in plan.rows if index not in made]
        encoded = dict(zip(used, self.encoder.encode([rows[i] for i in used]), strict=True))
        encoded |= dict(zip(made, self.encoder.encode(list(made.values()), keep=False), strict=True))
        trained, log = self.trainer.fit(start, encoded, plan)
        keeps: State = {}
        sent = trained
        for half in halves:
            before = {*self.adapter.names, *sent}
            sent, own = finished(half, trained, sent, keeps)
            self.algorithms.check_sent(sent, before, half, bounded=self.dp.enabled)
            keeps |= own
        if self.dp.enabled:
            sent = clip_update(start, sent, self.dp.clip_norm)
        if self.codec.kind != "float32":
            sent, keeps = self._compressed(received, sent, client_state, keeps)
        return ClientUpdate(client, len(rows), sent, log, keeps)

    def completed(
        self, plan: UpdatePlan, client: int, round_index: int, received: Mapping[str, torch.Tensor]
    ) -> tuple[UpdatePlan, dict[int, Sample]]:
        """The plan with stand-ins, where the server allows them, and the rows that this makes, by new indices."""
        # A server cannot switch on what the client's own configuration leaves off.
        allowed = allowed_in(received) & stand_in_kinds(self.stand_ins)
        if not allowed:
            return plan, {}
        maker = StandIns(self.stand_ins, self.encoder.template.options, self.encoder.mllm.tokenizer)
        place = place_of(self.seed, round_index, client)
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
        if any(map(is_outside, halves)):  # what it writes into is its own
            received, client_state, start = (
                {name: tensor.clone() for name, tensor in given.items()} for given in (received, client_state, start)
            )
        for half in halves:
            start = begun(half, ask(half, "begin", received, client_state, dict(start)), start)
        return start, halves

    def plan(self, client: int, round_index: int, rows: int, halves: Sequence[ClientHalf] = ()) -> UpdatePlan:
        """What the client does in this round: rows of each step, learning rate, dropout seed."""
        work = self.own_work.get(client, self.work)
        return UpdatePlan(
            batches=work.batches(client, round_index, rows),
            lr=work.lr(round_index),
            lr_inner=work.switches["lr_inner"],
            dropout_seed=int(update_generator(self.seed, STREAM_DROPOUT, round_index, client).integers(2**31)),
            halves=halves,
        )

    def halves(self, client: int) -> list[ClientHalf]:
        """The client halves of one update of a client here."""
        return self.algorithms.halves(client, self.rows.get(client, ()), self.encoder.template, self.adapter)

    def _compressed(
        self, received: State, sent: State, client_state: Mapping[str, torch.Tensor], keeps: State
    ) -> tuple[State, State]:
        """An update as it goes over the wire; what rounding took is kept by the client."""
        own = {name: received[name] for name in self.adapter.names}
        residual = {name.removeprefix(RESIDUAL): t for name, t in client_state.items() if name.startswith(RESIDUAL)}
        coded, residual = self.codec.encode(own, sent, residual)
        return coded, keeps | {RESIDUAL + name: tensor for name, tensor in residual.items()}
