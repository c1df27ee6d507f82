"""One file per algorithm: citation and formula, parameters, both halves, and what it requires.

``METHODS`` and ``REGULARIZERS`` are the only places that map a name to an algorithm; an unknown name is an error,
never a silent FedAvg. Nothing here imports torch before an algorithm runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fs_fedmllm.algorithms.baselines import Global, Local
from fs_fedmllm.algorithms.client import ClientContext, ClientHalf
from fs_fedmllm.algorithms.fedavg import FedAvg
from fs_fedmllm.algorithms.fedavgm import FedAvgM
from fs_fedmllm.algorithms.feddyn import FedDyn
from fs_fedmllm.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from fs_fedmllm.algorithms.moon import Moon
from fs_fedmllm.algorithms.proximal import Adaptive, FedProx
from fs_fedmllm.algorithms.regularizer import Regularizer
from fs_fedmllm.algorithms.scaffold import Scaffold
from fs_fedmllm.algorithms.server import Method, ServerOptimizer, State
from fs_fedmllm.algorithms.yoco import Yoco
from fs_fedmllm.errors import ConfigError

#: Values of ``federate.method``.
METHODS: dict[str, type[Method]] = {
    cls.name: cls
    for cls in (FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, Scaffold, FedDyn, Local, Global)
}

#: Values of ``fedmllm.regularizer.type`` beside ``none``.
REGULARIZERS: dict[str, type[Regularizer]] = {cls.name: cls for cls in (FedProx, Adaptive, Moon, Yoco)}

#: The methods with a server of their own.
OPTIMIZERS: dict[str, type[ServerOptimizer]] = {
    name: cls for name, cls in METHODS.items() if cls.federated and issubclass(cls, ServerOptimizer)
}

#: The sections of single algorithms' parameters, by name.
SECTIONS: dict[str, type] = {
    section: parameters
    for section, parameters in (
        *((cls.section, cls.parameters) for cls in METHODS.values()),
        *((cls.section, cls.parameters) for cls in REGULARIZERS.values()),
    )
    if parameters is not None
}


def parameters_of(config: Any, algorithm: type[Method] | type[Regularizer]) -> Any:
    """The section of an algorithm's own parameters.

    Args:
        config: the whole configuration.
        algorithm: a method or a regulariser.
    """
    return getattr(config.fedmllm, algorithm.section) if algorithm.section else None


def build_server_optimizer(
    method: str,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    tau: float,
    switches: Mapping[str, str],
    parameters: Any = None,
) -> ServerOptimizer:
    """The server half of a method by its name.

    Args:
        method: one of ``OPTIMIZERS``.
        lr: server learning rate (eta).
        beta1: momentum or first-moment decay.
        beta2: second-moment decay.
        tau: adaptivity of the adaptive methods.
        switches: the profile's switches; ``fedavg``, ``fedavgm`` and ``fedopt`` are read.
        parameters: the method's own, see :func:`parameters_of`.

    Raises:
        ConfigError: the name is unknown.
    """
    if method not in OPTIMIZERS:
        raise ConfigError(f"Unknown server method {method!r}; choose one of {', '.join(OPTIMIZERS)}.")
    return OPTIMIZERS[method].build(
        lr=lr, beta1=beta1, beta2=beta2, tau=tau, switches=switches, parameters=parameters
    )


__all__ = [
    "METHODS",
    "OPTIMIZERS",
    "REGULARIZERS",
    "SECTIONS",
    "ClientContext",
    "ClientHalf",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedDyn",
    "FedYogi",
    "Method",
    "Regularizer",
    "Scaffold",
    "ServerOptimizer",
    "State",
    "build_server_optimizer",
    "parameters_of",
]
