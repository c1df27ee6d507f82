"""What NVFlare's server holds: the adapter's tensors alone, which is less than its own example sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def to_pipes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Names that a module's parameter may have."""
    return {name.replace(".", "|"): value for name, value in state.items()}


def to_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT's names again."""
    return {name.replace("|", "."): torch.as_tensor(value) for name, value in state.items()}


class Adapter(torch.nn.Module):
    """Parameters with the shapes of the plan's adapter.

    Args:
        plan_file: the plan.
    """

    def __init__(self, plan_file: str):
        super().__init__()
        self.plan_file = plan_file  # NVFlare writes a component's arguments from attributes of their names
        import hf_client
        from safetensors.torch import load_file

        for name, tensor in to_pipes(load_file(hf_client.read_plan(plan_file)["adapter"])).items():
            self.register_parameter(name, torch.nn.Parameter(tensor))
