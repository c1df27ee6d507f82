"""A round on the server: who takes part, what is sent, which updates are taken, and the step.

:class:`ServerSide` holds no state; what happens in a round is in a :class:`Round`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from fs_fedmllm.aggregators import Aggregator, build_aggregator, check_update, federated_names
from fs_fedmllm.aggregators.mean import RunningMean, check_client, delta_to
from fs_fedmllm.aggregators.modality_weights import Presence
from fs_fedmllm.aggregators.norm_bound import bound_beside, bound_update
from fs_fedmllm.algorithms import METHODS, ServerOptimizer, State, parameters_of
from fs_fedmllm.algorithms.lora_ranks import from_rank, to_rank
from fs_fedmllm.algorithms.outside import broadcast, built, expected, state_of, step
from fs_fedmllm.compression import Codec, download
from fs_fedmllm.config import AggregationConfig, Config
from fs_fedmllm.config.aggregation import RULES
from fs_fedmllm.config.privacy import PrivacyConfig
from fs_fedmllm.errors import UpdateError
from fs_fedmllm.privacy.clipped_sum import ClippedSum
from fs_fedmllm.privacy.masked_sum import MaskedSum
from fs_fedmllm.privacy.protocols import secure_sum
from fs_fedmllm.rounds.client_update import ClientUpdate
from fs_fedmllm.rounds.schedule import stand_in_kinds
from fs_fedmllm.rounds.stand_ins import telling


@dataclass
class Round:
    """A round that is under way.

    Attributes:
        index: from 0.
        clients: the round's clients, ascending.
        message: what they are sent: the global adapter, and what else the algorithm needs.
        received: the adapter as they receive it, float32.
        aggregator: takes their updates.
        taken: clients whose updates are in it, ascending.
        client_states: what they keep from now on, if the round comes to its end.
    """

    index: int
    clients: list[int]
    message: State
    received: State
    aggregator: Aggregator
    taken: list[int] = field(default_factory=list)
    client_states: dict[int, State] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerSide:
    """The server's part of every round.

    Attributes:
        optimizer: the server half of the method; None where clients only train alone.
        aggregation: ``fedmllm.aggregation``.
        privacy: ``fedmllm.privacy``.
        codec: how updates are written for the wire.
        download: ``fedmllm.compression.download``.
        clients: clients in the federation.
        sampled: clients in a round by configuration.
        rows: client id -> its number of training rows; empty where clients are on other machines.
        presence: rows of each client by what they show, for modality-aware weights.
        on_image_path: whether a tensor lies before the image meets the text; the model's family knows.
        rule_parameters: of another package's aggregator, if it declares some.
    """

    optimizer: ServerOptimizer | None
    aggregation: AggregationConfig
    privacy: PrivacyConfig
    codec: Codec
    download: str
    clients: int
    sampled: int
    rows: Mapping[int, int] = field(default_factory=dict)
    presence: Presence = field(default_factory=dict)
    on_image_path: Callable[[str], bool] = lambda name: False
    rule_parameters: Any = None

    @classmethod
    def of(
        cls,
        config: Config,
        optimizer: ServerOptimizer | None,
        rows: Mapping[int, int] | None = None,
        presence: Presence | None = None,
        on_image_path: Callable[[str], bool] = lambda name: False,
    ) -> ServerSide:
        """From a run's configuration; whoever only plans a run has neither rows nor a model."""
        return cls(
            optimizer=optimizer,
            aggregation=config.fedmllm.aggregation,
            privacy=config.fedmllm.privacy,
            codec=Codec.of(config.fedmllm.compression),
            download=config.fedmllm.compression.download,
            clients=1 if config.method.pooled else config.federate.client_num,
            sampled=config.sampled_clients,
            rows=rows or {},
            presence=presence if presence is not None else {},
            on_image_path=on_image_path,
            rule_parameters=parameters_of(config, RULES[config.fedmllm.aggregation.rule]),
        )

    def begin(
        self,
        index: int,
        clients: Sequence[int],
        params: State,
        server_state: State,
        beside: Mapping[str, torch.Tensor] = MappingProxyType({}),
    ) -> Round:
        """Open a round.

        Args:
            index: from 0.
            clients: the round's clients, ascending.
            params: the global adapter.
            server_state: the server optimizer's state.
            beside: what clients are told beside the algorithm's message, by names with a slash.
        """
        message = {**self.message(params, server_state), **beside}
        received = {name: message[name].float() for name in params}
        return Round(index, list(clients), message, received, self._aggregator(received, clients))

    def take(self, current: Round, update: ClientUpdate) -> None:
        """Check an update and add it to the round; call in ascending client order.

        Raises:
            UpdateError: the update is refused; the round is as before.
        """
        if isinstance(current.aggregator, MaskedSum):  # nobody here can read it; its own protocol checks it
            current.aggregator.add(update.client, 1.0, update.state)
        else:
            state = self._checked(update, current.received, whole=current.aggregator.whole)
            current.aggregator.add(update.client, self.weight(update.rows), state)
        self._note(current, update)

    def take_buffered(self, current: Round, update: ClientUpdate, received: State, scale: float) -> None:
        """Check an update that may be of an earlier version, and add it to the round.

        Args:
            current: the round.
            update: the client's.
            received: the adapter that the client was sent, float32.
            scale: what its difference is multiplied by, see :mod:`fs_fedmllm.rounds.in_flight`.

        Raises:
            UpdateError: the update is refused; the round is as before.
        """
        assert isinstance(current.aggregator, RunningMean)  # the configuration asks for the plain mean
        state, weight = self._checked(update, received, whole=False), self.weight(update.rows)
        check_client(update.client, weight, 0)
        delta = delta_to(received, state)
        if scale != 1:
            delta = {name: tensor * scale for name, tensor in delta.items()}
        current.aggregator.add_delta(weight, delta)
        self._note(current, update)

    def step(
        self, current: Round, params: State, server_state: State, release: Callable[[State], State] | None = None
    ) -> tuple[State, State]:
        """The server optimizer's step along what was taken.

        Args:
            current: the round.
            params: the global adapter.
            server_state: the server optimizer's state.
            release: what the mean goes through before anything else sees it (noise).

        Returns:
            The new adapter and the new state.

        Raises:
            UpdateError: no client's update was accepted, or the step made values that are not finite.
        """
        assert self.optimizer is not None
        deltas = current.aggregator.mean()
        if not deltas:
            raise UpdateError("No client sent a valid update in this round.")
        if release is not None:
            deltas = release(deltas)
        server_state = state_of(self.optimizer, "joined", server_state, len(current.taken) / self.clients)
        return step(self.optimizer, params, server_state, deltas)

    def message(self, params: State, server_state: State) -> State:
        """What a round's clients are sent: the global adapter, and what else the algorithm needs."""
        sent = params if self.optimizer is None else broadcast(self.optimizer, params, server_state)
        return download(sent, self.download)

    def shared(self, params: State) -> State:
        """The tensors that clients send; one that nobody may send gets no mask and no noise.

        Args:
            params: the global adapter; names and shapes count.
        """
        expected = self._expected(params)
        names = federated_names(expected, self.aggregation)
        return {name: tensor for name, tensor in expected.items() if name in names}

    def upload_like(self, received: State) -> State:
        """An update that changes nothing: the names, dtypes and shapes of what a client may send.

        Args:
            received: the adapter that the clients received, float32.
        """
        return self.codec.encode(received, self.shared(received), {})[0]

    def weight(self, rows: int) -> float:
        """A client's weight in the mean; modality-aware weights are the aggregator's own business.

        Under differential privacy all weigh the same.
        """
        assert self.optimizer is not None
        if self.privacy.dp.enabled:
            return 1.0
        chosen = self.aggregation.client_weights
        weighting = self.optimizer.weighting if chosen == "default" else chosen
        return 1.0 if weighting == "uniform" else float(rows)

    @staticmethod
    def _note(current: Round, update: ClientUpdate) -> None:
        current.taken.append(update.client)
        if update.client_state:
            current.client_states[update.client] = update.client_state

    def _expected(self, params: State) -> State:
        return params if self.optimizer is None else expected(self.optimizer, params)

    def _aggregator(self, received: State, clients: Sequence[int]) -> Aggregator:
        shared, dp = self.shared(received), self.privacy.dp
        if self.privacy.secure_aggregation.enabled:
            if not self.rows:  # clients are on other machines, and mask their updates there
                return MaskedSum()
            heaviest = max((int(self.weight(self.rows[client])) for client in clients), default=1)
            return secure_sum(self.privacy, self.sampled, shared, clients, heaviest)
        if dp.enabled:
            exact = self.codec.kind == "float32"
            return ClippedSum(shared, dp.clip_norm, self.sampled, empty=not clients, strict=exact)
        expected = self._expected(received)
        return build_aggregator(self.aggregation, expected, self.presence, self.on_image_path, self.rule_parameters)

    def _checked(self, update: ClientUpdate, received: State, *, whole: bool) -> Mapping[str, torch.Tensor]:
        """An update as the client's adapter, found to be one."""
        assert self.optimizer is not None
        options = self.aggregation
        try:
            state: Mapping[str, torch.Tensor] = self.codec.decode(update.state, received)
        except UpdateError as error:
            raise UpdateError(f"Client {update.client}: {error}.") from error
        if options.ranks:
            state = from_rank(state, received)
        expected = self._expected(received)
        check_update(update.client, expected, state)
        shared = federated_names(expected, options)
        if unknown := [name for name in state if name not in shared]:
            raise UpdateError(f"Client {update.client} sent {unknown[0]!r}, which is frozen in this run.")
        # An aggregator that compares whole updates would fail for all because of one that is not whole.
        whole = whole or self.optimizer.weighs_all_names
        if whole and (missing := [name for name in shared if name not in state]):
            raise UpdateError(f"Client {update.client} did not send {missing[0]!r}.")
        if options.max_update_norm:
            clip = options.norm_action == "clip"
            state = bound_update(update.client, received, state, limit=options.max_update_norm, clip=clip)
        if options.max_variate_norm:
            bound_beside(update.client, received, state, options.max_variate_norm)
        return state


def server_optimizer(config: Config) -> ServerOptimizer | None:
    """The run's server optimizer; None where clients only train alone."""
    method, options = METHODS[config.federate.method], config.fedmllm.server
    return built(
        method,
        lambda: method.build(
            lr=config.server_lr,
            beta1=options.beta1,
            beta2=options.beta2,
            tau=options.tau,
            switches=config.switches,
            parameters=parameters_of(config, method),
        ),
    )


def initial(optimizer: ServerOptimizer | None, params: State) -> State:
    """The server optimizer's state before the first round."""
    return state_of(optimizer, "init", params) if optimizer is not None else {}


def messages(config: Config, params: Mapping[str, torch.Tensor], client: int) -> tuple[State, State]:
    """What a client gets and gives in a round, by name, dtype and shape; the values say nothing.

    Args:
        config: the run's configuration.
        params: an adapter, float32.
        client: id, from 1.
    """
    optimizer, adapter = server_optimizer(config), dict(params)
    server = ServerSide.of(config, optimizer)
    up = server.shared(adapter)
    if server.aggregation.ranks:
        up = to_rank(up, int(server.aggregation.ranks[client - 1]))
    down = server.message(adapter, initial(optimizer, adapter))
    if stand_in_kinds(config.fedmllm.stand_ins):
        down = {**down, **telling(frozenset())}
    return down, server.codec.encode(adapter, up, {})[0]
