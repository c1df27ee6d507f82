"""The pieces of a federated run, put together once and called by every engine.

An engine (the embedded loop, FederatedScope's server and clients) decides who talks to whom; what a client's turn
computes, how updates are checked and averaged, and what is evaluated is decided here and nowhere else. That is
why all engines end with the same adapter bytes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch

from fs_fedmllm.aggregators import Aggregator, build_aggregator, check_update
from fs_fedmllm.aggregators.norm_bound import bound_beside, bound_update
from fs_fedmllm.algorithms import REGULARIZERS, ClientContext, ClientHalf, ServerOptimizer, State
from fs_fedmllm.algorithms.lora_ranks import from_rank
from fs_fedmllm.compression import Codec
from fs_fedmllm.config import Config
from fs_fedmllm.data.shapes import check_shapes
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.evaluation.evaluator import Evaluator
from fs_fedmllm.evaluation.predictions import Prediction
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.lengths import configured_lengths
from fs_fedmllm.models.loader import MLLM, load_mllm
from fs_fedmllm.models.vision import VisionFeatures
from fs_fedmllm.privacy.clipped_sum import ClippedSum
from fs_fedmllm.privacy.clipping import clip_update
from fs_fedmllm.privacy.masked_sum import MaskedSum
from fs_fedmllm.privacy.protocols import secure_sum
from fs_fedmllm.rounds.backends import local_trainer
from fs_fedmllm.rounds.client_halves import client_halves, frozen_positions
from fs_fedmllm.rounds.client_update import STREAM_DROPOUT, turn_generator
from fs_fedmllm.rounds.cores import available_cores
from fs_fedmllm.rounds.learning_rate import round_lr
from fs_fedmllm.rounds.payload import server_optimizer, shared_tensors, to_clients, upload_codec
from fs_fedmllm.rounds.replay import recorded_participants
from fs_fedmllm.rounds.schedule import round_clients, turn_batches
from fs_fedmllm.rounds.trainer import ClientTrainer, Turn, TurnLog
from fs_fedmllm.scenarios.federated_data import FederatedData, evaluated_rows, missing_rate


def set_threads(config: Config) -> None:
    """Give torch the run's CPU threads; FederatedScope's runner sets one, and numbers depend on the count."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    available = int(limit) if limit.isdigit() and int(limit) > 0 else available_cores()
    torch.set_num_threads(config.fedmllm.threads or available)


#: Owner of the remainders in ``Update.client_state``.
_RESIDUAL = "compression/"

#: What a client without a past carries.
NOTHING: Mapping[str, torch.Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Update:
    """What a client's turn gives back.

    Attributes:
        client: id, from 1.
        rows: size of the client's training set, the weight of sample-weighted methods.
        state: what is sent: the client's adapter, float32, by canonical name, or what ``fedmllm.compression`` makes of
            it, and whatever else the algorithm sends back, by names that hold a slash.
        log: the turn's figures.
        client_state: what the client keeps for its next turn, by ``<owner>/<name>`` (for example
            ``scaffold/<canonical name>``); never sent. Empty where nothing is kept.
    """

    client: int
    rows: int
    state: State
    log: TurnLog
    client_state: State = field(default_factory=dict)


def _recomputes(model: torch.nn.Module) -> bool:
    """Whether activation checkpointing is on; transformers renames the property and warns of the old name."""
    for name in ("is_activation_checkpointing", "is_gradient_checkpointing"):
        if hasattr(type(model), name):
            return bool(getattr(model, name))
    return False


@dataclass
class Federation:
    """A run's pieces. Build it with :meth:`build`.

    Attributes:
        config: the run's configuration.
        data: rows of every client, validation and test rows.
        mllm: the process-wide model.
        encoder: rows to token ids.
        trainer: local training.
        evaluator: scores.
        server: the server optimizer; None for the baseline ``local``.
    """

    config: Config
    data: FederatedData
    mllm: MLLM
    encoder: Encoder
    trainer: ClientTrainer
    evaluator: Evaluator
    server: ServerOptimizer | None
    _replayed: Sequence[Sequence[int]] = ()

    @property
    def codec(self) -> Codec:
        """How updates are written for the wire."""
        return upload_codec(self.config)

    @classmethod
    def build(cls, config: Config, data: FederatedData) -> Federation:
        """Load the model and prepare training and evaluation.

        Raises:
            ModelError: the model cannot be loaded or has no language layers where the configuration looks.
            ConfigError: the regulariser's layer mask is empty.
            DataError: an image is too long for the model's processor.
        """
        set_threads(config)
        mllm = load_mllm(config.model.fedmllm, use_gpu=config.use_gpu, device_index=config.device)
        dealt = (row for rows in data.clients.values() for row in rows)
        check_shapes((*dealt, *data.dataset.val, *data.dataset.test), mllm.family.widest, mllm.family.name)
        mllm.adapter.warn_if_mostly_not_lora()
        if mllm.groups:
            costs = ", ".join(f"{name} {size:,}" for name, size in mllm.federated_bytes().items())
            logging.getLogger("fs_fedmllm").warning("Modules go in full: a client sends %s bytes a round.", costs)
        recomputed = mllm.family.checkpointed(mllm.inner)
        if config.fedmllm.train.gradient_checkpointing:
            recomputed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        elif _recomputes(recomputed):
            recomputed.gradient_checkpointing_disable()
        vision = None
        if config.fedmllm.vision_cache.enabled and mllm.takes_vision_features and mllm.vision_is_frozen:
            cache = config.fedmllm.vision_cache
            vision = VisionFeatures(mllm, cache.memory_mib << 20, Path(cache.folder) if cache.folder else None)
        encoder = Encoder(mllm, data.template, config.fedmllm.prompt, vision, configured_lengths(config, mllm))
        federation = cls(
            config=config,
            data=data,
            mllm=mllm,
            encoder=encoder,
            trainer=local_trainer(mllm, encoder, config.fedmllm.train),
            evaluator=Evaluator(encoder, config.fedmllm.eval, config.switches),
            server=server_optimizer(config),
            _replayed=recorded_participants(config) if config.fedmllm.replay else (),
        )
        federation.halves(1)  # what does not fit the model is better known now than in round 0
        return federation

    def shortened_rows(self) -> dict[str, int]:
        """How many rows lose a part of their text, by what they are for, and the limit (0: none is shortened).

        Says so, if there are any.

        Raises:
            DataError: a row is too long whatever is left out of it.
        """
        rows = {
            "train": [row for client in sorted(self.data.clients) for row in self.data.clients[client]],
            "val": evaluated_rows(self.config, self.data.dataset.val),
            "test": evaluated_rows(self.config, self.data.dataset.test),
        }
        limit = self.encoder.lengths.limit
        counts = {part: self.encoder.count_shortened(own) for part, own in rows.items()}
        if any(counts.values()):
            told = ", ".join(f"{count} {part}" for part, count in counts.items() if count)
            logging.getLogger("fs_fedmllm").warning(
                "Rows are longer than %d tokens (fedmllm.train.max_length), and their texts are shortened: %s rows.",
                limit,
                told,
            )
        return {"max_length": limit, **counts}

    def initial_state(self) -> State:
        """The global adapter before round 0."""
        state = self.mllm.adapter.initial_state(self.config.init_seed)
        regularizer = REGULARIZERS[self.config.fedmllm.regularizer.type]
        if not regularizer.reads_base:
            return state
        return regularizer.initial_state(state, self.mllm.adapter.base_weights(self.mllm.model))

    def sample_clients(self, round_index: int) -> list[int]:
        """The round's clients, ascending; a pure function of the seed and the round, or as a replay says."""
        return round_clients(self.config, round_index, self._replayed)

    def halves(self, client: int) -> list[ClientHalf]:
        """The algorithms' part of one update of a client.

        Raises:
            ConfigError: the regulariser leaves no layer of this model.
        """
        config, adapter, rows = self.config, self.mllm.adapter, self.data.clients.get(client, ())
        context = ClientContext(
            client=client,
            names=adapter.names,
            device=adapter.parameters[0].device,
            layers=adapter.layers,
            depth=adapter.depth,
            frozen=frozen_positions(config, adapter.names),
            missing_rate=missing_rate(rows) if rows else 0.0,
            scenario=config.scenario,
            scenario_params=self.data.manifest.params,
            switches=config.switches,
        )
        return client_halves(config, context)

    def begin(
        self, client: int, received: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor]
    ) -> tuple[State, list[ClientHalf]]:
        """What a client's training starts from, and the algorithms' part of it.

        Args:
            client: id.
            received: everything that the server sent.
            kept: what the client kept from its last update; empty before its first.
        """
        start = {name: received[name] for name in self.mllm.adapter.names if name in received}
        halves = self.halves(client)
        for half in halves:
            start = half.begin(received, kept, start)
        return start, halves

    def plan(self, client: int, round_index: int, rows: int) -> Turn:
        """What the client does in this round: rows of each step, learning rate, dropout seed."""
        config, local = self.config, self.config.fedmllm.train
        switches = config.switches
        return Turn(
            batches=turn_batches(config, client, round_index, rows),
            lr=round_lr(
                config.for_client(client).train.optimizer.lr,
                round_index,
                local.lr_horizon,
                local.warmup_ratio,
                clamp=switches["lr_round0"] == "clamped",
            ),
            lr_inner=switches["lr_inner"],
            dropout_seed=int(turn_generator(config.seed, STREAM_DROPOUT, round_index, client).integers(2**31)),
        )

    def broadcast(self, params: State, server_state: State) -> State:
        """What the server sends to a round's clients: the global adapter, and what else the algorithm needs.

        Args:
            params: the global adapter.
            server_state: the server optimizer's state.
        """
        return to_clients(self.config, self.server, params, server_state)

    def client_turn(
        self,
        client: int,
        round_index: int,
        state: Mapping[str, torch.Tensor],
        carried: Mapping[str, torch.Tensor] = NOTHING,
    ) -> Update:
        """Load the global adapter, train on the client's rows, and return the client's adapter.

        Args:
            client: id.
            round_index: from 0.
            state: what the server sent, see :meth:`broadcast`.
            carried: ``Update.client_state`` of the client's last turn that the server accepted; empty before it.

        Returns:
            The update; under differential privacy its adapter is clipped here, before it leaves the client.

        Raises:
            UpdateError: the loss is not finite.
        """
        rows = self.data.clients[client]
        state = {name: tensor.float() for name, tensor in state.items()}
        start, halves = self.begin(client, state, carried)
        turn = dataclasses.replace(self.plan(client, round_index, len(rows)), halves=halves)
        used = sorted({i for batch in turn.batches for i in batch})
        encoded = dict(zip(used, self.encoder.encode([rows[i] for i in used]), strict=True))
        self.mllm.adapter.load(start)
        log = self.trainer.fit(encoded, turn)
        sent = trained = self.mllm.adapter.export()
        kept: State = {}
        for half in halves:
            sent, own = half.finish(trained, sent)
            kept |= own
        dp = self.config.fedmllm.privacy.dp
        if dp.enabled:
            sent = clip_update(start, sent, dp.clip_norm)
        return self._written(Update(client, len(rows), sent, log, kept), state, carried)

    def _written(self, update: Update, start: State, carried: Mapping[str, torch.Tensor]) -> Update:
        """The update as it goes over the wire; what rounding took is kept by the client."""
        if self.codec.kind == "float32":
            return update
        received = {name: start[name] for name in self.mllm.adapter.names}
        residual = {name.removeprefix(_RESIDUAL): t for name, t in carried.items() if name.startswith(_RESIDUAL)}
        sent, residual = self.codec.encode(received, update.state, residual)
        kept = update.client_state | {_RESIDUAL + name: tensor for name, tensor in residual.items()}
        return dataclasses.replace(update, state=sent, client_state=kept)

    def weight(self, rows: int) -> float:
        """A client's weight in the mean; modality-aware weights are the rule's own business.

        Under differential privacy all weigh the same.
        """
        assert self.server is not None
        if self.config.fedmllm.privacy.dp.enabled:
            return 1.0
        weighting = self.config.fedmllm.aggregation.client_weights
        if weighting == "default":
            weighting = self.server.weighting
        return 1.0 if weighting == "uniform" else float(rows)

    def open_mean(self, params: State, clients: Sequence[int]) -> Aggregator:
        """What a round's updates are added to.

        Args:
            params: the adapter that the clients receive.
            clients: the round's clients.
        """
        expected = params if self.server is None else self.server.expected(params)
        options, dp = self.config.fedmllm.aggregation, self.config.fedmllm.privacy.dp
        shared = self.shared(params)
        if self.config.fedmllm.privacy.secure_aggregation.enabled:
            if not self.data.clients:  # they are on other machines, and mask their updates there
                return MaskedSum()
            heaviest = max((int(self.weight(len(self.data.clients[client]))) for client in clients), default=1)
            return secure_sum(self.config, shared, clients, heaviest)
        if dp.enabled:
            exact = self.codec.kind == "float32"
            return ClippedSum(shared, dp.clip_norm, self.config.sampled_clients, empty=not clients, strict=exact)
        presence = {client: record.presence for client, record in self.data.manifest.clients.items()}
        return build_aggregator(options, expected, presence, self.mllm.family.feeds_vision)

    def shared(self, params: State) -> State:
        """The tensors that clients send; one that nobody may send gets no mask and no noise.

        Args:
            params: the adapter that the clients receive.
        """
        return shared_tensors(self.config, self.server, params)

    def upload_like(self, received: State) -> State:
        """An update that changes nothing: the names, dtypes and shapes of what a client may send.

        Args:
            received: the adapter that the clients received, float32.
        """
        return self.codec.encode(received, self.shared(received), {})[0]

    def accept(self, rule: Aggregator, params: State, update: Update) -> None:
        """Check an update and add it to the round; call in ascending client order.

        Args:
            rule: what takes the round's updates.
            params: the adapter that the clients received.
            update: as it came over the wire.

        Raises:
            UpdateError: the update is refused; the round is as before.
        """
        assert self.server is not None
        options = self.config.fedmllm.aggregation
        try:
            state: Mapping[str, torch.Tensor] = self.codec.decode(update.state, params)
        except UpdateError as error:
            raise UpdateError(f"Client {update.client}: {error}.") from error
        if options.ranks:
            state = from_rank(state, params)
        check_update(update.client, self.server.expected(params), state)
        shared = self.shared(params)
        if unknown := [name for name in state if name not in shared]:
            raise UpdateError(f"Client {update.client} sent {unknown[0]!r}, which is frozen in this run.")
        # A rule that compares whole updates would fail for all because of one that is not whole.
        whole = rule.whole or self.server.weighs_all_names
        if whole and (missing := [name for name in shared if name not in state]):
            raise UpdateError(f"Client {update.client} did not send {missing[0]!r}.")
        if options.max_update_norm:
            state = bound_update(
                update.client, params, state, limit=options.max_update_norm, clip=options.norm_action == "clip"
            )
        if options.max_variate_norm:
            bound_beside(update.client, params, state, options.max_variate_norm)
        rule.add(update.client, self.weight(update.rows), state)

    def server_step(
        self,
        params: State,
        server_state: State,
        rule: Aggregator,
        release: Callable[[State], State] | None = None,
        *,
        accepted: int = 0,
    ) -> tuple[State, State]:
        """One step of the server optimizer.

        Args:
            params: the global adapter.
            server_state: the server optimizer's state.
            rule: with the round's updates.
            release: what the mean goes through before anything else sees it (noise).
            accepted: how many updates it holds; methods that keep a sum over all clients need to know.

        Raises:
            UpdateError: no client's update was accepted.
        """
        assert self.server is not None
        deltas = rule.mean()
        if not deltas:
            raise UpdateError("No client sent a valid update in this round.")
        if release is not None:
            deltas = release(deltas)
        total = 1 if self.config.method.pooled else self.config.federate.client_num
        return self.server.step(params, self.server.joined(server_state, accepted / total), deltas)

    def evaluate(
        self, state: Mapping[str, torch.Tensor], *, slices: bool, keep: list[Prediction] | None = None
    ) -> dict[str, float]:
        """Metrics of a global adapter on the validation and test rows.

        Args:
            state: the adapter.
            slices: also show the test rows with their image only and with their text only.
            keep: where to add what was predicted for the test rows.

        Returns:
            ``val_*`` and ``test_*`` metrics; ``test_image_*`` and ``test_text_*`` for the slices.
        """
        self.mllm.adapter.load(state)
        val = evaluated_rows(self.config, self.data.dataset.val)
        test = evaluated_rows(self.config, self.data.dataset.test)
        numbers = {f"val_{k}": v for k, v in self.evaluator.evaluate(val).items()}
        views = ("both", "image", "text") if slices and any(row.presence == "both" for row in test) else ("both",)
        for shown in views:
            figures, predictions = self.evaluator.predict(
                test, shown, str(self.config.scenario_args.get("keep_together", ""))
            )
            prefix = "test" if shown == "both" else f"test_{shown}"
            numbers |= {f"{prefix}_{k}": v for k, v in figures.items()}
            if keep is not None:
                keep += predictions
        return numbers
