"""Which client halves an update has: of how factors are averaged, of the label prior, the method, the regulariser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fs_fedmllm.algorithms import METHODS, REGULARIZERS, ClientContext, ClientHalf, Method, Regularizer, parameters_of
from fs_fedmllm.algorithms.factors import is_a
from fs_fedmllm.algorithms.frozen_a import FrozenAClient
from fs_fedmllm.algorithms.label_prior import LabelPriorClient
from fs_fedmllm.algorithms.lora_ranks import RankedClient
from fs_fedmllm.algorithms.outside import called, client_half
from fs_fedmllm.config import AggregationConfig, Config
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.models.adapter import Adapter
from fs_fedmllm.scenarios.federated_data import missing_rate, option_counts


@dataclass(frozen=True)
class ClientAlgorithms:
    """What is around and inside the training of every client of a run.

    Attributes:
        algorithms: the method and the regulariser, each with its own parameters.
        aggregation: ``fedmllm.aggregation``.
        label_prior: ``fedmllm.label_prior``.
        scenario: what takes modalities away.
        scenario_params: its parameters, as the manifest has them.
        switches: of the profile.
    """

    algorithms: Sequence[tuple[type[Method] | type[Regularizer], Any]]
    aggregation: AggregationConfig
    label_prior: float
    scenario: str
    scenario_params: Mapping[str, Any]
    switches: Mapping[str, str]

    @classmethod
    def of(cls, config: Config, scenario_params: Mapping[str, Any]) -> ClientAlgorithms:
        """From a run's configuration, and the scenario's parameters as the manifest has them."""
        chosen = (METHODS[config.federate.method], REGULARIZERS[config.fedmllm.regularizer.type])
        return cls(
            algorithms=[(algorithm, parameters_of(config, algorithm)) for algorithm in chosen],
            aggregation=config.fedmllm.aggregation,
            label_prior=config.fedmllm.label_prior,
            scenario=config.missingness,
            scenario_params=scenario_params,
            switches=config.switches,
        )

    def halves(self, client: int, rows: Sequence[Sample], template: Template, adapter: Adapter) -> list[ClientHalf]:
        """The client halves of one update, in the order in which they begin and finish.

        Args:
            client: id.
            rows: of the client.
            template: of the rows.
            adapter: of the model, which may be one without weights.

        Raises:
            ConfigError: the regulariser leaves no layer of this model.
        """
        frozen = self.aggregation.lora == "frozen_a"
        context = ClientContext(
            client=client,
            names=adapter.names,
            device=adapter.parameters[0].device,
            layers=adapter.layers,
            depth=adapter.depth,
            frozen=tuple(i for i, name in enumerate(adapter.names) if frozen and is_a(name)),
            label_counts=option_counts(rows, template),
            missing_rate=missing_rate(rows) if rows else 0.0,
            scenario=self.scenario,
            scenario_params=self.scenario_params,
            switches=self.switches,
        )
        halves: list[ClientHalf | None] = []
        if self.aggregation.ranks:
            halves.append(RankedClient(int(self.aggregation.ranks[client - 1])))
        if context.frozen:
            halves.append(FrozenAClient(context))
        if self.label_prior and context.label_counts:
            halves.append(LabelPriorClient(context.label_counts, self.label_prior))
        for algorithm, parameters in self.algorithms:
            with called(algorithm, "client"):
                half = algorithm.client(parameters, context)
            halves.append(client_half(half, algorithm))
        return [half for half in halves if half is not None]

    def check_sent(self, sent: Iterable[str], names: Iterable[str], half: ClientHalf, *, bounded: bool) -> None:
        """Nothing bounds, encodes or sums a tensor of which nobody has said that it comes.

        Args:
            sent: names of what is sent once ``half`` has finished.
            names: of the adapter, and of what was sent before.
            half: one of :meth:`halves`.
            bounded: whether the update is clipped, which is done with the adapter alone.

        Raises:
            ConfigError: it sends more than the adapter, and its method declares nothing.
        """
        (method, _), (regularizer, _) = self.algorithms
        beside = sorted(set(sent) - set(names))
        if not beside or (
            getattr(method, "sends_beside", False) and not bounded
        ):  # what it declares is the server's to compare
            return
        made = f"{type(half).__module__}.{type(half).__qualname__}"
        more = f" and {len(beside) - 1} more" if len(beside) > 1 else ""
        reason = (
            "differential privacy (fedmllm.privacy.dp.clip_norm) bounds the adapter alone"
            if bounded
            else "the method does not declare it, so that no server would take the update"
        )
        raise ConfigError(
            f"federate.method {method.name!r}, fedmllm.regularizer.type {regularizer.name!r}: the client half {made} "
            f"sends {beside[0]!r}{more} beside the adapter, and {reason}. Give it back from finish as what the client "
            "keeps, or let the method's expected(params) declare it (docs/extending.md)"
            + (" and switch differential privacy off." if bounded else ".")
        ).telling(f"its algorithm (federate.method {method.name}) sends tensors that are not declared")
