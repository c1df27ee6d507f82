"""The one configuration schema: frozen dataclasses with units and defaults.

A file is in FederatedScope's own YAML format, and the same file serves both engines. The keys outside
``fedmllm`` and ``model.fedmllm`` are FederatedScope's; this module mirrors those that the embedded engine
honours and refuses every other key by name. Cross-field checks are in :func:`check`.
"""

from fs_fedmllm.config.aggregation import AggregationConfig
from fs_fedmllm.config.asynchronous import AsyncConfig, host_fault
from fs_fedmllm.config.compression import CompressionConfig
from fs_fedmllm.config.host_sections import (
    DataConfig,
    EarlyStopConfig,
    EvalConfig,
    FederateConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    TrainerConfig,
)
from fs_fedmllm.config.hub import HubConfig
from fs_fedmllm.config.identity import config_digest, key_facts, settings, told_apart
from fs_fedmllm.config.judge import JudgeSection
from fs_fedmllm.config.known_keys import known_keys, unknown_key
from fs_fedmllm.config.missing_modalities import StandInsConfig
from fs_fedmllm.config.model import LoraConfig, ModelOptions
from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.config.open_names import SPLITTERS
from fs_fedmllm.config.overrides import apply_overrides, override_pairs
from fs_fedmllm.config.own_sections import CacheConfig, EvaluatorConfig, LocalConfig, RegularizerConfig, ServerConfig
from fs_fedmllm.config.precision import QuantizationConfig
from fs_fedmllm.config.privacy import DPConfig, PrivacyConfig, SecureAggregationConfig
from fs_fedmllm.config.reading import (
    from_mapping,
    given_mapping,
    host_mapping,
    load,
    read_clients,
    read_yaml,
    to_mapping,
)
from fs_fedmllm.config.reference import describe
from fs_fedmllm.config.schema import Config, FedMLLMConfig

__all__ = [
    "SPLITTERS",
    "AggregationConfig",
    "AsyncConfig",
    "CacheConfig",
    "CompressionConfig",
    "Config",
    "DPConfig",
    "DataConfig",
    "EarlyStopConfig",
    "EvalConfig",
    "EvaluatorConfig",
    "FedMLLMConfig",
    "FederateConfig",
    "HubConfig",
    "JudgeSection",
    "LocalConfig",
    "LoraConfig",
    "ModelConfig",
    "ModelOptions",
    "NetworkConfig",
    "OptimizerConfig",
    "PrivacyConfig",
    "QuantizationConfig",
    "RegularizerConfig",
    "SecureAggregationConfig",
    "ServerConfig",
    "StandInsConfig",
    "TrainConfig",
    "TrainerConfig",
    "apply_overrides",
    "config_digest",
    "describe",
    "from_mapping",
    "given_mapping",
    "host_fault",
    "host_mapping",
    "key_facts",
    "known_keys",
    "load",
    "override_pairs",
    "read_clients",
    "read_yaml",
    "settings",
    "to_mapping",
    "told_apart",
    "unknown_key",
]
