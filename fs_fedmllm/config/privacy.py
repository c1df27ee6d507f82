"""``fedmllm.privacy``: what a run promises about its clients, and how. See docs/privacy.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fs_fedmllm.algorithms import REGULARIZERS
from fs_fedmllm.config.profiles import profile_switches
from fs_fedmllm.keys import DECAY, NOT_NEGATIVE, POSITIVE, Range, key

#: Switches whose other values average by rules for which nothing here holds.
_SERVER_SWITCHES = ("fedavg", "fedavgm", "fedopt")


@dataclass(frozen=True)
class DPConfig:
    """``fedmllm.privacy.dp``: client-level differential privacy of the adapters (DP-FedAvg, McMahan et al. 2018)."""

    clip_norm: float = key(
        0.0,
        "L2 bound on a client's update, over all tensors together; above 0 switches differential privacy on, and "
        "clients then count equally whatever their rows.",
        valid=NOT_NEGATIVE,
    )
    noise_multiplier: float = key(
        0.0,
        "Standard deviation of the noise on the sum of the updates, in units of clip_norm.",
        valid=NOT_NEGATIVE,
    )
    target_epsilon: float = key(
        0.0,
        "Solve for the noise_multiplier that gives this epsilon after total_round_num rounds; 0 takes the one given.",
        valid=NOT_NEGATIVE,
    )
    delta: float = key(0.0, "Epsilon holds for this delta; 0 takes client_num ** -1.1.", valid=DECAY)
    sampling: str = key(
        "fixed",
        "How a round's clients are drawn: a fixed number without replacement, or each independently with the same "
        "probability.",
        choices=("fixed", "poisson"),
    )
    accountant: str = key(
        "auto",
        "How epsilon is computed. rdp: Renyi divergences; pld: privacy loss distributions, for Poisson "
        "sampling; auto: the tighter of those that hold.",
        choices=("auto", "rdp", "pld"),
    )

    @property
    def enabled(self) -> bool:
        """Whether the run is differentially private."""
        return self.clip_norm > 0


def threshold_of(share: float, clients: int) -> int:
    """How many of so many clients a share of them is: rounded up, above half, at least 2."""
    return max(2, clients // 2 + 1, -int(-share * clients // 1))


@dataclass(frozen=True)
class SecureAggregationConfig:
    """``fedmllm.privacy.secure_aggregation``: the server learns sums only (Bonawitz et al. 2017)."""

    enabled: bool = key(False, "Mask updates, so that the server can read their sum and no single one.")
    threshold: float = key(
        0.66,
        "Share of a round's clients, by configuration, that must be there at its end; with fewer nothing is opened.",
        valid=Range(0.5, 1, open_low=True),
    )
    value_range: float = key(
        1.0,
        "Largest change of a parameter in a client update that is sent in full; precision: this over 2^31 per client.",
        valid=POSITIVE,
    )


@dataclass(frozen=True)
class PrivacyConfig:
    """``fedmllm.privacy``."""

    dp: DPConfig = field(default_factory=DPConfig)
    secure_aggregation: SecureAggregationConfig = field(default_factory=SecureAggregationConfig)


def privacy_faults(config: Any) -> Iterator[str]:
    """A message, naming the keys, for every combination that cannot mean anything."""
    yield from _differential_privacy(config)
    yield from _secure_aggregation(config)


def _differential_privacy(config: Any) -> Iterator[str]:
    dp, clients = config.fedmllm.privacy.dp, config.federate.client_num
    prefix = "fedmllm.privacy.dp"
    if not dp.enabled:
        for name in ("noise_multiplier", "target_epsilon", "delta"):
            if getattr(dp, name):
                yield (
                    f"{prefix}.{name} is {getattr(dp, name):g}, but {prefix}.clip_norm is 0, so no noise could cover "
                    "a client's update. Set clip_norm above 0, or leave the whole section out."
                )
        if dp.accountant != "auto":
            yield f"{prefix}.accountant is {dp.accountant} without {prefix}.clip_norm; it has no effect. Set that."
        if dp.sampling != "fixed":
            yield f"{prefix}.sampling is {dp.sampling} without {prefix}.clip_norm; it has no effect. Set clip_norm."
        return
    if not dp.noise_multiplier and not dp.target_epsilon:
        yield (
            f"{prefix}.clip_norm is {dp.clip_norm:g} without noise, which protects nobody. Set "
            f"{prefix}.target_epsilon or {prefix}.noise_multiplier."
        )
    if dp.noise_multiplier and dp.target_epsilon:
        yield (
            f"{prefix}.noise_multiplier and {prefix}.target_epsilon are both set, and either determines the other. "
            "Set one of them to 0."
        )
    if not config.method.federated:
        yield (
            f"federate.method is {config.federate.method}, which sends no client's update to a server; "
            f"{prefix}.clip_norm must be 0."
        )
    if clients and dp.delta >= 1 / clients:
        yield (
            f"{prefix}.delta is {dp.delta:g}; with federate.client_num = {clients} it must be below {1 / clients:g}, "
            "or publishing one client's data in full would count as private."
        )
    if clients == 1:
        yield f"federate.client_num is 1; {prefix} hides one client among several. Set {prefix}.clip_norm to 0."
    if dp.sampling == "poisson" and config.sampled_clients >= clients:
        yield (
            f"{prefix}.sampling is poisson, but every client takes part in every round. Set "
            "federate.sample_client_num below federate.client_num, or sampling to fixed."
        )
    elif dp.accountant != "auto" and config.sampled_clients >= clients:
        yield (
            f"{prefix}.accountant is {dp.accountant}, but every client takes part in every round, where epsilon is "
            "exact and neither is used. Set it to auto."
        )
    elif dp.accountant == "pld" and dp.sampling != "poisson":
        yield (
            f"{prefix}.accountant is pld, which holds for clients that are drawn each by itself; {prefix}.sampling is "
            f"{dp.sampling}. Set sampling to poisson, or accountant to auto."
        )
    regularizer = REGULARIZERS[config.fedmllm.regularizer.type]
    fixed = profile_switches("fixed")
    for name in _SERVER_SWITCHES:
        if config.switches[name] != fixed[name]:
            yield (
                f"fedmllm.switches.{name} is {config.switches[name]} (profile {config.fedmllm.profile}), which is no "
                f"mean of clipped updates; with {prefix}.clip_norm set fedmllm.switches.{name} to {fixed[name]}."
            )
    if config.fedmllm.compression.upload != "float32" and config.fedmllm.compression.error_feedback:
        yield (
            f"fedmllm.compression.error_feedback carries what a client computed into later rounds, which {prefix} "
            "does not account for. Set it to False, or fedmllm.compression.upload to float32."
        )
    if config.fedmllm.replay:
        yield (
            f"fedmllm.replay names the clients of every round, but {prefix} has to draw them in secret, and its noise "
            "cannot be repeated. Leave one of the two out."
        )
    if not regularizer.private:
        yield (
            f"fedmllm.regularizer.type {config.fedmllm.regularizer.type} starts from something other than what the "
            f"server sent, or remembers earlier rounds, which {prefix} does not account for. Use another."
        )
    if config.switches["client_sampling"] != "run_generator":
        yield (
            f"fedmllm.switches.client_sampling is {config.switches['client_sampling']} (profile "
            f"{config.fedmllm.profile}): clients drawn from the round's number are known to everybody. With "
            f"{prefix}.clip_norm set it to run_generator."
        )


def _secure_aggregation(config: Any) -> Iterator[str]:
    secure, plain = config.fedmllm.privacy.secure_aggregation, SecureAggregationConfig()
    prefix = "fedmllm.privacy.secure_aggregation"
    for name in ("threshold", "value_range"):
        if not secure.enabled and getattr(secure, name) != getattr(plain, name):
            yield f"{prefix}.{name} is set, but {prefix}.enabled is False, so it has no effect. Set enabled."
    if not secure.enabled:
        return
    if not config.method.federated:
        yield (
            f"federate.method is {config.federate.method}, in which no updates are added up; {prefix}.enabled must be "
            "False."
        )
    elif 0 < config.sampled_clients < 3:
        yield (
            f"{prefix} needs at least 3 clients in a round: with {config.sampled_clients} the sum tells a client what "
            "the other sent. Raise federate.sample_client_num."
        )
    least, quorum = threshold_of(secure.threshold, config.sampled_clients), config.fedmllm.network.min_clients
    if 0 < quorum < least:
        yield (
            f"fedmllm.network.min_clients is {quorum}, but {prefix}.threshold ({secure.threshold:g} of "
            f"{config.sampled_clients} clients) opens a round's sum to no fewer than {least}: a round that ended with "
            f"{quorum} answers would always fail. Set min_clients to 0 or at least {least}, or lower threshold."
        )
    dp = config.fedmllm.privacy.dp
    if dp.enabled and secure.value_range != plain.value_range:
        yield (
            f"{prefix}.value_range has no effect with differential privacy, where fedmllm.privacy.dp.clip_norm bounds "
            f"every value. Leave it at {plain.value_range:g}."
        )
    if config.fedmllm.compression.upload != "float32":
        yield (
            f"fedmllm.compression.upload is {config.fedmllm.compression.upload}, but masked updates are whole numbers "
            f"of their own ({prefix}) whose sum a codec would break. Set it to float32."
        )
    regularizer = REGULARIZERS[config.fedmllm.regularizer.type]
    if regularizer.remembers:
        yield (
            f"fedmllm.regularizer.type {regularizer.name} remembers an update that the server has used, and under "
            f"{prefix} a client may not know which that is. Use another."
        )
    if dp.sampling == "poisson":
        yield (
            f"fedmllm.privacy.dp.sampling is poisson, which may draw fewer clients than {prefix} needs. Set it to "
            "fixed."
        )
