"""The plan of a run: everything that can be told before it starts."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Dataset
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.files.atomic import existing_part
from fs_fedmllm.models.skeleton import Sizes, find_checkpoint, sizes, skeleton
from fs_fedmllm.rounds.in_flight import planned_rounds
from fs_fedmllm.scenarios.federated_data import FederatedData
from fs_fedmllm.tools.planner.packages import TESTED, check_packages
from fs_fedmllm.tools.planner.precisions import compared
from fs_fedmllm.tools.planner.probe import probe
from fs_fedmllm.tools.planner.traffic import asynchronous, traffic
from fs_fedmllm.tools.planner.work import Work, count_work

#: What a plan without a probe says of memory and time.
NOT_MEASURED = "Memory and time are not known before they are measured: --probe loads the model and takes a few steps."


@dataclass
class Plan:
    """What is known of a run; None or empty where it is not.

    Attributes:
        model: path, presence on this machine, licence, gating, parameters.
        data: presence, rows, clients, images.
        traffic: bytes of an adapter, a round and the run, both directions.
        memory: bytes of one process above its imports, and of the accelerator; from the probe only.
        tokens: tokens of a row, see :func:`fs_fedmllm.models.row_tokens.count_tokens`, how images are shown, and the
            same of each further test set (``test_sets``).
        work: rounds, turns, steps, evaluations, rows.
        time: seconds by part and in total, from the probe only.
        precisions: what the base costs in each, see :func:`fs_fedmllm.tools.planner.precisions.compared`; from the
            probe only.
        packages: those that are not as tested.
        problems: what would stop the run, one sentence each.
        notes: what the reader should know of the figures.
    """

    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    traffic: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, Any] = field(default_factory=dict)
    work: dict[str, Any] = field(default_factory=dict)
    time: dict[str, Any] = field(default_factory=dict)
    precisions: dict[str, Any] = field(default_factory=dict)
    packages: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make_plan(config: Config, *, with_probe: bool = False, online: bool = False) -> Plan:
    """Plan a run; missing data or a missing model leaves the rest of the plan standing.

    Args:
        config: the run's configuration.
        with_probe: also run the two-step probe, which loads the model.
        online: whether the hub may be asked for the model's configuration, licence and gating.
    """
    from fs_fedmllm.scenarios.federated_data import counted

    plan = Plan()
    dataset = None
    try:
        config, dataset = counted(config)
    except FedMLLMError as error:
        plan.data = _where(config) | {"present": False}
        plan.problems.append(str(error))
        return plan
    plan.packages = [dataclasses.asdict(p) for p in check_packages() if p.verdict != TESTED]
    for package in plan.packages:
        if not package["optional"] and package["verdict"] in ("missing", "outside the bounds"):
            plan.problems.append(
                f"{package['name']} {package['installed'] or 'is missing'}: install {package['name']}"
                f"{package['bounds']} (pip install -c constraints.txt -e .)."
            )
    measured = _model(plan, config, online)
    work, data = _data(plan, config, dataset)
    if measured is not None:
        if data is not None:
            _tokens(plan, config, measured[1], data)
        presence = work.presence if work is not None else {}
        buffered = list(planned_rounds(config, presence)) if config.fedmllm.async_.buffer else []
        plan.traffic = traffic(config, *measured, presence, buffered)
        if buffered and plan.work:  # without its rows, nothing is known of the run's work
            plan.work["async"] = asynchronous(config, buffered)
    if with_probe and not plan.problems and work is not None:
        _probe(plan, config, work)
    elif not with_probe:
        plan.notes.append(NOT_MEASURED)
    else:
        plan.notes.append("The probe was left out, because the run would not start.")
    _disk(plan, config)
    return plan


def _model(plan: Plan, config: Config, online: bool) -> tuple[Sizes, Any] | None:
    options = config.model.fedmllm
    try:
        found = find_checkpoint(options, online=online)
        plan.model = {
            "path": options.path,
            "present": found.folder is not None and found.weights > 0,
            "weights_bytes": found.weights,
            "checkpoint_parameters": found.parameters,
            "licence": found.licence,
            "gated": found.gated,
            "dtype": options.dtype,
        }
        if not plan.model["present"]:
            plan.problems.append(
                f"The model {options.path!r} has no safetensors on this machine: name a folder that holds it "
                "(model.fedmllm.path), or download it where a hub is reachable."
            )
            if not online and found.folder is None:
                return None
        mllm = skeleton(options, online=online)
        counted = sizes(mllm, options)
    except FedMLLMError as error:
        plan.problems.append(str(error))
        return None
    plan.model |= {
        "base_parameters": counted.base,
        "base_bytes": counted.base_bytes,
        "adapter_parameters": counted.adapter,
    }
    return counted, mllm


def _where(config: Config) -> dict[str, Any]:
    from fs_fedmllm.data.registry import EMBEDDED

    return {"type": config.data.type, "root": "embedded" if config.data.type in EMBEDDED else config.data.root}


def _data(plan: Plan, config: Config, dataset: Dataset | None) -> tuple[Work | None, FederatedData | None]:
    from fs_fedmllm.scenarios.federated_data import prepare_data

    plan.data = _where(config)
    try:
        data = prepare_data(config, dataset)
    except FedMLLMError as error:
        plan.data["present"] = False
        plan.problems.append(str(error))
        return None, None
    sizes_of_clients = [len(rows) for rows in data.clients.values()]
    plan.data |= {
        "present": True,
        "train": len(data.dataset.train),
        "val": len(data.dataset.val),
        "test": len(data.dataset.test),
        "test_sets": {name: len(test_set.rows) for name, test_set in data.test_sets.items()},
        "clients": len(sizes_of_clients),
        "smallest_client": min(sizes_of_clients),
        "largest_client": max(sizes_of_clients),
    }
    try:
        work = count_work(config, data)
    except FedMLLMError as error:
        plan.problems.append(str(error))
        return None, data
    if config.fedmllm.privacy.dp.enabled and config.sampled_clients < config.federate.client_num:
        plan.notes.append(
            "Differential privacy draws clients in secret, so the run will draw others than this plan: client "
            "updates, steps, rows, images and the heaviest step are those of one draw that it could make."
        )
    plan.data |= {"rows_used": len(work.used), "images_used": work.images}
    plan.work = {
        "rounds": config.federate.total_round_num,
        "clients_per_round": work.clients_per_round,
        "turns": work.turns,
        "steps": work.steps,
        "rows_trained": work.rows,
        "evaluations": work.evaluations,
        "rows_scored": work.scored,
        "rows_scored_test_sets": dict(work.scored_sets),
    }
    return work, data


def _tokens(plan: Plan, config: Config, mllm: Any, data: FederatedData) -> None:
    """What rows cost in tokens, by the real processor."""
    from fs_fedmllm.models.encoding import Encoder
    from fs_fedmllm.models.image_tokens import image_facts
    from fs_fedmllm.models.lengths import configured_lengths
    from fs_fedmllm.models.row_tokens import count_tokens, too_dear
    from fs_fedmllm.scenarios.judged import evaluated_rows
    from fs_fedmllm.scenarios.test_sets import naming_set

    try:
        lengths = configured_lengths(config, mllm)
        encoder = Encoder(mllm, data.template, config.fedmllm.prompt, None, lengths)
        found = count_tokens(encoder, [*data.dealt, *data.dataset.val, *data.dataset.test])
        of_sets = {}
        for name, test_set in data.test_sets.items():
            with naming_set(name):
                asking = Encoder(mllm, test_set.template, config.fedmllm.prompt, None, lengths)
                of_sets[name] = count_tokens(asking, evaluated_rows(config, test_set.rows))
    except FedMLLMError as error:
        plan.problems.append(str(error))
        return
    plan.tokens = {**found, "images": image_facts(mllm.processor, mllm.image_arguments), "test_sets": of_sets}
    if said := too_dear(found):
        plan.problems.append(said)
    plan.problems += [f"fedmllm.test_sets.{name}: {said}" for name, own in of_sets.items() if (said := too_dear(own))]


def _optimizer_copies(config: Config) -> int:
    """Adapter-sized tensors that the server's optimizer keeps."""
    import torch

    from fs_fedmllm.rounds.server import server_optimizer

    server, size = server_optimizer(config), 1000
    kept = server.init({"adapter": torch.zeros(size)}) if server is not None else {}
    return sum(tensor.numel() for tensor in kept.values()) // size


def _probe(plan: Plan, config: Config, work: Work) -> None:
    try:
        found = probe(config)
        plan.precisions = compared(config, plan.tokens["row"]["median"]) if plan.tokens else compared(config)
    except FedMLLMError as error:
        plan.problems.append(str(error))
        return
    plan.memory = {name: int(found[name]) for name in ("peak_bytes", "device_peak_bytes") if name in found}
    seconds = {
        "load": found["load_seconds"],
        "images": work.images * found["image_seconds"],
        "training": work.steps * found["step_seconds"] + work.turns * found["turn_seconds"],
        "evaluation": _evaluation(work, found),
    }
    plan.time = {"seconds": seconds, "total_seconds": sum(seconds.values()), "step_seconds": found["step_seconds"]}
    plan.notes.append(
        "The time is that of one process; parallel client updates (fedmllm.workers) divide that of training."
    )


def _evaluation(work: Work, found: Mapping[str, Any]) -> float:
    """Seconds of all evaluations: rows of a further test set take as long as its own do, with its own prompts."""
    own = work.scored - sum(work.scored_sets.values())
    of_sets = sum(count * found["set_scored_seconds"][name] for name, count in work.scored_sets.items())
    return float(own * found["scored_seconds"] + of_sets)


def _disk(plan: Plan, config: Config) -> None:
    folder = existing_part(Path(config.outdir))
    free = shutil.disk_usage(folder).free
    # Last and best; a checkpoint's global and best, and the server's; those of the last rounds, and their mean.
    recent = config.fedmllm.average_last
    adapters = 2 + 2 + _optimizer_copies(config) + recent + bool(recent)
    adapters += plan.work.get("async", {}).get("versions_kept", 0)
    need = adapters * plan.traffic.get("adapter_bytes", 0)
    plan.data["output_free_bytes"] = free
    if need > free:
        plan.problems.append(f"The run folder needs about {need} bytes, and {folder} has {free} free (outdir).")
