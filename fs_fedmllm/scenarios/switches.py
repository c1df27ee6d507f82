"""Parameters of a scenario and the switches in which the profiles differ.

``fixed`` is the default, ``paper`` follows the paper's text, ``upstream`` the authors' code with its
bugs (docs: the table of profiles).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.keys import is_number
from fs_fedmllm.scenarios.draws import UPSTREAM_SEED, UPSTREAM_UNPAIRED_SEED

#: Every switch with its allowed values, the one of ``fixed`` first.
SWITCHES: dict[str, tuple[str, ...]] = {
    "split_seed": ("run", "upstream"),
    "partition_draw": ("seeded", "upstream"),
    "rows_within_label": ("shuffled", "file_order"),
    "remainder": ("largest", "last_client"),
    "minimum": ("client", "label", "first_label"),
    "missing_both": ("keep_one", "keep_empty"),
    "missing_draw": ("per_client", "single_stream"),
    "cross_draw": ("seeded", "upstream"),
    "presence_draw": ("seeded", "upstream"),
    "hybrid_both": ("client_coin", "sample_coin"),
}


@dataclass(frozen=True)
class ScenarioParams:
    """What a scenario is asked to do.

    > Levels

    Attributes:
        alpha: concentration of the Dirichlet partition, > 0; smaller is more skewed (paper: 5, 1, 0.5).
        by: what proportions are drawn for: ``label``, ``kind``, ``modality`` or a group key of the rows.
        keep_together: group key whose rows always go to one client (a tweet, a patient), several keys (rows that
            share a value of any of them are one group, and so are those that others connect), or None.
        beta: missing: rate at which each modality is drawn away, 0..1 (paper: 0.3, 0.4, 0.5).
        image_clients: cross: clients that keep only images; None is all but ``text_clients``.
        text_clients: cross: clients that keep only text; None is all but ``image_clients``.
        p: hybrid: probability that a client holds a modality, 0..1 (paper: 0.8, 0.7, 0.6).
        seed: overrides the split's seed, whatever ``split_seed`` says; >= 0.
        file_order: ``single_stream``: client ids (from 1) in the order in which the authors' script met
            their files (``os.listdir``, so it differs between machines); empty is ascending.
        client: given: key of the rows whose every value is a client (a hospital, a device); None elsewhere.
        scenario: given: the scenario whose missingness comes on top; None for none.

        own: parameters of another package's scenario, in the dataclass that it declares; None for ours.

    > Switches

    Attributes:
        split_seed: ``run`` is the run's seed; ``upstream`` 42, and 41 for unpaired (medical) sets.
        partition_draw: generators of the proportions and of the order of rows in a client.
        rows_within_label: ``shuffled``, or ``file_order``: clients get contiguous slices of the file.
        remainder: who gets the rows that rounding down leaves: largest remainder, or the last client.
        minimum: who must have a row: each client; or each client of every ``label``, or of the ``first_label``.
        missing_both: when both modalities are drawn away: keep one of them at random, or none.
        missing_draw: a generator per client, or one stream over all, text before image.
        cross_draw: how the image clients are drawn; ``upstream`` is ``random.sample(range(K), k)``.
        presence_draw: how hybrid draws who holds what; ``upstream`` is one ``binomial(1, p, (K, 2))``.
        hybrid_both: when a client would hold nothing: it keeps one modality by a fair coin, or each row does.
    """

    alpha: float = 0.5
    by: str = "label"
    keep_together: str | tuple[str, ...] | None = None
    beta: float = 0.5
    image_clients: int | None = None
    text_clients: int | None = None
    p: float = 0.8
    seed: int | None = None
    file_order: tuple[int, ...] = ()
    client: str | None = None
    scenario: str | None = None
    split_seed: str = "run"
    partition_draw: str = "seeded"
    rows_within_label: str = "shuffled"
    remainder: str = "largest"
    minimum: str = "client"
    missing_both: str = "keep_one"
    missing_draw: str = "per_client"
    cross_draw: str = "seeded"
    presence_draw: str = "seeded"
    hybrid_both: str = "client_coin"
    own: Any = None

    def __post_init__(self) -> None:
        for switch, allowed in SWITCHES.items():
            if getattr(self, switch) not in allowed:
                raise ScenarioError(
                    f"scenario setting {switch}: {getattr(self, switch)!r} is unknown; use one of {', '.join(allowed)}"
                )
        if not is_number(self.alpha) or not 0 < self.alpha < math.inf:
            raise ScenarioError(
                f"scenario setting alpha: {self.alpha!r} must be a number greater than 0; the paper uses 5, 1 and 0.5"
            )
        for rate in ("beta", "p"):
            value = getattr(self, rate)
            if not is_number(value) or not 0 <= value <= 1:
                raise ScenarioError(
                    f"scenario setting {rate}: {value!r} must be a share between 0 and 1 (30 % is written 0.3)"
                )
        for count in ("image_clients", "text_clients", "seed"):
            value = getattr(self, count)
            if value is not None and (type(value) is not int or value < 0):
                raise ScenarioError(f"scenario setting {count}: {value!r} must be a whole number of 0 or more")
        object.__setattr__(self, "keep_together", _group_keys(self.keep_together))
        if self.keep_together is not None and self.minimum != "client":
            raise ScenarioError(
                f"scenario setting keep_together: {self.keep_together!r} cannot be combined with minimum: "
                f"{self.minimum!r}, which may tear a group apart; set minimum: client, or remove keep_together"
            )
        object.__setattr__(self, "file_order", tuple(self.file_order))

    @property
    def group_keys(self) -> tuple[str, ...]:
        """The keys of ``keep_together``."""
        kept = self.keep_together
        return () if kept is None else (kept,) if isinstance(kept, str) else kept

    def seed_of(self, run_seed: int, *, unpaired: bool = False) -> int:
        """The seed of the split: ``seed`` if set, else what ``split_seed`` says."""
        if self.seed is not None:
            return self.seed
        if self.split_seed == "upstream":
            return UPSTREAM_UNPAIRED_SEED if unpaired else UPSTREAM_SEED
        if not isinstance(run_seed, int) or run_seed < 0:
            raise ScenarioError(f"seed: {run_seed!r} must be a whole number of 0 or more")
        return run_seed

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        for name in ("own", "client", "scenario"):  # manifests of older versions stay what they are
            if getattr(self, name) is None:
                del found[name]
        return found


def _group_keys(value: Any) -> str | tuple[str, ...] | None:
    """``keep_together`` as it is kept: one key as itself, none as None."""
    if value is None or isinstance(value, str):
        return value or None
    if not isinstance(value, list | tuple) or not all(isinstance(key, str) and key for key in value):
        raise ScenarioError(
            f"scenario setting keep_together: {value!r} must be the name of a key of the rows, or a list of them"
        )
    keys = tuple(dict.fromkeys(value))
    return keys if len(keys) > 1 else next(iter(keys), None)


_FIXED = ScenarioParams()

PROFILES: dict[str, ScenarioParams] = {
    "fixed": _FIXED,
    "paper": replace(_FIXED, missing_both="keep_empty"),
    "upstream": replace(
        _FIXED,
        split_seed="upstream",
        partition_draw="upstream",
        rows_within_label="file_order",
        remainder="last_client",
        minimum="label",
        missing_both="keep_empty",
        missing_draw="single_stream",
        cross_draw="upstream",
        presence_draw="upstream",
        hybrid_both="sample_coin",
    ),
}

#: Data sets whose authors' script deviates from their other scripts.
UPSTREAM_DATASETS: dict[str, dict[str, Any]] = {"crisismmd": {"minimum": "first_label"}}


def profile_params(profile: str = "fixed", *, dataset: str = "", **changes: Any) -> ScenarioParams:
    """A profile's parameters with changes on top.

    Args:
        profile: ``fixed``, ``paper`` or ``upstream``.
        dataset: ``data.type``; under ``upstream`` some sets have switches of their own.
        changes: fields of `ScenarioParams`.
    """
    if profile not in PROFILES:
        raise ScenarioError(f"profile {profile!r} is unknown; use one of {', '.join(PROFILES)}")
    known = [field.name for field in fields(ScenarioParams)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ScenarioError(f"scenario settings {', '.join(unknown)} are unknown; use some of {', '.join(known)}")
    own: Mapping[str, Any] = UPSTREAM_DATASETS.get(dataset, {}) if profile == "upstream" else {}
    return replace(PROFILES[profile], **{**own, **changes})
