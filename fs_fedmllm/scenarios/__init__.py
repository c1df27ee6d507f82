"""Who gets which rows, and which modalities each client may see. See docs/architecture.md."""

from fs_fedmllm.scenarios.build import Scenario, apply_scenario, params_of
from fs_fedmllm.scenarios.manifest import (
    ClientRecord,
    Manifest,
    Split,
    apply_manifest,
    read_manifest,
    write_manifest,
)
from fs_fedmllm.scenarios.switches import PROFILES, SWITCHES, ScenarioParams, profile_params

__all__ = [
    "PROFILES",
    "SWITCHES",
    "ClientRecord",
    "Manifest",
    "Scenario",
    "ScenarioParams",
    "Split",
    "apply_manifest",
    "apply_scenario",
    "params_of",
    "profile_params",
    "read_manifest",
    "write_manifest",
]
