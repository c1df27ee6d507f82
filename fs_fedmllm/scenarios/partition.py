"""Dirichlet partition of rows over clients, by label or by any group key.

FedMLLM, section 3.1: for every label, the clients' shares are drawn from a symmetric Dirichlet
distribution with concentration alpha (Hsu et al. 2019, arXiv:1909.06335). The rest is the profile's:
``fixed`` shuffles rows within a label, rounds by largest remainder and gives every client a row;
``upstream`` replays the authors' script bit for bit (file order, the last client absorbs every
rounding, a repair that gives each client a row of every label).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from fs_fedmllm.data.joined import joined
from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios.draws import (
    ORDER,
    PROPORTIONS,
    ROWS,
    FloatArray,
    IntArray,
    generator,
    numpy_stream,
    python_stream,
    shuffled,
)
from fs_fedmllm.scenarios.natural_clients import NaturalClients
from fs_fedmllm.scenarios.rows import Rows
from fs_fedmllm.scenarios.switches import ScenarioParams
from fs_fedmllm.scenarios.units import Units, codes, deal, majority, single, split, together


def partition(rows: Rows, clients: int, params: ScenarioParams, seed: int) -> list[IntArray]:
    """Row indices of each client, every row exactly once.

    Raises:
        ScenarioError: there are too few rows for every client, or rows lack the key to group by.
    """
    if params.client is not None:
        return mix(NaturalClients.of(rows, params.client).parts(rows), params, seed)
    labels = codes(rows.values(params.by, "by"))
    units = units_of(rows, np.arange(len(rows.samples)), params)
    require(len(units), clients, params)
    labels = labels if params.keep_together is None else majority(units, labels)
    share = proportions(int(labels.max()) + 1, clients, params, seed)

    stream = generator(seed, ROWS)
    # a label that is no unit's majority has no members
    groups = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    order, owner = [], []
    for number, members in enumerate(groups):
        if params.rows_within_label == "shuffled":
            members = stream.permutation(members)
        sizes = units.sizes[members]
        order.append(members)
        owner.append(deal(sizes, targets(share[number], int(sizes.sum()), params, first=number == 0)))
    dealt, owners = np.concatenate(order), np.concatenate(owner)
    if params.minimum == "client":
        owners = give_everyone_one(dealt, owners, units, clients)
    parts = [units.expand(part) for part in split(dealt, owners, clients)]
    return mix(parts, params, seed)


def units_of(rows: Rows, indices: IntArray, params: ScenarioParams) -> Units:
    """What clients get whole: groups of ``keep_together``, or single rows."""
    if params.keep_together is None:
        return single(indices)
    values = [rows.values(key, "keep_together") for key in params.group_keys]
    # A patient and a study of one name are two things, so a key's place goes with its value.
    several = (enumerate(row) for row in zip(*values, strict=True))
    groups: Sequence[Hashable] = values[0] if len(values) == 1 else joined(several)
    return together(indices, [groups[index] for index in indices])


def require(units: int, clients: int, params: ScenarioParams, what: str = "") -> None:
    """At least one unit per client."""
    if units < clients:
        noun = (
            f"{what}rows"
            if params.keep_together is None
            else f"{what}groups of {' and '.join(map(repr, params.group_keys))}"
        )
        raise ScenarioError(f"{units} {noun} cannot give each of {clients} clients one; use at most {units} clients")


def proportions(labels: int, clients: int, params: ScenarioParams, seed: int) -> FloatArray:
    """One row of shares for each label, in order of first appearance."""
    alpha = [params.alpha] * clients
    if params.partition_draw == "upstream":
        share = numpy_stream(seed).dirichlet(alpha, size=labels)
    else:
        share = generator(seed, PROPORTIONS).dirichlet(alpha, size=labels)
    if not np.isfinite(share).all():
        raise ScenarioError(f"alpha {params.alpha} is too small to draw shares from; use 0.01 or more")
    return share


def targets(share: FloatArray, total: int, params: ScenarioParams, *, first: bool) -> IntArray:
    """How many of a label's rows each client should get."""
    exact = share * total
    counts = np.floor(exact).astype(np.int64)
    if params.remainder == "largest":
        late = np.argsort(-(exact - counts), kind="stable")
        counts[late[: total - int(counts.sum())]] += 1
    if params.minimum == "label" or (params.minimum == "first_label" and first):
        counts = repair(counts)
    if params.remainder == "last_client":
        counts[-1] = total - int(counts[:-1].sum())
    return counts


def repair(counts: IntArray) -> IntArray:
    """Give clients below one row a row of the lowest client that has more than one, until none is below."""
    counts = counts.copy()
    while (counts < 1).any():
        for client in np.flatnonzero(counts < 1):
            donors = np.flatnonzero(counts > 1)
            if not len(donors):
                raise ScenarioError(
                    f"a label with about {int(counts.sum())} rows cannot give each of {len(counts)} clients one; "
                    "set minimum: client, or use fewer clients"
                )
            counts[client] += 1
            counts[donors[0]] -= 1
    return counts


def give_everyone_one(dealt: IntArray, owners: IntArray, units: Units, clients: int) -> IntArray:
    """Clients without a row get the last unit of the client that has the most rows and two units or more."""
    owners = owners.copy()
    held = np.bincount(owners, minlength=clients)
    rows = np.bincount(owners, weights=units.sizes[dealt], minlength=clients)
    for client in np.flatnonzero(held == 0):
        donor = int(np.argmax(np.where(held > 1, rows, -1)))
        last = int(np.flatnonzero(owners == donor)[-1])
        owners[last] = client
        for who, sign in ((donor, -1), (client, 1)):
            held[who] += sign
            rows[who] += sign * units.sizes[dealt[last]]
    return owners


def mix(parts: list[IntArray], params: ScenarioParams, seed: int) -> list[IntArray]:
    """Shuffle each client's rows; upstream with one stream over the clients in order."""
    if params.partition_draw == "upstream":
        stream = python_stream(seed)
        return [shuffled(part, stream) for part in parts]
    return [generator(seed, ORDER, client).permutation(part) for client, part in enumerate(parts)]
