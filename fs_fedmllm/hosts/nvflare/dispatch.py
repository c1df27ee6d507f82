"""The server's desk, played by NVFlare's tasks: what waits for a client becomes a task, its result an answer.

The round loop and the desk are those of every distributed run. On our own wire a client calls and waits at the desk;
here this module calls for it, once its site is known, and hands the task to NVFlare. Who answered is what NVFlare's
certificates say, never what a message says.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from fs_fedmllm.config.network import NetworkConfig
from fs_fedmllm.distributed import protocol as p
from fs_fedmllm.distributed.answering import place_of
from fs_fedmllm.distributed.contracts import NO_TENSORS, Contract, FrameLimits
from fs_fedmllm.distributed.desk import Desk
from fs_fedmllm.distributed.errors import FrameError
from fs_fedmllm.distributed.messages import Message, shown
from fs_fedmllm.distributed.open_phase import OpenPhase
from fs_fedmllm.hosts.nvflare.payload import unpack
from fs_fedmllm.hosts.nvflare.server_log import shows_another
from fs_fedmllm.hosts.nvflare.site import FINISH, JOIN
from fs_fedmllm.hosts.nvflare.told import takes_no_part
from fs_fedmllm.rounds.wire import wire_bytes

logger = logging.getLogger("fs_fedmllm.nvflare")

#: NVFlare gives a job to the sites that are connected when it begins, and to nobody later.
NOT_THERE = (
    "{site} takes no part: it was not connected when NVFlare began the job. Start NVFlare there (startup/start.sh of "
    "its kit), and submit the job again."
)
#: A site that has the job, and whose process does not come: it has died, hangs, or cannot reach the server.
NOT_BEGUN = (
    "{site} takes no part: NVFlare has given it the job, and for {seconds:g} seconds its process has not asked for a "
    "task. log.txt of the job in its kit says whether it reaches the server and what it does; fs-fedmllm doctor "
    "--nvflare KIT examines the kit. Correct that, or raise fedmllm.network.begin_timeout if it is only slow, and "
    "submit the job again."
)
#: A site whose process has come, and which does not say what it has.
NOT_JOINED = (
    "{site} takes no part: its process has asked for its first task, and for {seconds:g} seconds has not answered. "
    "The run.log of its client and log.txt of the job in its kit say what it does: it may load its rows or base, or "
    "what it sends is lost. Correct that, or raise fedmllm.network.join_timeout if it is only slow, and submit the "
    "job again."
)


class Carrier(Protocol):
    """A way to the sites; the controller is one."""

    def hand_out(
        self, site: str, message: Message, back: Callable[[str, Any], None], fetched: Callable[[], None]
    ) -> Any:
        """Give a site a task; ``fetched`` is called when it has come for it, ``back`` with the site and its answer."""

    def take_back(self, task: Any) -> None:
        """Nobody waits for the task any more."""


class Dispatch:
    """Plays the clients of all sites at the desk.

    Args:
        desk: of the run.
        sites: site by its certificate's name -> ids of its clients.
        carrier: to the sites.
        limits: the largest message that is taken.
        settings: ``fedmllm.network``.
        there: sites that NVFlare has given the job to; None for all of them.
        foreign: sites whose name somebody uses with another one's certificate, and whose that is. As anybody with a
            certificate can do that, those that join in time are not asked about.
        clock: monotonic seconds.

    Attributes:
        received: bytes of tensors that came.
        sent: bytes of tensors that went.
    """

    def __init__(
        self,
        desk: Desk,
        sites: Mapping[str, Sequence[int]],
        carrier: Carrier,
        limits: FrameLimits,
        settings: NetworkConfig,
        there: Collection[str] | None = None,
        foreign: Callable[[], Mapping[str, str]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._desk = desk
        self._sites = {site: list(clients) for site, clients in sites.items()}
        self._site_of = {client: site for site, clients in sites.items() for client in clients}
        self._carrier = carrier
        self._limits = limits
        self._there = set(sites if there is None else there)
        self._settings = settings
        self._foreign = foreign
        self._clock = clock
        self._awaited: dict[str, float] = {}  # sites that have not joined yet, and since when they may
        self._begun: set[str] = set()  # those of them that have come for their first task
        self._held: dict[int, Any] = {}
        self._asked: set[str] = set()  # sites that have a task "join" and have not answered it
        self._known: set[str] = set()  # sites that have joined once
        self._ended = threading.Event()
        self._counting = threading.Lock()
        self._one = threading.Lock()  # so many updates are read into memory at a time
        self.received = self.sent = 0

    # What goes out ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Ask every site who is there, then hand out tasks until the run has ended; a thread's life."""
        for site, clients in self._sites.items():
            if site in self._there:
                self._awaited[site] = self._clock()
                self._ask(site)
                continue
            for client in clients:
                self._desk.turn_away(client, NOT_THERE.format(site=site), away=True)
        current: OpenPhase | None = None
        out: dict[int, Any] = {}
        while not self._ended.is_set():
            self._leave_behind()
            with self._desk.news:
                opened, final = self._desk.opened, self._desk.final
                todo = [] if opened is None else [c for c in opened.clients if c not in out or opened is not current]
                if opened is current and not todo and final is None:
                    self._desk.news.wait(0.5)
                    continue
            if opened is not current:
                for task in out.values():  # of a phase that is over; who is still at it hears so when it is done
                    self._carrier.take_back(task)
                current, out = opened, {}
                self._ask_the_lost()
            for client in todo:
                out[client] = self._give(client)
            if final is not None:
                self._farewell(final)
                return

    def end(self) -> None:
        """The run has ended, well or not."""
        self._ended.set()
        self._desk.wake()

    def _ask(self, site: str) -> None:
        self._asked.add(site)
        self._hand_out(site, Message(JOIN), self._joined)

    def _no_longer_awaited(self, site: str) -> bool:
        """Strike a site off; whether it was awaited."""
        return self._awaited.pop(site, None) is not None

    def _leave_behind(self) -> None:
        """Nobody waits any longer for sites that do not come; one that does later joins all the same."""
        begin, join = self._settings.begin_timeout, self._settings.join_timeout
        waited = {site: self._clock() - since for site, since in list(self._awaited.items())}
        late = {site: seconds for site, seconds in waited.items() if seconds >= begin}
        foreign = self._foreign() if late else {}
        for site, seconds in late.items():
            if site in foreign:
                says = shows_another(site, foreign[site])
            elif site not in self._begun:
                says = NOT_BEGUN.format(site=site, seconds=begin)
            elif seconds >= join:
                says = NOT_JOINED.format(site=site, seconds=join)
            else:
                continue
            if self._no_longer_awaited(site):
                logger.error("%s", says)
                for client in self._sites[site]:
                    self._desk.turn_away(client, says)

    def _ask_the_lost(self) -> None:
        """Ask a site that missed its deadline again who is there: NVFlare's sites only come for tasks."""
        for site in self._known - self._asked:
            if not all(self._desk.is_there(client) for client in self._sites[site]):
                self._ask(site)

    def _give(self, client: int) -> Any:
        """Fetch a client's task from the desk, as the client itself would, and hand it out."""
        request = Message(p.NEXT, {"client": client, "wait": 0.0, "held": self._held.get(client)})
        task = self._desk.handle(client, request)
        if task.kind != p.TASK:  # the phase has ended in this moment
            return None
        header = {**task.header, "client": client}
        return self._hand_out(
            self._site_of[client], Message(p.TASK, header, task.tensors), self._answered(client, task)
        )

    def _farewell(self, final: Message) -> None:
        for site, clients in self._sites.items():
            for client in clients:
                if self._desk.is_there(client):
                    message = Message(FINISH, {**final.header, "client": client}, final.tensors)
                    self._hand_out(site, message, self._left(client))

    def _hand_out(self, site: str, message: Message, back: Callable[[str, Any], None]) -> Any:
        with self._counting:
            self.sent += wire_bytes(message.tensors)
        return self._carrier.hand_out(site, message, back, lambda: self._fetched(site))

    def _fetched(self, site: str) -> None:
        """A site has come for a task."""
        self._begun.add(site)

    # Sites that go and come -------------------------------------------------------------------------------------

    def lost(self, site: str) -> None:
        """NVFlare says that a site is gone: rounds do not wait for its clients' deadline."""
        for client in self._sites.get(site, ()):
            if not self._desk.is_there(client):
                continue
            opened = self._desk.opened
            if opened is not None and client in opened.clients and client not in opened.answered:
                failed = {**opened.place, "client": client, "failed": "its site is gone"}
                self._desk.handle(client, Message(p.ANSWER, failed))
            self._desk.handle(client, Message(p.LEAVE, {"client": client, "why": "its site is gone"}))

    def found(self, site: str) -> None:
        """NVFlare says that a site is back: it is asked who is there."""
        if site in self._known:
            self._ask(site)

    # What comes back --------------------------------------------------------------------------------------------

    def _read(self, result: Any, contract: Callable[[str, Mapping[str, Any]], Contract]) -> Message:
        message = unpack(result, contract, self._limits)
        with self._counting:
            self.received += wire_bytes(message.tensors)
        return message

    def _joined(self, site: str, result: Any) -> None:
        """A site has said who is there."""
        self._asked.discard(site)
        self._no_longer_awaited(site)
        try:
            message = self._read(result, lambda kind, header: NO_TENSORS)
            if "failed" in message.header:
                raise p.ProtocolError(p.text(message.header, "failed"))
            said = message.header.get("clients")
            if not isinstance(said, dict):
                raise p.ProtocolError("clients must be a mapping.")
        except (FrameError, p.ProtocolError) as error:
            for client in self._sites.get(site, ()):
                self._desk.turn_away(client, takes_no_part(site, str(error)))
            return
        for client in self._sites.get(site, ()):
            own = said.get(str(client))
            if not isinstance(own, dict):
                self._desk.turn_away(client, takes_no_part(site, f"it does not have client {client}"))
                continue
            held = own.pop("held", None)
            answer = self._desk.handle(client, Message(p.JOIN, {**own, "client": client}))
            if answer.kind == p.WELCOME:
                self._held[client] = held
                self._known.add(site)
            else:
                says = takes_no_part(site, str(answer.header.get("says")).rstrip("."))
                logger.error("%s", says)
                self._desk.turn_away(client, says)

    def _answered(self, client: int, task: Message) -> Callable[[str, Any], None]:
        place = place_of(task)

        def back(site: str, result: Any) -> None:
            if client not in self._sites.get(site, ()):
                logger.error("%s answered for client %d, which is not there.", shown(site), client)
                return
            with self._one:
                take(result)

        def take(result: Any) -> None:
            try:
                message = self._read(result, self._desk.contract)
                if "failed" in message.header:
                    raise p.ProtocolError(p.text(message.header, "failed"))
                if message.kind != p.ANSWER or any(message.header.get(name) != place[name] for name in place):
                    raise p.ProtocolError("it answered something else than it was asked for")
            except (FrameError, p.ProtocolError) as error:
                message = Message(p.ANSWER, {**place, "failed": str(error)})
            # The task is bound to the site, and the client to the task: what the answer says of itself is checked
            # against that, not taken for it.
            self._desk.handle(client, Message(p.ANSWER, {**message.header, "client": client}, message.tensors))

        return back

    def _left(self, client: int) -> Callable[[str, Any], None]:
        def back(site: str, result: Any) -> None:
            self._desk.handle(client, Message(p.LEAVE, {"client": client, "why": "finished"}))

        return back
