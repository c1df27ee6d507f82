"""The federated run as plain code: the reference semantics, and the embedded engine.

adapter <- seeded LoRA
for each round: draw clients; each loads the adapter, trains, and gives its own back;
                the server steps along the weighted mean of the differences
"""

from __future__ import annotations

from typing import Any

from fs_fedmllm.algorithms import State
from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Dataset
from fs_fedmllm.extras import check_extras
from fs_fedmllm.rounds.client_update import FailedUpdate
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.schedule import evaluation_due
from fs_fedmllm.rounds.workers import WorkerPool, further_accelerators, useful_workers
from fs_fedmllm.runs.listener import Listener
from fs_fedmllm.runs.opening import look_ahead
from fs_fedmllm.runs.run_folder import RunFolder, check_copy, check_output, claimed
from fs_fedmllm.runs.session import Session
from fs_fedmllm.scenarios.federated_data import counted, prepare_data


def run(
    config: Config,
    *,
    listener: Listener | None = None,
    started: float | None = None,
    label: str = "",
    dataset: Dataset | None = None,
) -> tuple[dict[str, Any], RunFolder]:
    """Run a configuration on the embedded engine.

    Args:
        config: what to run.
        listener: shows progress.
        started: when the command started, for the time split.
        label: name of the configuration, for the run folder's name.
        dataset: where it was read already, to count its clients.

    Returns:
        The results (as in results.json) and the run folder.

    Raises:
        FedMLLMError: bad configuration, data, model or updates.
    """
    check_extras(config)
    check_output(config.outdir)
    check_copy(config.federate.save_to)
    if config.counts_clients:
        config, dataset = counted(config)
    with claimed(config, label) as folder:
        data = prepare_data(config, dataset)
        look_ahead(config, folder.path, data)
        federation = Federation.build(config, data)
        session = Session(federation, folder, listener, started)
        if not config.method.has_global:
            _run_local(session)
        else:
            _run_rounds(session)
        return session.close(), folder


def _run_rounds(session: Session) -> None:
    session.zero_shot()
    federation, total = session.federation, session.config.federate.total_round_num
    with WorkerPool(federation, useful_workers(federation), further_accelerators(federation)) as pool:
        while session.state.round < total:
            _run_round(session, pool)
            if evaluation_due(session.config, session.state.round):
                session.evaluate()
            session.checkpoint()


def _run_round(session: Session, pool: WorkerPool) -> None:
    current = session.begin_round()
    if session.buffered is not None:
        while asked := session.next_updates():
            for update in pool.compute(asked):
                session.take(update)
        session.end_round()
        return
    for update in pool.updates(current.clients, current.index, current.message, session.state.clients):
        session.take(update)
    session.end_round()


def _run_local(session: Session) -> None:
    """The baseline Local: each client trains alone; reported is the uniform mean of the clients' metrics."""
    clients = session.federation.clients
    session.zero_shot()
    total = session.config.federate.total_round_num
    trained: dict[int, State] = {}
    for client in sorted(clients.rows):
        session.state.round = 0
        trained[client] = session.state.params
        while session.state.round < total:
            update = clients.attempt(client, session.state.round, trained[client])
            session.take(update)
            if isinstance(update, FailedUpdate):
                break  # named and recorded; the client's last good adapter stands
            trained[client] = update.state
            session.state.round += 1
    session.state.round = total
    session.evaluate(trained)
