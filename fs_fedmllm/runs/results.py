"""What results.json says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fs_fedmllm.config import Config, config_digest
from fs_fedmllm.config.metric_paths import named_metrics
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template import Template
from fs_fedmllm.evaluation.form import form_figures
from fs_fedmllm.evaluation.predictions import Prediction, shown_as
from fs_fedmllm.evaluation.question_only import question_only
from fs_fedmllm.evaluation.slices import slice_figures
from fs_fedmllm.evaluation.views import view_figures
from fs_fedmllm.models.image_tokens import image_facts
from fs_fedmllm.privacy.central import CentralPrivacy
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.wire import wire_bytes
from fs_fedmllm.runs.best_round import best_of, never_moved, zero_shot_of
from fs_fedmllm.runs.checkpoint import RunState
from fs_fedmllm.runs.provenance import commit
from fs_fedmllm.runs.virtual_time import buffered_figures
from fs_fedmllm.scenarios.federated_data import FederatedData
from fs_fedmllm.scenarios.fitting import best_metric
from fs_fedmllm.scenarios.judged import evaluated_rows
from fs_fedmllm.version import VERSION


def results_so_far(
    config: Config,
    data: FederatedData,
    state: RunState,
    *,
    seconds: Mapping[str, float],
    shortened: Mapping[str, int],
    digest: str | None = None,
    dp: CentralPrivacy | None = None,
) -> dict[str, Any]:
    """The figures of a run that may still go on.

    Args:
        config: of the run.
        data: its rows.
        state: where it stands.
        seconds: wall time by what it went to.
        shortened: rows whose text was shortened, by split.
        digest: sha256 of the adapter's tensor file, once there is one.
        dp: the run's differential privacy.
    """
    figures, ours = state.figures, config.fedmllm
    evaluations, metric = figures["evaluations"], best_metric(config, data.dataset)
    results: dict[str, Any] = {
        "version": VERSION,
        "commit": commit(),
        "profile": ours.profile,
        "dataset": data.dataset.called,
        "test_rows": _test_rows(config, data.dataset.test),
        "scenario": config.scenario,
        "model": config.model.fedmllm.path,
        "method": config.federate.method,
        "seed": config.seed,
        "rounds": state.round,
        "zero_shot": zero_shot_of(evaluations),
        "evaluations": evaluations,
        "best": best_of(evaluations, metric),
        "best_by": metric,
        **({"best_by_loss": True} if never_moved(evaluations, metric) else {}),
        "bytes_sent": figures["bytes_sent"],
        "adapter_bytes": wire_bytes(state.params),
        "refused": figures["refused"],
        "participants": figures["participants"],
        "shortened_rows": dict(shortened),
        "adapter_sha256": digest,
        "manifest_sha256": data.manifest_sha256,
        "config_sha256": config_digest(config),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    if data.test_sets:
        results["test_sets"] = {name: _of_set(config, data, state, name, results["best"]) for name in data.test_sets}
    if data.manifest.clients:
        results["missing_rates"] = data.manifest.missing_rates
    if data.names:
        results["client_names"] = {str(client): name for client, name in sorted(data.names.items())}
    if data.report:
        results["data"] = data.report
    if ours.clients:
        results["client_settings"] = dict(ours.clients)
    if "stand_ins" in figures:
        results["stand_ins"] = figures["stand_ins"]
    if "async" in figures:
        results["async"] = buffered_figures(figures["async"], config)
    privacy: dict[str, Any] = {}
    if dp:
        privacy["differential_privacy"] = dp.report()
    secure = ours.privacy.secure_aggregation
    if secure.enabled:
        privacy["secure_aggregation"] = {
            "threshold": secure.threshold,
            "against": "a server that follows the protocol and up to threshold - 1 clients that tell it all",
        }
    if privacy:
        results["privacy"] = privacy
    return results


def with_settings(results: dict[str, Any], federation: Federation) -> dict[str, Any]:
    """Figures beside how they came about: how images are shown and, where answers are written, how."""
    mllm, parts = federation.mllm, [(results, federation.evaluator)]
    parts += [(results["test_sets"][name], evaluator) for name, evaluator in federation.test_sets.items()]
    results["images"] = image_facts(mllm.processor, mllm.image_arguments)
    for part, evaluator in parts:
        if (decoding := evaluator.decoding()) is not None:
            part["decoding"] = decoding
    return results


def closing_figures(
    config: Config,
    template: Template,
    predictions: Sequence[Prediction],
    *,
    clients: Mapping[int, Sequence[Sample]],
    train: Sequence[Sample],
    test: Sequence[Sample],
) -> dict[str, Any]:
    """What is added at the end: slices with intervals, and what the questions alone give away.

    Args:
        config: of the run.
        template: the prompts of the test rows.
        predictions: of the last evaluation; empty where there was none.
        clients: training rows of each client, for slices by client; empty makes none.
        train: training rows before any scenario; empty where nobody sees them all.
        test: the test rows.
    """
    found = dict[str, Any]()
    if predictions:
        form = form_figures(shown_as(predictions, "both"))
        if form is not None:
            found["out_of_form"] = form
        found |= {
            "options": list(template.options),
            "positive": template.auc_option,
            **slice_figures(
                predictions, template, clients=clients, seed=config.seed,
                further=named_metrics(config.fedmllm.eval.metrics),
            ),
        }  # fmt: skip
        if views := view_figures(predictions, template, config.seed):
            found["views"] = views
    if template.task == "vqa" and train and not config.fedmllm.eval.limit:
        # What the questions alone give away belongs beside every such result.
        found["question_only"] = question_only(train, test)
    return found


def _of_set(
    config: Config, data: FederatedData, state: RunState, name: str, best: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A further test set's part, with the names that the run's own test rows have."""
    test_set, evaluations = data.test_sets[name], state.figures["test_sets"][name]
    at_best = [entry for entry in evaluations if best and entry["round"] == best["round"]]
    return {
        "dataset": test_set.dataset.called,
        "template": test_set.template.name,
        "test_rows": _test_rows(config, test_set.rows),
        "zero_shot": zero_shot_of(evaluations),
        "evaluations": evaluations,
        "best": at_best[0] if at_best else None,
        "data": dict(test_set.report),
    }


def _test_rows(config: Config, test: Sequence[Sample]) -> dict[str, Any]:
    """How many test rows an evaluation takes, of how many, and what they show."""
    rows = evaluated_rows(config, test)
    presence = Counter(row.presence for row in rows)
    return {"evaluated": len(rows), "all": len(test), "presence": dict(sorted(presence.items()))}
