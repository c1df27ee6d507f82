"""Apply a scenario by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fs_fedmllm.config.open_names import SCENARIOS, misplaced, own_names, scenario_parameters
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios.aligned import aligned
from fs_fedmllm.scenarios.cross import cross
from fs_fedmllm.scenarios.given import count_clients, given
from fs_fedmllm.scenarios.hybrid import hybrid
from fs_fedmllm.scenarios.manifest import Split, describe, materialise
from fs_fedmllm.scenarios.missing import missing
from fs_fedmllm.scenarios.rows import Assignment, Rows
from fs_fedmllm.scenarios.switches import ScenarioParams, profile_params


@dataclass(frozen=True)
class Scenario:
    """A way to deal rows, for another package's entry point in ``fs_fedmllm.scenarios``.

    Attributes:
        assign: ``(rows, client_num, params, seed)`` -> who gets which rows, and what each of them still shows.
        parameters: frozen dataclass of its own parameters, with defaults; they stand in ``data.splitter_args`` and
            come as ``params.own``.
        count: ``(rows, params)`` -> how many clients the rows make, where that is not for ``federate.client_num`` to
            say; None elsewhere.
    """

    assign: Callable[[Rows, int, ScenarioParams, int], Assignment]
    parameters: type | None = None
    count: Callable[[Rows, ScenarioParams], int] | None = None


_OURS = {
    "aligned": Scenario(aligned),
    "missing": Scenario(missing),
    "cross": Scenario(cross),
    "hybrid": Scenario(hybrid),
    "given": Scenario(given, count=count_clients),
}


def params_of(name: str, settings: Mapping[str, Any], *, profile: str = "fixed", dataset: str = "") -> ScenarioParams:
    """A scenario's parameters: the profile's, with settings on top.

    Args:
        name: of the scenario.
        settings: by name, the scenario's own among them.
        profile: ``fixed``, ``paper`` or ``upstream``.
        dataset: ``data.type``.

    Raises:
        ScenarioError: the scenario has no such setting.
    """
    cls, rest = scenario_parameters(name), dict(settings)
    if fault := misplaced(name, rest):
        raise ScenarioError(f"data.splitter_args: {fault}")
    own = {key: rest.pop(key) for key in own_names(name) if key in rest}
    made = profile_params(profile, dataset=dataset, **rest)
    return replace(made, own=cls(**own)) if cls is not None else made


def apply_scenario(
    name: str,
    samples: Sequence[Sample],
    client_num: int,
    params: ScenarioParams | None = None,
    seed: int = 0,
    *,
    dataset: str = "",
    fingerprint: str = "",
) -> Split:
    """Distribute training rows over clients and take modalities away.

    Validation and test rows keep every modality in every scenario: do not pass them.

    Args:
        name: ``aligned``, ``missing``, ``cross``, ``hybrid``, ``given``, or one that another package added.
        samples: training rows in file order.
        client_num: number of clients; their ids are 1..client_num. 0 where the rows say it (``given``).
        params: levels and switches; None is the profile ``fixed``.
        seed: the run's seed; ``params.seed`` and ``split_seed: upstream`` go before it.
        dataset: name of the data set, for the manifest.
        fingerprint: of its source files, for the manifest.

    Raises:
        ScenarioError: the scenario cannot be applied to these rows and clients.
    """
    scenario = _OURS.get(name) or SCENARIOS.get(name)
    if scenario is None:
        raise ScenarioError(f"scenario {name!r} is unknown; use one of {', '.join(SCENARIOS)}")
    least = 0 if scenario.count is not None else 1
    if not isinstance(client_num, int) or isinstance(client_num, bool) or client_num < least:
        raise ScenarioError(f"federate.client_num: {client_num!r} must be a whole number of {least} or more")
    if not samples:
        raise ScenarioError(
            f"the data set {dataset!r} has no training rows to distribute; look at how its rows say their split (data "
            "check counts them), or use another data set (this one may be for testing only)"
        )
    _unique(samples)
    params = params or ScenarioParams()
    rows = Rows(samples)
    if scenario.count is not None and not client_num:
        client_num = scenario.count(rows, params)
    assignment = scenario.assign(rows, client_num, params, seed)
    manifest = describe(rows, assignment, name, params, dataset=dataset, fingerprint=fingerprint)
    return Split(materialise(rows, assignment), manifest)


def clients_of(name: str, samples: Sequence[Sample], params: ScenarioParams) -> int:
    """How many clients training rows make; 0 where that is for ``federate.client_num`` to say.

    Raises:
        ScenarioError: the rows do not say it.
    """
    scenario = _OURS.get(name) or SCENARIOS.get(name)
    return scenario.count(Rows(samples), params) if scenario is not None and scenario.count is not None else 0


def _unique(samples: Sequence[Sample]) -> None:
    """The manifest names rows by id."""
    if len({s.id for s in samples}) == len(samples):
        return
    seen: dict[str, Sample] = {}
    for sample in samples:
        if sample.id in seen:
            raise ScenarioError(
                f"row id {sample.id!r} occurs twice ({seen[sample.id].source or 'no source'} and "
                f"{sample.source or 'no source'}); ids must be unique in the training rows"
            )
        seen[sample.id] = sample
