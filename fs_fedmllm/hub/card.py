"""The model card of a federated adapter, written from the run: what was trained, on what, how well, how to use it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fs_fedmllm.algorithms import METHODS
from fs_fedmllm.config import PrivacyConfig
from fs_fedmllm.config.host_reading import leaves
from fs_fedmllm.hub import phrases, settings
from fs_fedmllm.hub.facts import Facts
from fs_fedmllm.hub.tested import tested


def _privacy(config: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """What is configured, and what the run accounted for; told as it stands."""
    if config["federate"]["method"] == "global":
        return ["None: it was trained in one place, where every row was seen."]
    usual = dict(leaves(dataclasses.asdict(PrivacyConfig())))
    given = leaves(config.get("fedmllm", {}).get("privacy") or {})
    section = {name: value for name, value in given if value != usual.get(name)}
    told = results.get("privacy")
    if not section and not told:
        return ["No differential privacy and no secure aggregation: the server saw every client's update."]
    lines = []
    for title, values in (("Configured", section), ("Accounted for", told)):
        if isinstance(values, Mapping) and values:
            lines += [f"{title}:", "", *[f"- {name}: {value}" for name, value in sorted(values.items())], ""]
    return lines


def _clients(manifest: Mapping[str, Any]) -> list[str]:
    clients = manifest.get("clients", {})
    if not isinstance(clients, Mapping) or not clients:
        return []
    lines = ["| client | rows | without image | without text |", "| --- | --- | --- | --- |"]
    for client, record in sorted(clients.items(), key=lambda item: int(item[0])):
        missing = record.get("missing", {})
        rows = record.get("size", len(record.get("rows", record.get("ids", []))))
        lines.append(f"| {client} | {rows} | {missing.get('image', 0):.0%} | {missing.get('text', 0):.0%} |")
    return lines


def _load(facts: Facts) -> str:
    if facts.base == "fs-fedmllm/tiny":
        base = "from fs_fedmllm.models.loader import TINY  # the embedded model of fs-fedmllm"
        name = "TINY"
    else:
        base, name = "", f'"{facts.base}"'
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        *([base] if base else []),
        "",
        f"processor = AutoProcessor.from_pretrained({name})",
        f'model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained({name}), "{facts.repo}")',
    ]
    return "\n".join(lines)


def card(facts: Facts) -> str:
    """The card as markdown with the hub's metadata on top."""
    from huggingface_hub import ModelCardData

    results, config = facts.results, facts.config
    federate, ours = config["federate"], config["fedmllm"]
    judged = tested(facts)
    dataset = judged[0].dataset
    model = config["model"]["fedmllm"]
    lacking = phrases.lacks_modalities(facts.manifest)
    data = ModelCardData(
        base_model=facts.base,
        library_name="peft",
        pipeline_tag="image-text-to-text",
        license=facts.licence or None,
        tags=phrases.tags(model, lacking),
        model_name=facts.repo.split("/")[-1],
        eval_results=[result for rows in judged for result in rows.results()] or None,
    )
    args = (config["data"].get("splitter_args") or [{}])[0]
    scenario = f"{results.get('scenario')} ({', '.join(f'{k} {v}' for k, v in args.items())})"
    regularizer = ours["regularizer"]["type"]
    strategies = [
        f"prompt: {ours['prompt']}",
        f"regulariser: {regularizer}"
        + (f" (gamma_max {ours['regularizer']['gamma_max']})" if regularizer == "adaptive" else ""),
        f"profile: {ours['profile']}",
    ]
    refused = len(results.get("refused") or [])
    licence = facts.licence or "not stated by the publisher; the base model's terms apply to what is made with it"
    sections: list[tuple[str, Sequence[str]]] = [
        (
            "How it was trained",
            [
                f"- scenario: {scenario}; manifest sha256 `{results.get('manifest_sha256')}`",
                f"- clients: {federate['client_num']}, {_per_round(federate)} a round, {facts.round} rounds",
                f"- server method: {federate['method']}; local optimizer {config['train']['optimizer']['type']}, "
                f"learning rate {config['train']['optimizer']['lr']}, "
                f"{config['train']['local_update_steps']} {config['train']['batch_or_epoch']} a client update",
                f"- strategies: {'; '.join(strategies)}",
                f"- adapter: {phrases.adapter(model)}; {results.get('adapter_bytes')} bytes",
                f"- sent: {results.get('bytes_sent')} bytes in all, both directions; {refused} updates refused",
                f"- seed {results.get('seed')}, configuration sha256 `{results.get('config_sha256')}`",
            ],
        ),
        ("Clients", _clients(facts.manifest)),
        ("How it is asked", _asked(facts)),
        (
            "Results",
            [line for rows in judged if (table := rows.table()) for line in (*table, "")][:-1]
            or ["No evaluation of this round was made."],
        ),
        ("Privacy", _privacy(config, results)),
        (
            "Base model and licence",
            [f"Base: `{facts.base}`, licence {facts.base_licence}. Adapter: {licence}."],
        ),
        ("How to load it", ["```python", _load(facts), "```"]),
        (
            "Intended use and limits",
            [
                f"Research on federated fine-tuning{' with missing modalities' if lacking else ''}, for questions "
                f"like those of {dataset}, asked with the template in `fedmllm.json`. It was evaluated on nothing "
                + ("else." if len(judged) == 1 else "but that and the further test sets above."),
                "",
                "Do not use it to decide about people. Expect less where a row lacks a modality, and where few "
                "clients held what it shows. A client's rows may leave traces in an adapter; see "
                "Privacy above for what was done about that.",
            ],
        ),
    ]
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections if lines)
    title = facts.repo.split("/")[-1]
    how = "by federated learning" + (" on clients that lack modalities" if lacking else "")
    if federate["method"] == "global":
        how = "in one place on the rows of all clients, as the centralised baseline"
    intro = (
        f"{phrases.an_adapter(str(model['peft']))} for `{facts.base}`, trained {how}, with "
        f"fs-fedmllm {results.get('version')} (FedMLLM, arXiv 2411.14717)."
    )
    return f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{intro}\n\n{body}\n"


def _asked(facts: Facts) -> list[str]:
    """How images are shown, and how answers come about; of a further test set, where its answers are written."""
    lines = settings.images(facts.config["model"]["fedmllm"], facts.results.get("images"))
    lines += settings.answers(facts.results.get("decoding"), facts.task, lettered=facts.lettered)
    for name, figures in (facts.results.get("test_sets") or {}).items():
        told = settings.answers(figures.get("decoding"), "")
        lines += [line.replace("- answers:", f"- answers on test set {name}:", 1) for line in told]
    return lines


def _per_round(federate: Mapping[str, Any]) -> int:
    rate, number = federate["sample_client_rate"], federate["sample_client_num"]
    if not METHODS[federate["method"]].federated:
        return int(federate["client_num"])
    if 0 < rate <= 1:
        return max(1, int(rate * federate["client_num"]))
    return int(number if number > 0 else federate["client_num"])
