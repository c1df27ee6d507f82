"""Server aggregation: one optimizer per file, pure functions over explicit state.

``OPTIMIZERS`` is the only place that maps a name to an algorithm; an unknown name is an error, never a
silent FedAvg.
"""

from __future__ import annotations

from fs_fedmllm.aggregation.base import ServerOptimizer, State
from fs_fedmllm.aggregation.fedadagrad import FedAdagrad
from fs_fedmllm.aggregation.fedadam import FedAdam
from fs_fedmllm.aggregation.fedavg import FedAvg
from fs_fedmllm.aggregation.fedavgm import FedAvgM
from fs_fedmllm.aggregation.feddyn import FedDyn
from fs_fedmllm.aggregation.fedyogi import FedYogi
from fs_fedmllm.aggregation.mean import RunningMean, check_update
from fs_fedmllm.aggregation.rules import Cohort, RoundRule, build_rule, federated_names
from fs_fedmllm.aggregation.scaffold import VARIATE, Scaffold
from fs_fedmllm.errors import ConfigError

OPTIMIZERS: dict[str, type[ServerOptimizer]] = {
    cls.name: cls for cls in (FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, Scaffold, FedDyn)
}


def build_server_optimizer(
    method: str, *, lr: float, beta1: float, beta2: float, tau: float, switches: dict[str, str], alpha: float = 0.01
) -> ServerOptimizer:
    """The server optimizer of a method name.

    Args:
        method: one of ``OPTIMIZERS``.
        lr: server learning rate (eta).
        beta1: momentum or first-moment decay.
        beta2: second-moment decay.
        tau: adaptivity of the adaptive methods.
        switches: the profile's switches; ``fedavg``, ``fedavgm`` and ``fedopt`` are read.
        alpha: of FedDyn.

    Raises:
        ConfigError: the name is unknown.
    """
    if method not in OPTIMIZERS:
        raise ConfigError(f"Unknown server method {method!r}; choose one of {', '.join(OPTIMIZERS)}.")
    if method == "feddyn":
        return FedDyn(lr=lr, switches=switches, alpha=alpha)
    return OPTIMIZERS[method](lr=lr, beta1=beta1, beta2=beta2, tau=tau, switches=switches)


__all__ = [
    "OPTIMIZERS",
    "VARIATE",
    "Cohort",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedDyn",
    "FedYogi",
    "RoundRule",
    "RunningMean",
    "Scaffold",
    "ServerOptimizer",
    "State",
    "build_rule",
    "build_server_optimizer",
    "check_update",
    "federated_names",
]
