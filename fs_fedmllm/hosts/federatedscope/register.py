"""Everything that FederatedScope learns from us, in one call.

FederatedScope's plug file imports this module before FederatedScope builds its global config, so nothing heavy may
be imported here: registries hold functions, and those import what they need when they are called.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from fs_fedmllm.algorithms import OPTIMIZERS
from fs_fedmllm.config.host_reading import METHOD_PREFIX
from fs_fedmllm.config.open_names import METRICS, OUTSIDE_METRICS
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.hosts.federatedscope import compat
from fs_fedmllm.hosts.federatedscope.config_bridge import extend_config, is_ours

#: Methods that are nothing but a server step, which FederatedScope does not have: its own jobs may use them.
_OPTIMIZERS = tuple(name for name, cls in OPTIMIZERS.items() if name != "fedavg" and not cls.keeps)
#: Metrics that FederatedScope has itself.
_ITS_OWN = ("acc", "loss", "total")
_registered = False


def register_all() -> None:
    """Make FederatedScope run beside today's packages and register our types with it; idempotent."""
    global _registered
    compat.apply_fixes()
    if _registered:
        return
    _registered = True
    from federatedscope import register

    register.register_config("fedmllm", extend_config)
    register.register_data("fedmllm", _data)
    register.register_splitter("fedmllm", _splitter)
    register.register_model("fedmllm", _model)
    register.register_trainer("fedmllm", _trainer)
    register.register_worker("fedmllm", _worker)
    for name in (*METRICS, *OUTSIDE_METRICS):
        if name in _ITS_OWN:
            continue
        register.register_metric(f"fedmllm_{name}", _metric(name))
    _explain_errors()


def _data(config: Any, client_cfgs: Any) -> Any:
    if not is_ours(config):
        return None
    from fs_fedmllm.hosts.federatedscope.data import build_data

    return build_data(config, client_cfgs)


def _splitter(kind: str, client_num: int, **settings: Any) -> Any:
    from fs_fedmllm.hosts.federatedscope.splitter import build_splitter

    return build_splitter(kind, client_num, **settings)


def _model(model_config: Any, input_shape: Any) -> Any:
    if model_config.type != "fedmllm":
        return None
    from fs_fedmllm.hosts.federatedscope import runtime
    from fs_fedmllm.hosts.federatedscope.view import AdapterView

    return AdapterView(runtime.current().federation.initial_state())


def _trainer(kind: str) -> Any:
    if kind != "fedmllm":
        return None
    from fs_fedmllm.hosts.federatedscope.trainer import FedMLLMTrainer

    return FedMLLMTrainer


def _worker(method: str) -> Any:
    """Workers for names that FederatedScope does not know; it builds its own for its own names."""
    from federatedscope.core.configs import constants

    if method.startswith(METHOD_PREFIX):
        from fs_fedmllm.hosts.federatedscope.workers import FedMLLMClient, FedMLLMServer

        constants.AGGREGATOR_TYPE.setdefault(method, "clients_avg")  # spares a warning that is not true
        return {"client": FedMLLMClient, "server": FedMLLMServer}
    if method in _OPTIMIZERS:
        from federatedscope.core.workers import Client

        from fs_fedmllm.hosts.federatedscope.stock_server import OptimizerServer

        constants.AGGREGATOR_TYPE.setdefault(method, "clients_avg")
        return {"client": Client, "server": OptimizerServer}
    return None


def _metric(name: str) -> Any:
    def find(kinds: Any) -> Any:
        # The numbers come from our evaluation; FederatedScope only needs to know that the name exists and that
        # more is better.
        return (name, None, True) if name in kinds else None

    return find


def _explain_errors() -> None:
    """Print what the user can put right as one paragraph and exit with 2; leave every other error alone."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, FedMLLMError):
            print(f"fs-fedmllm: {error}", file=sys.stderr)
            sys.exit(2)
        previous(kind, error, trace)

    sys.excepthook = hook
