"""The federated run as plain code: the reference semantics, and the embedded engine.

adapter <- seeded LoRA
for each round: draw clients; each loads the adapter, trains, and gives its own back;
                the server steps along the weighted mean of the differences
"""

from __future__ import annotations

from typing import Any

from fs_fedmllm.algorithms import State
from fs_fedmllm.config import Config
from fs_fedmllm.extras import check_extras
from fs_fedmllm.hub.ahead import check_hub
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.rounds.workers import TurnPool, further_accelerators, useful_workers
from fs_fedmllm.runs.resumption import announce
from fs_fedmllm.runs.run_folder import RunFolder, check_copy, check_output, claimed
from fs_fedmllm.runs.session import Listener, Session, Silent
from fs_fedmllm.scenarios.federated_data import prepare_data


def run(
    config: Config, *, listener: Listener | None = None, started: float | None = None, label: str = ""
) -> tuple[dict[str, Any], RunFolder]:
    """Run a configuration on the embedded engine.

    Args:
        config: what to run.
        listener: shows progress.
        started: when the command started, for the time split.
        label: name of the configuration, for the run folder's name.

    Returns:
        The results (as in results.json) and the run folder.

    Raises:
        FedMLLMError: bad configuration, data, model or updates.
    """
    check_extras(config)
    check_output(config.outdir)
    check_copy(config.federate.save_to)
    with claimed(config, label) as folder:
        data = prepare_data(config)
        announce(folder.path, config, data)
        check_hub(config, folder.path)
        federation = Federation.build(config, data)
        session = Session(federation, folder, listener or Silent(), started)
        if not config.method.has_global:
            _run_local(session)
        else:
            _run_rounds(session)
        return session.close(), folder


def _run_rounds(session: Session) -> None:
    session.zero_shot()
    total = session.config.federate.total_round_num
    federation = session.federation
    with TurnPool(federation, useful_workers(federation), further_accelerators(federation)) as pool:
        while session.state.round < total:
            clients = session.begin_round()
            for outcome in pool.turns(clients, session.state.round, session.broadcast, session.state.clients):
                session.take(outcome)
            session.end_round(len(clients))
            if session.evaluation_due():
                session.evaluate(session.state.round)
            session.checkpoint()


def _run_local(session: Session) -> None:
    """The baseline Local: each client trains alone; reported is the uniform mean of the clients' metrics."""
    federation = session.federation
    session.zero_shot()
    total = session.config.federate.total_round_num
    trained: dict[int, State] = {}
    for client in sorted(federation.data.clients):
        session.state.round = 0
        trained[client] = session.params
        while session.state.round < total:
            update = session.turn(client, trained[client])
            if update is None:
                break  # named and recorded; the client's last good adapter stands
            trained[client] = update.state
            session.state.round += 1
    session.state.round = total
    session.evaluate_local(trained)
