"""One site of a run across machines, from its configuration to its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fs_fedmllm.config import Config
from fs_fedmllm.distributed.agreement import common_digest
from fs_fedmllm.distributed.roles import client_data, server_data, site_config
from fs_fedmllm.distributed.service import serve, take_part
from fs_fedmllm.extras import check_extras
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.console import closing_table
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.log_file import log_in
from fs_fedmllm.runs.opening import look_ahead
from fs_fedmllm.runs.run_folder import check_copy, check_output, claimed, claimed_by_client
from fs_fedmllm.runs.session import Session
from fs_fedmllm.scenarios.federated_data import FederatedData


def run_server(
    config: Config, *, listener: Listener | None = None, started: float | None = None, label: str = ""
) -> str:
    """The server of a distributed run, until its end or until it is asked to stop.

    Args:
        config: of the site.
        listener: shows progress.
        started: when the command started, for the time split.
        label: name of the configuration, for the run folder's name where there is no ``expname``.

    Returns:
        What to say of the end.

    Raises:
        FedMLLMError: bad configuration, data, certificates or model; see :func:`fs_fedmllm.distributed.service.serve`.
    """
    check_extras(config)
    check_output(config.outdir)
    check_copy(config.federate.save_to)
    config = site_config(config)
    with claimed(config, label, common_digest(config)) as folder:
        data = server_data(config)
        with log_in(folder.path):
            look_ahead(config, folder.path, data)
            session = Session(Federation.build(config, data), folder, listener, started)
            return end_of_server(session, serve(session, data))


def run_client(config: Config, client: int = 0, *, label: str = "") -> str:
    """One client of a distributed run, until its end or until it is asked to stop.

    Args:
        config: of the site.
        client: id; 0 takes the one that the site's folder names.
        label: as for :func:`run_server`.

    Returns:
        What to say of the end.

    Raises:
        FedMLLMError: as :func:`run_server`; see :func:`fs_fedmllm.distributed.service.take_part`.
    """
    check_extras(config, evaluates=False)
    check_output(config.outdir)
    config = site_config(config)
    client, data = client_data(config, client)
    with (
        claimed_by_client(config, client, label, common_digest(config)) as folder,
        log_in(folder.path),
    ):
        return work(config, client, data, Federation.build(config, data), folder.path)


def work(config: Config, client: int, data: FederatedData, federation: Federation, folder: Path) -> str:
    """Take part with a model that is loaded; what to say of the end."""
    federation.shortened_rows()  # said once, and a row that is too long is refused before the site joins
    figures = take_part(config, client, data, federation, folder)
    return end_of_client(folder, figures)


def end_of_server(session: Session, results: dict[str, Any] | None) -> str:
    """What a server says at its end; without results it was asked to stop."""
    if results is None:
        return f"stopped after round {session.state.round}; the same command resumes the run"
    return closing_table(results, str(session.folder.path))


def end_of_client(folder: Path, figures: Mapping[str, Any] | None) -> str:
    """What a client says at its end; without figures it was asked to stop."""
    if figures is None:
        return "stopped; the same command resumes"
    return (
        f"finished after {figures.get('rounds')} rounds; the adapter is in {folder / 'adapter'}\n"
        f"adapter sha256: {figures.get('adapter_sha256')}"
    )
