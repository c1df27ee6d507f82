"""Who gets which rows, and which modalities each client may see. See docs/architecture.md."""

from fs_fedmllm.scenarios.build import Scenario, apply_scenario, params_of
from fs_fedmllm.scenarios.switches import ScenarioParams, profile_params

__all__ = [
    "Scenario",
    "ScenarioParams",
    "apply_scenario",
    "params_of",
    "profile_params",
]
