"""A client's answer to a task: the one that it has kept, or a new one that it keeps before it is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.distributed import protocol as p
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.site_store import Pending, SiteStore

#: A task and what the client has kept -> the answer (header and tensors) and what it keeps from then on. What it
#: raises as an UpdateError is told to the server as the reason why there is no answer.
Handler = Callable[[Message, State], tuple[Message, State]]


def place_of(task: Message) -> dict[str, Any]:
    """What an answer to the task belongs to: phase, round, and digest of what it is computed from."""
    return {name: task.header.get(name) for name in ("phase", "round", "start")}


def kept_answer(task: Message, store: SiteStore) -> Pending | None:
    """The answer to this very task, if it was computed before."""
    pending = store.pending
    return pending if pending is not None and pending.place == place_of(task) else None


def new_answer(
    task: Message, handlers: Mapping[str, Handler], store: SiteStore, begin: Callable[[], object] = lambda: None
) -> Pending:
    """Compute an answer and keep it.

    Args:
        task: from the server.
        handlers: by the name of the task's phase.
        store: what the client keeps; it moves on if the server has used the answer before.
        begin: called once it is clear that the work begins.

    Raises:
        NetworkError: there is no handler for this phase.
        FedMLLMError: what the handler and the store raise.
    """
    place = place_of(task)
    handler = handlers.get(str(place["phase"]))
    if handler is None:
        raise p.NetworkError(
            f"The server asks for {place['phase']!r}, which this client does not know. Install the same release "
            "and the same configuration on both."
        )
    store.settle(p.whole(task.header, "taken", low=-1))
    begin()
    said, client_state = handler(task, store.client_state)
    pending = Pending(place, Message(p.ANSWER, {**said.header, **place}, said.tensors), client_state)
    store.keep(pending)
    return pending
