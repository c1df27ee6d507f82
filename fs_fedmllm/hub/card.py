"""The model card of a federated adapter, written from the run: what was trained, on what, how well, how to use it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs_fedmllm.algorithms import METHODS
from fs_fedmllm.config import PrivacyConfig
from fs_fedmllm.hub import phrases

#: Metrics of the test rows that a card shows, in this order; each may have an interval.
SHOWN = ("macro_f1", "auc", "acc", "open_acc", "closed_acc", "loss")
VIEWS = (("", "all that they have"), ("image_", "the image only"), ("text_", "the text only"))


@dataclass(frozen=True)
class Facts:
    """What a card is written from.

    Attributes:
        repo: ``owner/name``, for the loading line.
        config: the configuration as a mapping, without paths.
        results: as in results.json.
        manifest: as in manifest.json; of its rows only counts are shown.
        round: rounds done by the adapter that the card is of.
        entry: the evaluation of that round, or None.
        base: public id of the base.
        base_licence: its licence, or ``unknown``.
        licence: the adapter's, or empty.
        intervals: metric (``acc``, ``image_acc``) -> (low, high) of 95 %, from row decisions.
        mean_of: of how many of the last rounds' adapters it is the mean; 0: of none, it is a round's own.
    """

    repo: str
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    manifest: Mapping[str, Any]
    round: int
    entry: Mapping[str, Any] | None
    base: str
    base_licence: str
    licence: str
    intervals: Mapping[str, tuple[float, float]]
    mean_of: int = 0


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, JASA 22, 1927), from counts alone.

    Args:
        share: in [0, 1].
        count: rows.
    """
    from scipy.stats import binomtest

    interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def intervals_from_rows(predictions: Path) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of accuracy and macro F1, by what the rows were shown with, from ``predictions.jsonl``.

    Args:
        predictions: the run folder's file.

    Returns:
        Metric name -> (low, high); empty where there is no such file.
    """
    from fs_fedmllm.evaluation.predictions import read_predictions
    from fs_fedmllm.evaluation.slices import intervals

    if not predictions.is_file():
        return {}
    rows = [row for row in read_predictions(predictions) if row.client is None]  # Local has no one adapter
    found = intervals(rows, ("acc", "macro_f1"), None, seed=0)
    return {name.removeprefix("test_"): (ends["low"], ends["high"]) for name, ends in found.items()}


def _metrics(facts: Facts) -> list[tuple[str, str, float, tuple[float, float] | None, str]]:
    """(view, metric, value, interval, how the interval was made) of the test rows."""
    lines = []
    entry = facts.entry or {}
    for prefix, view in VIEWS:
        for name in SHOWN:
            value = entry.get(f"test_{prefix}{name}")
            if value is None:
                continue
            interval, source = facts.intervals.get(prefix + name), "bootstrap"
            total = entry.get(f"test_{prefix}total")
            if interval is None and name == "acc" and total:
                interval, source = wilson(float(value), int(total)), "Wilson"
            lines.append((view, name, float(value), interval, source if interval else ""))
    return lines


@dataclass(frozen=True)
class _Tested:
    """What a card says of test rows: the run's own, or those of a further set.

    Attributes:
        name: of the set; empty for the run's own rows.
        dataset: as a sentence may name it.
        type: the value of ``data.type``.
        facts: with the entry and the intervals of these rows.
        counted: ``test_rows`` of these rows.
    """

    name: str
    dataset: str
    type: str
    facts: Facts
    counted: Mapping[str, Any]

    def table(self) -> list[str]:
        """The figures, and of how many rows they are; empty without an evaluation of the card's round."""
        metrics = _metrics(self.facts)
        lines = ["| shown | rows | metric | value | 95 % interval |", "| --- | --- | --- | --- | --- |"]
        prefixes, entry = {view: prefix for prefix, view in VIEWS}, self.facts.entry or {}
        for view, name, value, interval, source in metrics:
            told = f"{interval[0]:.4f} to {interval[1]:.4f} ({source})" if interval else "not available"
            rows = entry.get(f"test_{prefixes[view]}total")
            lines.append(f"| {view} | {'' if rows is None else int(rows)} | {name} | {value:.4f} | {told} |")
        of = phrases.test_rows({"test_rows": self.counted}, entry, self.dataset)
        count = self.facts.mean_of
        made = f"Mean of the adapters of the last {count} rounds, after" if count else "After"
        after = f"{made} round {self.facts.round}, on {of}."
        return [*([f"Test set {self.name}:", ""] if self.name else []), *lines, "", after] if metrics else []

    def results(self) -> list[Any]:
        """The figures in the hub's form."""
        from huggingface_hub import EvalResult

        return [
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=self.type,
                dataset_name=f"{self.dataset}, {view}",
                # results of one configuration are merged under the first one's name
                dataset_config=f"{self.name}, {view}" if self.name else view,
                metric_type=name,
                metric_value=round(value, 6),
            )
            for view, name, value, _, _ in _metrics(self.facts)
        ]


def _tested(facts: Facts) -> list[_Tested]:
    """The run's own test rows, and the further test sets that have an evaluation of the card's round."""
    results, config = facts.results, facts.config
    own = phrases.dataset(str(results.get("dataset", "")))
    found = [_Tested("", own, str(config["data"]["type"]), facts, results.get("test_rows") or {})]
    for name, figures in (results.get("test_sets") or {}).items():
        evaluations = [] if facts.mean_of else figures.get("evaluations") or []
        entry = next((e for e in evaluations if e["round"] == facts.round), None)
        called = phrases.dataset(str(figures.get("dataset", "")))
        kind = str(config["fedmllm"]["test_sets"][name]["type"])
        of_set = dataclasses.replace(facts, entry=entry, intervals={})
        found.append(_Tested(name, called, kind, of_set, figures.get("test_rows") or {}))
    return found


def _privacy(config: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """What is configured, and what the run accounted for; told as it stands."""
    if config["federate"]["method"] == "global":
        return ["None: it was trained in one place, where every row was seen."]
    section = _changed(config.get("fedmllm", {}).get("privacy") or {}, dataclasses.asdict(PrivacyConfig()))
    told = results.get("privacy")
    if not section and not told:
        return ["No differential privacy and no secure aggregation: the server saw every client's update."]
    lines = []
    for title, values in (("Configured", section), ("Accounted for", told)):
        if isinstance(values, Mapping) and values:
            lines += [f"{title}:", "", *[f"- {name}: {value}" for name, value in sorted(values.items())], ""]
    return lines


def _changed(section: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings that are not at their defaults, by dotted name."""
    found: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, Mapping):
            found |= _changed(value, defaults.get(name) or {}, f"{prefix}{name}.")
        elif value != defaults.get(name):
            found[prefix + name] = value
    return found


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
    """The card as markdown with the hub's metadata on top.

    Args:
        facts: what to write.
    """
    from huggingface_hub import ModelCardData

    results, config = facts.results, facts.config
    federate, ours = config["federate"], config["fedmllm"]
    tested = _tested(facts)
    dataset = tested[0].dataset
    model = config["model"]["fedmllm"]
    lacking = phrases.lacks_modalities(facts.manifest)
    data = ModelCardData(
        base_model=facts.base,
        library_name="peft",
        pipeline_tag="image-text-to-text",
        license=facts.licence or None,
        tags=phrases.tags(model, lacking),
        model_name=facts.repo.split("/")[-1],
        eval_results=[result for rows in tested for result in rows.results()] or None,
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
        (
            "Results",
            [line for rows in tested if (table := rows.table()) for line in (*table, "")][:-1]
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
                + ("else." if len(tested) == 1 else "but that and the further test sets above."),
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


def _per_round(federate: Mapping[str, Any]) -> int:
    rate, number = federate["sample_client_rate"], federate["sample_client_num"]
    if not METHODS[federate["method"]].federated:
        return int(federate["client_num"])
    if 0 < rate <= 1:
        return max(1, int(rate * federate["client_num"]))
    return int(number if number > 0 else federate["client_num"])
