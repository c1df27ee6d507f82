"""The scenarios as FederatedScope splitters: ``data.splitter: fedmllm_cross`` and its like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fs_fedmllm.config.open_names import GIVEN
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ScenarioError

#: FederatedScope passes a prior, even None, for validation and test rows, and none at all for training rows.
_TRAINING = object()


class ScenarioSplitter:
    """Callable as FederatedScope calls its splitters, training rows first.

    Args:
        scenario: name of the scenario.
        client_num: clients; 0 where the rows say it (``given``).
        settings: parameters and switches of the scenario; ``seed`` among them.
    """

    def __init__(self, scenario: str, client_num: int, settings: dict[str, Any]):
        self.scenario = scenario
        self.client_num = client_num
        self.settings = settings
        self._names: Mapping[int, str] = {}

    def __call__(self, dataset: Sequence[Sample], prior: Any = _TRAINING, **kwargs: Any) -> list[list[Sample]]:
        """Rows of each client.

        Validation and test rows are dealt the same way but keep every modality.
        """
        from fs_fedmllm.scenarios import apply_scenario, params_of

        if self.scenario == GIVEN and prior is not _TRAINING:
            return self._by_name(dataset)
        name = self.scenario if prior is _TRAINING else "aligned"
        split = apply_scenario(name, dataset, self.client_num, params_of(self.scenario, self.settings))
        self._names = split.manifest.names
        return [list(split.clients[client]) for client in sorted(split.clients)]

    def _by_name(self, dataset: Sequence[Sample]) -> list[list[Sample]]:
        """Rows of the clients that the training rows named; a client may have none."""
        place = {name: index for index, (_, name) in enumerate(sorted(self._names.items()))}
        parts: list[list[Sample]] = [[] for _ in place]
        for row in dataset:
            name = row.keys.get(str(self.settings.get("client")), "")
            if name not in place:
                raise ScenarioError(
                    f"{row.source or f'row {row.id}'}: {self.settings.get('client')!r} is {name!r}, and no training "
                    "row has it; correct the row, or remove it"
                )
            parts[place[name]].append(row)
        return parts


def build_splitter(kind: str, client_num: int, **settings: Any) -> ScenarioSplitter | None:
    """FederatedScope's splitter function: None for names that are not ours."""
    if not kind.startswith("fedmllm_"):
        return None
    return ScenarioSplitter(kind.removeprefix("fedmllm_"), client_num, settings)
