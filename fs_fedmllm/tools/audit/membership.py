"""A membership test of a finished run: its training rows against rows of the same data set that it never saw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fs_fedmllm import config as schema
from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ConfigError, DataError
from fs_fedmllm.evaluation.recorded import read_results
from fs_fedmllm.hub.fetch import adapter_of_run
from fs_fedmllm.models.export import read_adapter
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.scenarios.federated_data import FederatedData, prepare_data
from fs_fedmllm.tools.audit.attack import Attack, attack

#: What every report ends with.
NO_PROOF = (
    "This is one attack, and a stronger one may find what it did not: it can show a leak, and is never a proof that "
    "there is none. Only epsilon is a promise."
)


@dataclass(frozen=True)
class Audit:
    """What was found of a run.

    Attributes:
        run: its folder.
        adapter: ``last`` or ``best``.
        rounds: that were trained.
        calibrated: the attack by how far a row's loss fell below the base model's.
        plain: the attack by the loss alone.
        losses: mean loss per token of members and held-out rows, under the base model and under the adapter.
        epsilon: of the run, with a client's whole data set as its unit; None without differential privacy.
        delta: of that epsilon.
    """

    run: str
    adapter: str
    rounds: int
    calibrated: Attack
    plain: Attack
    losses: Mapping[str, float]
    epsilon: float | None
    delta: float | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "says": NO_PROOF}


def audit(folder: Path, which: str = "last", limit: int = 0, resamples: int = 2000) -> Audit:
    """Test a run's adapter.

    Args:
        folder: the run folder; the data that its configuration names is read again.
        which: ``last`` or ``best``.
        limit: most rows of each kind; 0 takes all.
        resamples: of the intervals.

    Raises:
        ConfigError: this is no finished run, or one of several machines, or nobody trained.
        DataError: the data are no longer those of the run, or there are too few rows.
        ModelError: the adapter cannot be read.
    """
    config, results = _opened(folder)
    data = prepare_data(config)
    if results.get("manifest_sha256") != data.manifest_sha256:
        raise DataError(
            f"The rows in {config.data.root} (data.root) are not partitioned as those of the run in {folder} were, so "
            "it is not known which of them it was trained on. Restore the data."
        )
    place = adapter_of_run(folder, which)
    if place is None:
        raise ConfigError(f"{folder} holds no adapter.")
    rng = Random(f"audit {config.seed}")
    members = _some(trained_rows(config, data, results), limit, rng)
    held_out = _some(alike([*data.dataset.val, *data.dataset.test], members, rng), limit, rng)
    federation = Federation.build(config, data)
    base = federation.initial_state()
    losses = {}
    for name, state in (("base", base), ("adapter", read_adapter(place, base))):
        federation.mllm.adapter.load(state)
        losses[name] = {
            "members": federation.evaluator.row_losses(members),
            "held_out": federation.evaluator.row_losses(held_out),
        }
    private = (results.get("privacy") or {}).get("differential_privacy") or {}
    epsilon, delta = private.get("epsilon"), private.get("delta")
    fell = {kind: losses["base"][kind] - losses["adapter"][kind] for kind in ("members", "held_out")}
    draws = np.random.default_rng(config.seed)
    return Audit(
        run=str(folder),
        adapter=which,
        rounds=int(results.get("rounds", 0)),
        calibrated=attack(fell["members"], fell["held_out"], draws, resamples=resamples),
        plain=attack(-losses["adapter"]["members"], -losses["adapter"]["held_out"], draws, resamples=resamples),
        losses={f"{name}_{kind}": float(own.mean()) for name, both in losses.items() for kind, own in both.items()},
        epsilon=epsilon,
        delta=delta,
    )


def _opened(folder: Path) -> tuple[Config, Mapping[str, Any]]:
    """Configuration and results of a run of one machine."""
    for name in ("resolved_config.yaml", "results.json"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} has no {name}: name the folder of a run that has come to its end.")
    config = schema.load(folder / "resolved_config.yaml", host=True)
    if config.federate.mode == "distributed":
        raise ConfigError(
            f"{folder} is a site's folder of a distributed run, and no site has all training rows. Audit a run of the "
            "same configuration on one machine."
        )
    return config, read_results(folder / "results.json")


def trained_rows(config: Config, data: FederatedData, results: Mapping[str, Any]) -> list[Sample]:
    """Rows of the clients whose updates the run used, as they saw them; the others' are nobody's members.

    Raises:
        ConfigError: the results name no participants.
    """
    rounds = results.get("participants")
    if not config.method.federated:  # centralized training, or every client alone
        return data.dealt
    if not isinstance(rounds, list) or not all(isinstance(each, list) for each in rounds):
        raise ConfigError("The run's results do not say who took part in its rounds.")
    took_part = sorted({client for each in rounds for client in each if client in data.clients})
    if not took_part:
        raise ConfigError("No client's update was used in this run, so there is nothing that it could have learned.")
    return [row for client in took_part for row in data.clients[client]]


def alike(held_out: Sequence[Sample], members: Sequence[Sample], rng: Random) -> list[Sample]:
    """Held-out rows that lack modalities as often as members do: or the attack would find out what is missing."""
    counts = Counter(row.presence for row in members)
    shown = []
    for row in held_out:
        fitting = {name: counts[name] for name in sorted(counts) if row.presence == "both" or name == row.presence}
        if not fitting:
            continue
        chosen = rng.choices(list(fitting), list(fitting.values()))[0]
        shown.append(row.showing(image=chosen in ("both", "image"), text=chosen in ("both", "text")))
    return shown


def _some(rows: Sequence[Sample], limit: int, rng: Random) -> list[Sample]:
    return list(rows) if not limit or len(rows) <= limit else rng.sample(list(rows), limit)


def told(found: Audit) -> str:
    """The report for people."""
    lines = [
        f"{found.run}: the {found.adapter} adapter after {found.rounds} rounds",
        f"{found.calibrated.members} rows that were trained on, {found.calibrated.held_out} that were not",
        "",
    ]
    for title, one in (("loss against the base model's", found.calibrated), ("loss alone", found.plain)):
        lines.append(f"{title}: AUC {one.auc.value:.3f} [{one.auc.low:.3f}, {one.auc.high:.3f}], 0.5 is guessing")
        for each in one.found:
            lines.append(
                f"  at {each.false_alarms:.2%} false alarms, {each.share:.3f} of the members are found "
                f"[{each.low:.3f}, {each.high:.3f}]"
            )
    names = ("base_members", "base_held_out", "adapter_members", "adapter_held_out")
    base_in, base_out, in_, out = (found.losses[name] for name in names)
    lines.append("")
    lines.append(f"mean loss: members {base_in:.4f} -> {in_:.4f}, held out {base_out:.4f} -> {out:.4f}")
    if found.epsilon is None:
        lines.append("no differential privacy: nothing is promised")
    else:
        size = f"{found.epsilon:.4g}" if math.isfinite(found.epsilon) else "infinite"
        lines.append(f"differential privacy of clients: epsilon {size} at delta {found.delta:.3g}")
    return "\n".join([*lines, NO_PROOF])
