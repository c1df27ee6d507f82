"""One file per algorithm: citation and formula, parameters, both halves, and what it requires.

``METHODS`` and ``REGULARIZERS`` are the only places that map a name to an algorithm; an unknown name is an error,
never a silent FedAvg. Nothing here imports torch before an algorithm runs.
"""

from __future__ import annotations

from typing import Any

from fs_fedmllm.algorithms.baselines import Global, Local
from fs_fedmllm.algorithms.client import ClientContext, ClientHalf
from fs_fedmllm.algorithms.fedavg import FedAvg
from fs_fedmllm.algorithms.fedavgm import FedAvgM
from fs_fedmllm.algorithms.feddyn import FedDyn
from fs_fedmllm.algorithms.fedilora import FediLoRA
from fs_fedmllm.algorithms.fedlc import FedLC
from fs_fedmllm.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from fs_fedmllm.algorithms.moon import Moon
from fs_fedmllm.algorithms.proximal import Adaptive, FedProx
from fs_fedmllm.algorithms.regularizer import NoRegularizer, Regularizer
from fs_fedmllm.algorithms.scaffold import Scaffold
from fs_fedmllm.algorithms.server import Method, ServerOptimizer
from fs_fedmllm.algorithms.state import State
from fs_fedmllm.algorithms.yoco import Yoco
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.registry import Registry

#: Values of ``federate.method``.
_METHODS: tuple[type[Method], ...] = (
    *(FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, Scaffold, FedDyn),
    *(Local, Global),
)
_REGULARIZERS: tuple[type[Regularizer], ...] = (NoRegularizer, FedProx, Adaptive, Moon, Yoco, FedLC, FediLoRA)

METHODS: Registry[type[Method]] = Registry("fs_fedmllm.algorithms", {cls.name: cls for cls in _METHODS}, kind=Method)

#: Values of ``fedmllm.regularizer.type``.
REGULARIZERS: Registry[type[Regularizer]] = Registry(
    "fs_fedmllm.regularizers", {cls.name: cls for cls in _REGULARIZERS}, kind=Regularizer
)

#: Our methods with a server.
OPTIMIZERS: dict[str, type[ServerOptimizer]] = {
    cls.name: cls for cls in _METHODS if cls.federated and issubclass(cls, ServerOptimizer)
}

#: The sections of single algorithms' parameters, by name.
SECTIONS: dict[str, type] = {
    section: parameters
    for section, parameters in (
        *((cls.section, cls.parameters) for cls in _METHODS),
        *((cls.section, cls.parameters) for cls in _REGULARIZERS),
    )
    if parameters is not None
}


def parameters_of(config: Any, algorithm: Any) -> Any:
    """An algorithm's own parameters: its section, or ``fedmllm.parameters`` for one from outside this package.

    Args:
        config: the whole configuration.
        algorithm: a method, a regulariser, or an aggregator of another package, which may have none.
    """
    if not getattr(algorithm, "section", ""):
        return None
    ours = getattr(config.fedmllm, algorithm.section, None)
    if ours is not None or algorithm.parameters is None:
        return ours
    given = config.fedmllm.parameters.get(algorithm.section, {})
    return algorithm.parameters(**given)


def build_server_optimizer(method: str, *, parameters: Any = None, **settings: Any) -> ServerOptimizer:
    """The server half of a method by its name, see :meth:`Method.build`.

    Raises:
        ConfigError: the name is not one of ``OPTIMIZERS``.
    """
    if method not in OPTIMIZERS:
        raise ConfigError(f"Unknown server method {method!r}; choose one of {', '.join(OPTIMIZERS)}.")
    return OPTIMIZERS[method].build(parameters=parameters, **settings)


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
