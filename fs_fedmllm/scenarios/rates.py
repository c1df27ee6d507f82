"""Missing rates of a split: what the scenario's level says, and what was measured on the rows that clients got.

The two differ by design in places. Under ``missing_both: keep_one`` a row never loses both modalities, so each is
missing at rate beta - beta^2 / 2; in cross and hybrid the level speaks of clients, and clients differ in size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeGuard

from fs_fedmllm.config.open_names import DRAWN
from fs_fedmllm.data.sample import MODALITIES
from fs_fedmllm.keys import is_number

#: No split has so many rows or clients; a manifest may come from anybody, and its integers may have any length.
MOST = 2**53


def nominal_rates(scenario: str, params: Mapping[str, Any], clients: int) -> dict[str, float]:
    """Share that lacks each modality by the scenario's level: of rows in missing, of clients in cross and hybrid.

    Args:
        scenario: its name; of one that another package brings nothing is known.
        params: as in the manifest.
        clients: how many there are.
    """
    if scenario == "given":  # what its column says takes nothing away; a scenario on top may
        above = params.get("scenario") or "aligned"
        return nominal_rates(above, params, clients) if above in DRAWN else {}
    if scenario == "aligned":
        return dict.fromkeys(MODALITIES, 0.0)
    if scenario == "missing" and _number(params.get("beta")):
        return dict.fromkeys(MODALITIES, float(params["beta"]))
    if scenario == "hybrid" and _number(params.get("p")):
        return dict.fromkeys(MODALITIES, round(1 - float(params["p"]), 12))
    if scenario == "cross" and clients:
        image, text = params.get("image_clients"), params.get("text_clients")
        if _number(image):
            return {"image": (clients - image) / clients, "text": image / clients}
        if _number(text):
            return {"image": text / clients, "text": (clients - text) / clients}
    return {}


def _number(value: Any) -> TypeGuard[float]:
    return is_number(value) and -MOST <= value <= MOST


def measured_rates(presences: Iterable[Mapping[str, int]]) -> dict[str, float]:
    """Share of all clients' rows that lacks each modality.

    Args:
        presences: of each client, rows by what they show (both, image, text, neither).

    Returns:
        Modality -> share; empty where there are no rows, or a count is none.
    """
    counts = dict.fromkeys(("both", *MODALITIES, "neither"), 0)
    for presence in presences:
        for name in counts:
            count = presence.get(name, 0)
            if not isinstance(count, int) or not 0 <= count <= MOST:
                return {}
            counts[name] += count
    total = sum(counts.values())
    return {name: 1 - (counts["both"] + counts[name]) / total for name in MODALITIES} if total else {}


def in_no_row(name: str, measured: Mapping[str, float], tested: Mapping[str, int]) -> bool:
    """Whether neither a training row of any client nor a test row has a modality, so that nobody could lack it.

    A row's own question is none: VQA-RAD, whose rows are an image and a question each, has no texts.

    Args:
        name: of the modality.
        measured: rates, as :func:`measured_rates` gives them.
        tested: test rows by what they show; they lose nothing. Empty where that is not known.
    """
    return measured.get(name) == 1 and any(tested.values()) and not any(tested.get(c) for c in ("both", name))


def said_rates(rates: Mapping[str, Mapping[str, float]], tested: Mapping[str, int] = MappingProxyType({})) -> str:
    """Both rates of each modality as text; empty where nothing is missing or nothing was measured.

    Args:
        rates: nominal and measured, by modality.
        tested: as for :func:`in_no_row`.
    """
    nominal, measured = rates.get("nominal") or {}, rates.get("measured") or {}
    if not any((*nominal.values(), *measured.values())):
        return ""
    said = []
    for name in MODALITIES:
        if in_no_row(name, measured, tested):
            aside = " (a question is none)" if name == "text" else ""
            said.append(f"{name} in no training row and no evaluated test row{aside}")
        elif name in measured:
            level = f"{100 * nominal[name]:.1f} %" if name in nominal else "not known"
            said.append(f"{name} {level} nominal, {100 * measured[name]:.1f} % measured")
    return "; ".join(said)
