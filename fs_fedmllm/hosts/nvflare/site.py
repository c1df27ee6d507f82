"""The clients of one site, without NVFlare: what they hold, what they answer, and where they keep it.

It runs in a process of its own (:mod:`fs_fedmllm.hosts.nvflare.site_process`), so that training which is killed does
not take NVFlare's process, and with it the job, along.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fs_fedmllm.config import Config
from fs_fedmllm.distributed import protocol as p
from fs_fedmllm.distributed.agreement import common_digest
from fs_fedmllm.distributed.answering import Handler, kept_answer, new_answer, place_of
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.journal import Journal, StatusFile
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.distributed.roles import client_data, introduction
from fs_fedmllm.distributed.service import handlers_of, store_of, write_last
from fs_fedmllm.distributed.site_store import SiteStore
from fs_fedmllm.extras import check_extras
from fs_fedmllm.rounds.federation import Federation
from fs_fedmllm.runs.log_file import log_in
from fs_fedmllm.runs.run_folder import check_output, claimed_by_client
from fs_fedmllm.scenarios.federated_data import FederatedData

#: What a site is asked beside the phases of a round.
JOIN, FINISH = "join", "finish"


@dataclass
class SiteClient:
    """One client of the site."""

    data: FederatedData
    folder: Path
    store: SiteStore
    handlers: Mapping[str, Handler]
    journal: Journal
    status: StatusFile

    @classmethod
    def of(
        cls,
        config: Config,
        client: int,
        data: FederatedData,
        folder: Path,
        federation: Federation,
        identity: Identity,
    ) -> SiteClient:
        """A client that goes on from what its folder holds.

        Raises:
            ConfigError: the folder holds another run's state, or a damaged one.
        """
        store = store_of(config, client, data, folder)
        handlers = handlers_of(config, client, federation, folder, identity)
        return cls(data, folder, store, handlers, Journal(folder, f"client {client}"), StatusFile(folder))


@dataclass(frozen=True, eq=False)
class Site:
    """The clients of one site; they share one model.

    Attributes:
        config: of the site.
        clients: by id, with what they have and where they keep it.
        federation: trains.
    """

    config: Config
    clients: Mapping[int, SiteClient]
    federation: Federation

    def answer(self, message: Message) -> Message:
        """What the site says to a message of the server's.

        Args:
            message: of kind ``join``, ``task`` or ``finish``.

        Raises:
            FedMLLMError: as in every run; a client's UpdateError becomes its answer.
        """
        if message.kind == JOIN:
            return self._introduce()
        client = p.whole(message.header, "client", low=1)
        if client not in self.clients:
            raise p.ProtocolError(f"Client {client} is not at this site, which has {sorted(self.clients)}.")
        own = self.clients[client]
        if message.kind == FINISH:
            return self._finish(client, own, message)
        if message.kind != p.TASK:
            raise p.ProtocolError(f"There is no request {message.kind!r}.")
        return self._work(client, own, message)

    def _introduce(self) -> Message:
        """Who is here, with what; and the answers that are still in hand from before a restart."""
        said = {}
        for client, own in self.clients.items():
            held = own.store.pending.place if own.store.pending else None
            said[str(client)] = {**introduction(self.config, client, own.data), "held": held}
            own.journal.write("joined")
            own.status.write(_status(client, "waiting"), now=True)
        return Message("introduced", {"clients": said})

    def _work(self, client: int, own: SiteClient, task: Message) -> Message:
        place = place_of(task)
        figures = {"round": place["round"], "phase": place["phase"]}
        pending = kept_answer(task, own.store)
        if pending is None:
            own.status.write(_status(client, str(place["phase"]), place["round"]), now=True)
            own.journal.write("task", **figures)
            pending = new_answer(task, own.handlers, own.store)
        own.journal.write("delivers", **figures)
        own.status.write(_status(client, "waiting", place["round"]), now=True)
        answer = pending.answer
        return Message(p.ANSWER, {**answer.header, "client": client}, answer.tensors)

    def _finish(self, client: int, own: SiteClient, final: Message) -> Message:
        write_last(own.folder, self.federation, final)
        own.store.clear()
        own.journal.write("finished", adapter_sha256=final.header.get("adapter_sha256"))
        own.status.write(_status(client, "finished", final.header.get("rounds")), now=True)
        return Message(p.LEAVE, {"client": client, "why": "finished"})


def _status(client: int, doing: str, round_index: object = None) -> dict[str, object]:
    return {"site": f"client {client}", "doing": doing, "round": round_index, "rounds": None, "last_error": ""}


@contextlib.contextmanager
def opened(config: Config, identities: Mapping[int, Identity], label: str) -> Iterator[Site]:
    """The site, with its folders held for this process alone.

    Args:
        config: of the site.
        identities: the site's clients by id, with what they sign with.
        label: name of the configuration, for the run folder's name where there is no ``expname``.

    Raises:
        FedMLLMError: bad configuration, data or model; or another process has a client's folder.
    """
    clients = list(identities)
    check_extras(config, evaluates=False)
    check_output(config.outdir)
    with contextlib.ExitStack() as stack:
        name = common_digest(config)
        folders = {c: stack.enter_context(claimed_by_client(config, c, label, name)) for c in clients}
        stack.enter_context(log_in(next(iter(folders.values())).path))
        data = {client: client_data(config, client)[1] for client in clients}
        first = data[clients[0]]
        together = dataclasses.replace(first, clients={client: data[client].clients[client] for client in clients})
        federation = Federation.build(config, together)
        federation.shortened_rows()
        own = {c: SiteClient.of(config, c, data[c], folders[c].path, federation, identities[c]) for c in clients}
        yield Site(config, own, federation)
