"""The scenarios as FederatedScope splitters: ``data.splitter: fedmllm_cross`` and its like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fs_fedmllm.data.sample import Sample

#: FederatedScope passes a prior, even None, for validation and test rows, and none at all for training rows.
_TRAINING = object()


class ScenarioSplitter:
    """Callable as FederatedScope calls its splitters.

    Args:
        scenario: name of the scenario.
        client_num: clients.
        settings: parameters and switches of the scenario; ``seed`` among them.
    """

    def __init__(self, scenario: str, client_num: int, settings: dict[str, Any]):
        self.scenario = scenario
        self.client_num = client_num
        self.settings = settings

    def __call__(self, dataset: Sequence[Sample], prior: Any = _TRAINING, **kwargs: Any) -> list[list[Sample]]:
        """Rows of each client.

        Validation and test rows are dealt the same way but keep every modality.
        """
        from fs_fedmllm.scenarios import apply_scenario, params_of

        name = self.scenario if prior is _TRAINING else "aligned"
        split = apply_scenario(name, dataset, self.client_num, params_of(self.scenario, self.settings))
        return [list(split.clients[client]) for client in sorted(split.clients)]


def build_splitter(kind: str, client_num: int, **settings: Any) -> ScenarioSplitter | None:
    """FederatedScope's splitter function: None for names that are not ours."""
    if not kind.startswith("fedmllm_"):
        return None
    return ScenarioSplitter(kind.removeprefix("fedmllm_"), client_num, settings)
