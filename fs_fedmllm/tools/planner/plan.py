"""The plan of a run: everything that can be told before it starts."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.data.template import Template
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.models.skeleton import Sizes, find_checkpoint, sizes, skeleton
from fs_fedmllm.rounds.replay import recorded_participants
from fs_fedmllm.rounds.schedule import round_clients
from fs_fedmllm.tools.planner.packages import TESTED, check_packages
from fs_fedmllm.tools.planner.probe import probe
from fs_fedmllm.tools.planner.work import Work, count_work, length

#: What a Python process grows by, beside what is listed, between its imports and its first round: interpreter objects
#: of the configuration, rows and token ids, the allocator's slack. Measured on CPU runs.
PROCESS_BYTES = 32 << 20

#: What glibc's heap keeps beside the tensors alive at once, for each byte of theirs: batches of other lengths leave
#: gaps that the next does not fit. Measured on CPU, as the difference to runs without a heap (MALLOC_MMAP_THRESHOLD_).
HEAP_SLACK = 0.9


@dataclass
class Plan:
    """What is known of a run; None or empty where it is not.

    Attributes:
        model: path, presence on this machine, licence, gating, parameters.
        data: presence, rows, clients, images.
        traffic: bytes of an adapter, a round and the run, both directions.
        memory: bytes by part and in total, beside the imports, per process; where the figure comes from.
        work: rounds, turns, steps, evaluations, rows.
        time: seconds by part and in total, from the probe only.
        packages: those that are not as tested.
        problems: what would stop the run, one sentence each.
        notes: what the reader should know of the figures.
    """

    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    traffic: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    work: dict[str, Any] = field(default_factory=dict)
    time: dict[str, Any] = field(default_factory=dict)
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
    plan = Plan()
    plan.packages = [dataclasses.asdict(p) for p in check_packages() if p.verdict != TESTED]
    for package in plan.packages:
        if not package["optional"] and package["verdict"] in ("missing", "outside the bounds"):
            plan.problems.append(
                f"{package['name']} {package['installed'] or 'is missing'}: install {package['name']}"
                f"{package['bounds']} (pip install -c constraints.txt -e .)."
            )
    measured = _model(plan, config, online)
    counted = _data(plan, config)
    work = counted[0] if counted else None
    mllm_sizes = measured[0] if measured else None
    if mllm_sizes is not None:
        assert measured is not None
        _traffic(plan, config, mllm_sizes, measured[1])
    if measured is not None and counted is not None:
        _memory(plan, config, *measured, *counted)
    if with_probe and not plan.problems and work is not None:
        _probe(plan, config, work)
    elif not plan.problems:
        plan.notes.append(
            "Activations are counted from shapes and the process's own growth is a constant; --probe measures the "
            "memory of two steps and tells the time."
        )
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


def _data(plan: Plan, config: Config) -> tuple[Work, Template] | None:
    from fs_fedmllm.data.registry import EMBEDDED
    from fs_fedmllm.scenarios.federated_data import prepare_data

    plan.data = {"type": config.data.type, "root": "embedded" if config.data.type in EMBEDDED else config.data.root}
    try:
        data = prepare_data(config)
    except FedMLLMError as error:
        plan.data["present"] = False
        plan.problems.append(str(error))
        return None
    sizes_of_clients = [len(rows) for rows in data.clients.values()]
    plan.data |= {
        "present": True,
        "train": len(data.dataset.train),
        "val": len(data.dataset.val),
        "test": len(data.dataset.test),
        "clients": len(sizes_of_clients),
        "smallest_client": min(sizes_of_clients),
        "largest_client": max(sizes_of_clients),
    }
    try:
        work = count_work(config, data)
    except FedMLLMError as error:
        plan.problems.append(str(error))
        return None
    if config.fedmllm.privacy.dp.enabled and config.sampled_clients < config.federate.client_num:
        plan.notes.append(
            "Differential privacy draws clients in secret, so the run will draw others than this plan: turns, steps, "
            "rows, images and the heaviest step are those of one draw that it could make."
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
    }
    return work, data.template


def _traffic(plan: Plan, config: Config, counted: Sizes, mllm: Any) -> None:
    import torch

    from fs_fedmllm.models.export import adapter_bytes
    from fs_fedmllm.rounds.payload import messages

    rounds, clients = config.federate.total_round_num, config.turns_per_round
    plan.traffic = {"adapter_bytes": counted.adapter_bytes}
    if not config.method.has_global:
        plan.traffic |= dict.fromkeys(("to_a_client_bytes", "from_a_client_bytes", "round_bytes", "run_bytes"), 0)
        return
    state = {
        name: torch.zeros(parameter.shape)
        for name, parameter in zip(mllm.adapter.names, mllm.adapter.parameters, strict=True)
    }

    def sizes_of(client: int) -> tuple[int, int]:
        down, up = messages(config, state, client)
        return len(adapter_bytes(dict(down))), len(adapter_bytes(dict(up)))

    # Clients differ by their rank only.
    ranks = config.fedmllm.aggregation.ranks
    of_rank = {rank: sizes_of(client) for client, rank in enumerate(ranks, start=1)} or {None: sizes_of(1)}
    of_client = {client: of_rank[ranks[client - 1] if ranks else None] for client in range(1, len(ranks) + 1)}
    down, up = max(of_rank.values())
    plan.traffic |= {
        "to_a_client_bytes": down,
        "from_a_client_bytes": up,
        "round_bytes": clients * (down + up),
        "run_bytes": clients * (down + up) * rounds,
    }
    if ranks:
        recorded = recorded_participants(config) if config.fedmllm.replay else ()
        drawn = [client for index in range(rounds) for client in round_clients(config, index, recorded)]
        plan.traffic["run_bytes"] = sum(sum(of_client[client]) for client in drawn)


def _optimizer_copies(config: Config) -> int:
    """Adapter-sized tensors that the server's optimizer keeps."""
    import torch

    from fs_fedmllm.rounds.payload import server_optimizer

    server, size = server_optimizer(config), 1000
    kept = server.init({"adapter": torch.zeros(size)}) if server is not None else {}
    return sum(tensor.numel() for tensor in kept.values()) // size


def _memory(plan: Plan, config: Config, counted: Sizes, mllm: Any, work: Work, template: Template) -> None:
    from fs_fedmllm.models.encoding import Encoder
    from fs_fedmllm.models.lengths import configured_lengths

    encoder = Encoder(mllm, template, config.fedmllm.prompt, None, configured_lengths(config, mllm))
    trained = encoder.encode([row for batch in work.heaviest for row in batch])
    scored = encoder.encode([max(batch, key=length) for batch in work.longest])
    tokens = max(len(row.prompt) + len(row.completion) for row in trained)
    columns = max(len(row.completion) for row in trained) + 1
    rows, score_rows, score_tokens = work.batch, work.eval_batch, max(len(row.prompt) for row in scored) + 1
    features = 0
    pictured = next((row for row in (*trained, *scored) if row.image is not None), None)
    if config.fedmllm.vision_cache.enabled and mllm.vision_is_frozen and pictured is not None:
        placeholder = getattr(mllm.processor, "image_token_id", None)
        each = pictured.prompt.count(placeholder) * counted.width * counted.dtype_bytes
        features = min(work.images * each, config.fedmllm.vision_cache.memory_mib << 20)
    device = "cuda" if config.use_gpu else "cpu"
    source = "shapes"
    try:
        from fs_fedmllm.tools.planner.activations import step_memory

        if config.fedmllm.train.gradient_checkpointing:
            mllm.inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        training, evaluation, heap = step_memory(
            mllm, train=(rows, tokens, columns), scored=(score_rows, score_tokens), device=device
        )
    except Exception as error:  # a model whose code looks at values cannot be walked through on shapes
        reason = type(error).__name__
        plan.notes.append(f"Activations are a rule of thumb: the model cannot be run on shapes ({reason}).")
        source = "rule of thumb"
        training, evaluation = _rule_of_thumb(mllm, rows, tokens, score_rows, score_tokens)
        heap = training
    copies = 5 + _optimizer_copies(config)  # origin, global, best, the round's sum, the update on its way
    parts = {
        "base": counted.base_bytes,
        "adapter": counted.trained_bytes,
        "gradients_and_activations": training,
        "local_optimizer": 2 * counted.trained_bytes,
        "federation": copies * 4 * counted.adapter,
        "vision_features": features,
        "evaluation": evaluation,
        "process": PROCESS_BYTES,
        "heap_slack": int(HEAP_SLACK * heap) if device == "cpu" else 0,
    }
    steady = sum(parts.values()) - training - evaluation - parts["local_optimizer"]
    peak = steady + max(training + parts["local_optimizer"], evaluation)
    plan.memory = {"parts": parts, "peak_bytes": peak, "source": source, "device": device}
    if config.use_gpu:
        plan.memory["device_peak_bytes"] = peak - PROCESS_BYTES - parts["federation"]
    plan.memory["training_batch"] = {"rows": rows, "tokens": tokens}
    plan.memory["evaluation_batch"] = {"rows": score_rows, "tokens": score_tokens}


def _rule_of_thumb(mllm: Any, rows: int, tokens: int, score_rows: int, score_tokens: int) -> tuple[int, int]:
    """About 34 numbers of the hidden size per token and layer are kept for the backward pass (Korthikanti et al.
    2022, arXiv 2205.05198, section 4.1: 34 s b h bytes in 16 bit, attention left out), and four alive in scoring."""
    text = mllm.inner.config.get_text_config()
    per_token = text.hidden_size * mllm.inner.dtype.itemsize
    training = 17 * rows * tokens * per_token * text.num_hidden_layers
    return training, 8 * score_rows * score_tokens * per_token


def _probe(plan: Plan, config: Config, work: Work) -> None:
    try:
        found = probe(config)
    except FedMLLMError as error:
        plan.problems.append(str(error))
        return
    parts = plan.memory.get("parts", {})
    # What grows with the rows that the probe did not touch: image features and token ids.
    share = max(0, work.images - int(found["probed_images"])) / max(1, work.images)
    rest = int(parts.get("vision_features", 0) * share)
    plan.memory["peak_bytes"] = int(found["peak_bytes"]) + rest
    plan.memory["source"] = "probe"
    if "device_peak_bytes" in found:
        plan.memory["device_peak_bytes"] = int(found["device_peak_bytes"]) + rest
    seconds = {
        "load": found["load_seconds"],
        "images": work.images * found["image_seconds"],
        "training": work.steps * found["step_seconds"] + work.turns * found["turn_seconds"],
        "evaluation": work.scored * found["scored_seconds"],
    }
    plan.time = {"seconds": seconds, "total_seconds": sum(seconds.values()), "step_seconds": found["step_seconds"]}
    plan.notes.append("The time is that of one process; client turns side by side (fedmllm.workers) divide training.")


def _disk(plan: Plan, config: Config) -> None:
    folder = Path(config.outdir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    adapters = 2 + 2 + _optimizer_copies(config)  # last and best; a checkpoint's global and best, and the server's
    need = adapters * plan.traffic.get("adapter_bytes", 0)
    plan.data["output_free_bytes"] = free
    if need > free:
        plan.problems.append(f"The run folder needs about {need} bytes, and {folder} has {free} free (outdir).")
