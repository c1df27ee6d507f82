"""The scenarios as FederatedScope splitters: ``data.splitter: fedmllm_cross`` and its like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fs_fedmllm.data.sample import Sample


class ScenarioSplitter:
    """Callable as FederatedScope calls its splitters.

    Args:
        scenario: ``aligned``, ``missing``, ``cross`` or ``hybrid``.
        client_num: clients.
        settings: parameters and switches of the scenario; ``seed`` among them.
    """

    def __init__(self, scenario: str, client_num: int, settings: dict[str, Any]):
        self.scenario = scenario
        self.client_num = client_num
        self.settings = settings

    def __call__(self, dataset: Sequence[Sample], prior: Any = None, **kwargs: Any) -> list[list[Sample]]:
        """Rows of each client.

        FederatedScope calls a splitter on training rows first, without a prior, and on validation and test rows
        with one (or after it): those are dealt the same way but keep every modality.
        """
        from fs_fedmllm.scenarios import apply_scenario, profile_params

        name = self.scenario if prior is None else "aligned"
        split = apply_scenario(name, dataset, self.client_num, profile_params("fixed", **self.settings))
        return [list(split.clients[client]) for client in sorted(split.clients)]


def build_splitter(kind: str, client_num: int, **settings: Any) -> ScenarioSplitter | None:
    """FederatedScope's splitter function: None for names that are not ours."""
    if not kind.startswith("fedmllm_"):
        return None
    return ScenarioSplitter(kind.removeprefix("fedmllm_"), client_num, settings)
