"""Client updates side by side, in processes that share the base model's memory.

An update is a pure function of the client, the round and what the server sent, so where it runs does not change a bit
of its result, as long as the thread count is the same. The workers are forked after the model is loaded: its pages are
shared, not copied. Tensors go through the pipes as safetensors.

An accelerator cannot be shared with a fork. With several of them each has a process of its own, started afresh, that
reads the data and loads the model once; the first one is this process's.

Why not ``concurrent.futures.ProcessPoolExecutor``: a run ends at Ctrl-C and goes on after kill -9, and

* before Python 3.14 an executor cannot end a call that is under way, and a client's training may take an hour;
* its forks hold the writing end of the queue that they read, so those of a killed run wait for ever, each with the
  memory of a model; a pipe of their own closes with the process that made it;
* it takes every call at once and keeps every result until it is asked for, where here one update of each worker is in
  memory. To work around these takes more than the pipes do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load, save

from fs_fedmllm.config import to_mapping
from fs_fedmllm.errors import FedMLLMError, UpdateError
from fs_fedmllm.rounds.client import ClientSide
from fs_fedmllm.rounds.client_update import NOTHING, ClientUpdate, FailedUpdate
from fs_fedmllm.rounds.cores import available_cores
from fs_fedmllm.rounds.federation import Federation

logger = logging.getLogger(__name__)

#: The arguments of ``ClientSide.attempt``: a client, the round, what the server sent, and what the client kept.
Asked = tuple[int, int, Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]


def useful_workers(federation: Federation) -> int:
    """Processes that help: 0 unless updates run on one CPU thread each and there are cores to spare.

    More than one thread cannot be forked safely, and an accelerator cannot be shared by a fork.
    """
    config = federation.config
    wanted = config.fedmllm.workers
    if wanted == 1 or federation.mllm.device.type != "cpu" or torch.get_num_threads() != 1 or not hasattr(os, "fork"):
        return 0
    workers = min(wanted or available_cores(), config.updates_per_round)
    return workers if workers > 1 else 0


def further_accelerators(federation: Federation) -> list[int]:
    """Indices of the accelerators that take clients beside this process's own; empty where one is all there is."""
    config, device = federation.config, federation.mllm.device
    if device.type != "cuda" or config.device >= 0 or config.model.fedmllm.device_map:
        return []  # one was chosen, or one model lies over all of them
    return spread(torch.cuda.device_count(), device.index or 0, config.fedmllm.workers, config.updates_per_round)


def spread(visible: int, own: int, wanted: int, clients: int) -> list[int]:
    """Which accelerators take clients beside this process's own.

    Args:
        visible: accelerators that there are.
        own: this process's.
        wanted: ``fedmllm.workers``: how many in all, 0 for no limit.
        clients: updates in a round; more accelerators than that would wait.
    """
    others = [index for index in range(visible) if index != own]
    return others[: max(0, min(wanted or visible, clients) - 1)]


# In a worker --------------------------------------------------------------------------------------------------------


def _serve_afresh(pipe: Connection, config: dict[str, Any], device: int) -> None:
    """A started process's life: the run's pieces on a device of its own (-1: the processor), then as a fork's."""
    from fs_fedmllm.config import from_mapping
    from fs_fedmllm.scenarios.federated_data import prepare_data

    own = from_mapping(config)
    evaluates_nothing = dataclasses.replace(own.fedmllm, test_sets={})
    own = dataclasses.replace(own, device=device, fedmllm=evaluates_nothing)
    try:
        federation = Federation.build(own, prepare_data(own))
    except FedMLLMError as error:
        pipe.send(str(error))
        return
    _serve(pipe, federation, ())


def _serve(pipe: Connection, federation: Federation, inherited: Sequence[Connection]) -> None:
    """A worker's life: an update for every request, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    for other in inherited:  # the parent's ends: while a worker holds one, no worker sees a killed parent's go away
        other.close()
    try:
        # Autograd refuses to work in a fork of a process that has used it; the parent then does everything itself.
        torch.zeros(1, requires_grad=True).sum().backward()
    except RuntimeError:
        pipe.send("it has trained before")
        return
    pipe.send("")
    clients = federation.clients
    with contextlib.suppress(EOFError, ConnectionError):  # reset, where an answer is left unread
        while True:
            pipe.send(_answer(clients, *pipe.recv()))
    os._exit(0)


def _answer(clients: ClientSide, client: int, round_index: int, message: bytes, state: bytes) -> tuple[str, Any]:
    try:
        update = clients.update(client, round_index, _unpack(message), _unpack(state))
    except UpdateError as error:
        return "refused", str(error)
    except FedMLLMError as error:
        return "told", str(error)
    except Exception as error:  # the parent raises it
        return "failed", f"{type(error).__name__}: {error}"
    return "update", (update.rows, update.log, list(update.state), _pack(update.state), _pack(update.client_state))


# In the parent ------------------------------------------------------------------------------------------------------


def _result(client: int, kind: str, value: Any) -> ClientUpdate | FailedUpdate:
    if kind == "told":
        raise FedMLLMError(value)
    if kind == "failed":
        raise RuntimeError(f"the update of client {client} failed in its process: {value}")
    if kind == "refused":
        return FailedUpdate(client, value)
    rows, log, names, state, client_state = value
    tensors = _unpack(state)
    return ClientUpdate(client, rows, {name: tensors[name] for name in names}, log, _unpack(client_state))


def _pack(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}) if tensors else b""


def _unpack(data: bytes) -> dict[str, torch.Tensor]:
    return load(data) if data else {}


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C that comes within is delivered at the end.

    A fork runs hooks of Python and of libraries in this process; an exception inside one is printed and dropped, and
    with it the interrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _told(process: str) -> Iterator[None]:
    """A worker that is gone is an error that says what to do."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise FedMLLMError(
            f"{process} ended (killed, or out of memory?). The same command resumes; fedmllm.workers 1 computes every "
            "update in one process."
        ) from error


def _computing(client: int, round_index: int) -> str:
    return f"The process that computed client {client}'s update in round {round_index}"


class WorkerPool:
    """Workers of one run; a context manager.

    Args:
        federation: built, and not yet used for training in this process.
        workers: number of forked processes; 0 lets the caller compute every update itself.
        accelerators: instead of forks, a process on each of these devices; this process computes updates too.

    Raises:
        FedMLLMError: a process on an accelerator cannot load the model.
    """

    def __init__(self, federation: Federation, workers: int, accelerators: Sequence[int] = ()):
        self._federation = federation
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._helps = bool(accelerators)
        if accelerators:
            config = to_mapping(federation.config)
            for device in accelerators:
                self._start("spawn", _serve_afresh, config, device)
            self._await_models(accelerators)
            return
        try:
            for _ in range(workers):
                with _interrupts_wait():
                    self._start("fork", _serve, federation)
        except KeyboardInterrupt:
            self.close(at_once=True)
            raise
        with _told("A process that is to compute clients' updates"):
            trained_before = any(pipe.recv() for pipe in self._pipes)
        if trained_before:
            logger.info("This process has trained before, so client updates are computed one after the other.")
            self.close()

    def _start(self, method: str, life: Any, *arguments: Any) -> None:
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        if method == "fork":
            arguments = (*arguments, [*self._pipes, ours])
        process = context.Process(target=life, args=(theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        self._pipes.append(ours)
        self._processes.append(process)

    def _await_models(self, accelerators: Sequence[int]) -> None:
        for pipe, device in zip(self._pipes, accelerators, strict=True):
            try:
                problem = pipe.recv()
            except EOFError:
                problem = "it ended while it started"
            if problem:
                self.close()
                raise FedMLLMError(f"The process for accelerator {device} cannot take clients: {problem}")

    def updates(
        self,
        clients: Sequence[int],
        round_index: int,
        message: Mapping[str, torch.Tensor],
        client_states: Mapping[int, Mapping[str, torch.Tensor]] = MappingProxyType({}),
    ) -> Iterator[ClientUpdate | FailedUpdate]:
        """The clients' updates, in the order of ``clients``; at most one of each worker is in memory.

        Yields:
            Each client's update, or why there is none.
        """
        return self.compute([(c, round_index, message, client_states.get(c, NOTHING)) for c in clients])

    def compute(self, asked: Sequence[Asked]) -> Iterator[ClientUpdate | FailedUpdate]:
        """Updates of which each may be of another round, in their order; at most one of each worker is in memory.

        Yields:
            Each update, or why there is none.
        """
        sent: tuple[Mapping[str, torch.Tensor] | None, bytes] = (None, b"")
        width = len(self._pipes) + (self._helps or not self._pipes)
        clients = self._federation.clients
        for start in range(0, len(asked), width):
            batch = asked[start : start + width]
            for pipe, (client, round_index, message, kept) in zip(self._pipes, batch, strict=False):
                if sent[0] is not message:
                    sent = message, _pack(message)
                with _told(_computing(client, round_index)):
                    pipe.send((client, round_index, sent[1], _pack(kept)))
            ours = [clients.attempt(*own) for own in batch[len(self._pipes) :]]
            for pipe, (client, round_index, _, _) in zip(self._pipes, batch, strict=False):
                with _told(_computing(client, round_index)):
                    answer = pipe.recv()
                yield _result(client, *answer)
            yield from ours

    def close(self, *, at_once: bool = False) -> None:
        """End the workers.

        Args:
            at_once: do not let them finish their updates.
        """
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if at_once:
                process.terminate()
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
        self._pipes, self._processes = [], []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self.close(at_once=kind is not None)
