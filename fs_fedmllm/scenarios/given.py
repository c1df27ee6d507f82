"""Given: the clients that the data itself has, one for each value of a column, with a scenario's missingness on top.

Nobody draws who gets which rows. What rows show is as they are, or, with ``scenario``, what missing, cross or hybrid
leave of it, drawn client by client as there.
"""

from __future__ import annotations

from dataclasses import replace

from fs_fedmllm.config.open_names import DRAWN
from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios.aligned import aligned
from fs_fedmllm.scenarios.cross import cross
from fs_fedmllm.scenarios.hybrid import hybrid
from fs_fedmllm.scenarios.missing import missing
from fs_fedmllm.scenarios.natural_clients import NaturalClients
from fs_fedmllm.scenarios.rows import Assignment, BlindClientError, Rows
from fs_fedmllm.scenarios.switches import ScenarioParams

_ON_TOP = {"aligned": aligned, "missing": missing, "cross": cross, "hybrid": hybrid}


def given(rows: Rows, clients: int, params: ScenarioParams, run_seed: int) -> Assignment:
    """One client for each value of ``params.client``, in the order of their names.

    Raises:
        ScenarioError: see :class:`NaturalClients`; ``clients`` is not their number; or the scenario on top deals rows
            that have one modality each by what they show, which is not what the column says.
    """
    found = NaturalClients.of(rows, column_of(params))
    if clients != len(found.names):
        raise ScenarioError(
            f"federate.client_num is {clients}, and the training rows have {len(found.names):,} values of "
            f"{params.client!r}, each a client; leave federate.client_num out, or correct it"
        )
    above = params.scenario or "aligned"
    if above not in _ON_TOP:
        raise ScenarioError(
            f"data.splitter_args: scenario is {above!r}; with data.splitter fedmllm_given it is one of "
            f"{', '.join(DRAWN)}, or left out"
        )
    if rows.unpaired and above in ("cross", "hybrid"):
        raise ScenarioError(
            f"data.splitter_args: scenario {above} deals rows that have an image or a text by which of the two they "
            f"have, and no row has both, so clients would not be those of {params.client!r}; leave scenario out"
        )
    try:
        return replace(_ON_TOP[above](rows, clients, params, run_seed), names=found.names)
    except BlindClientError as error:
        raise ScenarioError(f"{found.names[error.client - 1]!r}, {error}") from error


def count_clients(rows: Rows, params: ScenarioParams) -> int:
    """How many clients the rows make."""
    return len(NaturalClients.of(rows, column_of(params)).names)


def column_of(params: ScenarioParams) -> str:
    """The column that says which client a row belongs to.

    Raises:
        ScenarioError: none is named.
    """
    if not isinstance(params.client, str) or not params.client.strip():
        raise ScenarioError(
            "data.splitter fedmllm_given needs the column that says which client a row belongs to, such as "
            "data.splitter_args: [{client: hospital}]"
        )
    return params.client
