"""Federated fine-tuning of multimodal large language models when clients lack modalities.

    import fs_fedmllm

    result = fs_fedmllm.run("configs/cross_i3t7.yaml", seed=7, federate__total_round_num=3)
    print(result.metrics["test_macro_f1"], result.adapter)

Importing this package imports neither torch nor transformers: the command line answers ``--help`` and configuration
errors without paying for them. The names below are imported when they are first used; docs/python.md describes them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fs_fedmllm.version import VERSION as __version__

#: Public name -> the module that defines it.
_PUBLIC = {
    "Adapter": "fs_fedmllm.api",
    "Callback": "fs_fedmllm.api",
    "ClientContext": "fs_fedmllm.algorithms",
    "ClientHalf": "fs_fedmllm.algorithms",
    "Config": "fs_fedmllm.config",
    "Dataset": "fs_fedmllm.data.sample",
    "FedMLLMError": "fs_fedmllm.errors",
    "FedMLLMTrainer": "fs_fedmllm.sft.trainer",
    "Method": "fs_fedmllm.algorithms",
    "Regularizer": "fs_fedmllm.algorithms",
    "Result": "fs_fedmllm.api",
    "Sample": "fs_fedmllm.data.sample",
    "Scenario": "fs_fedmllm.scenarios",
    "ScenarioParams": "fs_fedmllm.scenarios",
    "ServerOptimizer": "fs_fedmllm.algorithms",
    "apply_scenario": "fs_fedmllm.scenarios",
    "load_adapter": "fs_fedmllm.api",
    "load_config": "fs_fedmllm.api",
    "load_dataset": "fs_fedmllm.data.registry",
    "register_aggregator": "fs_fedmllm.api",
    "register_algorithm": "fs_fedmllm.api",
    "register_dataset": "fs_fedmllm.api",
    "register_family": "fs_fedmllm.api",
    "register_metric": "fs_fedmllm.api",
    "register_regularizer": "fs_fedmllm.api",
    "register_scenario": "fs_fedmllm.api",
    "run": "fs_fedmllm.api",
}

__all__ = [
    "Adapter",
    "Callback",
    "ClientContext",
    "ClientHalf",
    "Config",
    "Dataset",
    "FedMLLMError",
    "FedMLLMTrainer",
    "Method",
    "Regularizer",
    "Result",
    "Sample",
    "Scenario",
    "ScenarioParams",
    "ServerOptimizer",
    "__version__",
    "apply_scenario",
    "load_adapter",
    "load_config",
    "load_dataset",
    "register_aggregator",
    "register_algorithm",
    "register_dataset",
    "register_family",
    "register_metric",
    "register_regularizer",
    "register_scenario",
    "run",
]

if TYPE_CHECKING:
    from fs_fedmllm.algorithms import ClientContext, ClientHalf, Method, Regularizer, ServerOptimizer
    from fs_fedmllm.api import (
        Adapter,
        Callback,
        Result,
        load_adapter,
        load_config,
        register_aggregator,
        register_algorithm,
        register_dataset,
        register_family,
        register_metric,
        register_regularizer,
        register_scenario,
        run,
    )
    from fs_fedmllm.config import Config
    from fs_fedmllm.data.registry import load_dataset
    from fs_fedmllm.data.sample import Dataset, Sample
    from fs_fedmllm.errors import FedMLLMError
    from fs_fedmllm.scenarios import Scenario, ScenarioParams, apply_scenario
    from fs_fedmllm.sft.trainer import FedMLLMTrainer


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
