"""Client turns side by side, in processes that share the base model's memory.

A turn is a pure function of the client, the round and the global adapter, so where it runs does not change a bit of
its result, as long as the thread count is the same. The workers are forked after the model is loaded: its pages are
shared, not copied. What goes through the pipes is safetensors and JSON.

An accelerator cannot be shared with a fork. With several of them each has a process of its own, started afresh, that
reads the data and loads the model once; the first one is this process's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
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
from fs_fedmllm.rounds.cores import available_cores
from fs_fedmllm.rounds.federation import NOTHING, Federation, Update
from fs_fedmllm.rounds.trainer import TurnLog

logger = logging.getLogger(__name__)


def useful_workers(federation: Federation) -> int:
    """Processes that help: 0 unless turns run on one CPU thread each and there are cores to spare.

    More than one thread cannot be forked safely, and an accelerator cannot be shared by a fork.
    """
    config = federation.config
    wanted = config.fedmllm.workers
    if wanted == 1 or federation.mllm.device.type != "cpu" or torch.get_num_threads() != 1 or not hasattr(os, "fork"):
        return 0
    workers = min(wanted or available_cores(), config.turns_per_round)
    return workers if workers > 1 else 0


def further_accelerators(federation: Federation) -> list[int]:
    """Indices of the accelerators that take clients beside this process's own; empty where one is all there is."""
    config, device = federation.config, federation.mllm.device
    if device.type != "cuda" or config.device >= 0 or config.model.fedmllm.device_map:
        return []  # one was chosen, or one model lies over all of them
    return spread(torch.cuda.device_count(), device.index or 0, config.fedmllm.workers, config.turns_per_round)


def spread(visible: int, own: int, wanted: int, clients: int) -> list[int]:
    """Which accelerators take clients beside this process's own.

    Args:
        visible: accelerators that there are.
        own: this process's.
        wanted: ``fedmllm.workers``: how many in all, 0 for no limit.
        clients: turns in a round; more accelerators than that would wait.
    """
    others = [index for index in range(visible) if index != own]
    return others[: max(0, min(wanted or visible, clients) - 1)]


def _serve_afresh(pipe: Connection, config: dict[str, Any], device: int) -> None:
    """A started process's life: the run's pieces on a device of its own (-1: the processor), then as a fork's."""
    from fs_fedmllm.config import from_mapping
    from fs_fedmllm.scenarios.federated_data import prepare_data

    own = dataclasses.replace(from_mapping(config), device=device)
    try:
        federation = Federation.build(own, prepare_data(own))
    except FedMLLMError as error:
        pipe.send_bytes(str(error).encode())
        return
    _serve(pipe, federation, ())


def _pack(tensors: Mapping[str, torch.Tensor]) -> bytes:
    # A pipe cannot tell an empty message from none; most clients keep nothing between turns.
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}) if tensors else b""


def _unpack(data: bytes) -> dict[str, torch.Tensor]:
    return load(data) if data else {}


def _serve(pipe: Connection, federation: Federation, inherited: Sequence[Connection]) -> None:
    """A worker's life: a turn for every request, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    for other in inherited:  # the parent's ends: while a worker holds one, no worker sees a killed parent's go away
        other.close()
    try:
        # Autograd refuses to work in a fork of a process that has used it; the parent then runs turns itself.
        torch.zeros(1, requires_grad=True).sum().backward()
    except RuntimeError:
        pipe.send_bytes(b"no")
        return
    pipe.send_bytes(b"ok")
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            request = json.loads(pipe.recv_bytes())
            state = load(pipe.recv_bytes())
            carried = _unpack(pipe.recv_bytes())
            answer: dict[str, Any]
            data = kept = b""
            try:
                update = federation.client_turn(request["client"], request["round"], state, carried)
                answer = {"rows": update.rows, "log": dataclasses.asdict(update.log), "names": list(update.state)}
                data, kept = _pack(update.state), _pack(update.client_state)
            except UpdateError as error:
                answer = {"refused": str(error)}
            except FedMLLMError as error:
                answer = {"told": str(error)}
            except Exception as error:  # the parent raises it
                answer = {"failed": f"{type(error).__name__}: {error}"}
            pipe.send_bytes(json.dumps(answer).encode())
            pipe.send_bytes(data)
            pipe.send_bytes(kept)
    os._exit(0)


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
def _told(client: int, round_index: int) -> Iterator[None]:
    """A worker that is gone is an error that says what to do."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise FedMLLMError(
            f"The process that ran client {client}'s turn in round {round_index} ended (killed, or out of memory?). "
            "The same command resumes; fedmllm.workers 1 runs turns in one process."
        ) from error


class TurnPool:
    """Workers of one run; a context manager.

    Args:
        federation: built, and not yet used for training in this process.
        workers: number of forked processes; 0 lets the caller run every turn itself.
        accelerators: instead of forks, a process on each of these devices; this process takes turns too.

    Raises:
        FedMLLMError: a process on an accelerator cannot load the model.
    """

    def __init__(self, federation: Federation, workers: int, accelerators: Sequence[int] = ()):
        self._federation = federation
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._takes_turns = bool(accelerators)
        if accelerators:
            self._start(accelerators)
            return
        context = multiprocessing.get_context("fork") if workers else None
        try:
            for _ in range(workers):
                assert context is not None
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, federation, [*self._pipes, ours]), daemon=True)
                with _interrupts_wait():
                    process.start()
                    theirs.close()
                    self._pipes.append(ours)
                    self._processes.append(process)
        except KeyboardInterrupt:
            self.close(at_once=True)
            raise
        if any(pipe.recv_bytes() != b"ok" for pipe in self._pipes):
            logger.info("This process has trained before, so client turns run one after the other.")
            self.close()

    def _start(self, accelerators: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        config = to_mapping(self._federation.config)
        for device in accelerators:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve_afresh, args=(theirs, config, device), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe, device in zip(self._pipes, accelerators, strict=True):
            try:
                answer = pipe.recv_bytes()
            except EOFError:
                answer = b"it ended while it started"
            if answer != b"ok":
                self.close()
                raise FedMLLMError(f"The process for accelerator {device} cannot take clients: {answer.decode()}")

    def turns(
        self,
        clients: Sequence[int],
        round_index: int,
        state: Mapping[str, torch.Tensor],
        carried: Mapping[int, Mapping[str, torch.Tensor]] = MappingProxyType({}),
    ) -> Iterator[Update | tuple[int, UpdateError]]:
        """The clients' turns, in the order of ``clients``.

        Args:
            clients: ascending ids.
            round_index: the round.
            state: what the server sends, see ``Federation.broadcast``.
            carried: what each client keeps from its last turn.

        Yields:
            Each client's update, or its id and why its training failed.
        """
        if not self._pipes:
            for client in clients:
                yield self._own_turn(client, round_index, state, carried)
            return
        adapter = _pack(state)
        width = len(self._pipes) + self._takes_turns
        for start in range(0, len(clients), width):
            batch = clients[start : start + width]
            for pipe, client in zip(self._pipes, batch, strict=False):
                with _told(client, round_index):
                    pipe.send_bytes(json.dumps({"client": client, "round": round_index}).encode())
                    pipe.send_bytes(adapter)
                    pipe.send_bytes(_pack(carried.get(client, NOTHING)))
            ours = [self._own_turn(client, round_index, state, carried) for client in batch[len(self._pipes) :]]
            for pipe, client in zip(self._pipes, batch, strict=False):
                with _told(client, round_index):
                    answer = json.loads(pipe.recv_bytes())
                    data, kept = pipe.recv_bytes(), pipe.recv_bytes()
                if "told" in answer:
                    raise FedMLLMError(answer["told"])
                if "failed" in answer:
                    raise RuntimeError(f"the turn of client {client} failed in its process: {answer['failed']}")
                if "refused" in answer:
                    yield client, UpdateError(answer["refused"])
                    continue
                loaded = _unpack(data)
                update = {name: loaded[name] for name in answer["names"]}
                yield Update(client, answer["rows"], update, TurnLog(**answer["log"]), _unpack(kept))
            yield from ours

    def _own_turn(
        self,
        client: int,
        round_index: int,
        state: Mapping[str, torch.Tensor],
        carried: Mapping[int, Mapping[str, torch.Tensor]],
    ) -> Update | tuple[int, UpdateError]:
        try:
            return self._federation.client_turn(client, round_index, state, carried.get(client, NOTHING))
        except UpdateError as error:
            return client, error

    def close(self, *, at_once: bool = False) -> None:
        """End the workers.

        Args:
            at_once: do not let them finish their turns.
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

    def __enter__(self) -> TurnPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self.close(at_once=kind is not None)
