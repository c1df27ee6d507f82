"""NVFlare in a test, without its processes: tasks go to sites in threads, through its own serialisation."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from nvflare.apis.shareable import Shareable
from nvflare.fuel.utils import fobs
from waiting import LONG

from fs_fedmllm.distributed.contracts import ANY_TENSORS
from fs_fedmllm.distributed.messages import Message
from fs_fedmllm.hosts.nvflare.payload import pack, prepare, unpack

#: What a site does with a task.
Work = Callable[[Message], Message]


class Sites:
    """Carries tasks to sites, one after the other at each, as NVFlare does.

    Args:
        work: what each site does, by its name.
        come: sites that come for their tasks once this is set.
    """

    def __init__(self, work: Mapping[str, Work], come: Mapping[str, threading.Event]):
        prepare()
        self._work = work
        self._come = come
        self._tasks: dict[str, queue.Queue[Any]] = {site: queue.Queue() for site in work}
        self._back: set[int] = set()
        self.given: list[tuple[str, Message]] = []
        for site in work:
            threading.Thread(target=self._live, args=(site,), daemon=True).start()

    def hand_out(
        self, site: str, message: Message, back: Callable[[str, Any], None], fetched: Callable[[], None]
    ) -> int:
        """Give a site a task."""
        self.given.append((site, message))
        task = len(self.given)
        self._tasks[site].put((task, fobs.dumps(pack(message)), back, fetched))
        return task

    def take_back(self, task: int | None) -> None:
        """A task that nobody waits for any more: its result is dropped."""
        if task is not None:
            self._back.add(task)

    def _live(self, site: str) -> None:
        while True:
            task, data, back, fetched = self._tasks[site].get()
            if task in self._back:
                continue
            if site in self._come:
                self._come[site].wait(LONG)
            fetched()
            answer = self._work[site](unpack(fobs.loads(data), lambda kind, header: ANY_TENSORS))
            if task not in self._back:
                found: Shareable = fobs.loads(fobs.dumps(pack(answer)))
                back(site, found)
