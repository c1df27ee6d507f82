"""Ask for every verdict that the cache does not hold, a bounded number at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from fs_fedmllm.tools.judge.budget import Budget, Usage
from fs_fedmllm.tools.judge.cache import Reply, VerdictCache
from fs_fedmllm.tools.judge.config import MAX_TOKENS, SEED, TEMPERATURE, JudgeConfig, JudgeError
from fs_fedmllm.tools.judge.prompts import Step, steps
from fs_fedmllm.tools.judge.report import JudgeReport, RowVerdict
from fs_fedmllm.tools.judge.request import Answered, Endpoint, Hopeless, Refused, Troubled, prompt_bound
from fs_fedmllm.tools.judge.rows import JudgeRow, verdict_key

#: Replies to one row: the first, and one more if that cannot be read.
ASKED = 2

_LONGEST_BACKOFF_S = 60.0

#: Rows refused in every form, or failed one after the other, before the endpoint and not the row is at fault.
_PROBES = 3

Progress = Callable[[int, int], None]


def judge_answers(rows: Iterable[JudgeRow], config: JudgeConfig, progress: Progress | None = None) -> JudgeReport:
    """Grade answers, from the cache where it has them.

    Args:
        rows: what to grade. Rows of equal content are asked once.
        config: the judge and its limits.
        progress: called with (rows settled, rows) after each verdict.

    Returns:
        The report. If it was ``stopped``, or rows ``failed``, the same call goes on where it ended.

    Raises:
        JudgeError: no request can succeed (key, model, credit), or the cache cannot be used. What was paid for is in
            the cache.
    """
    with VerdictCache(config.cache) as cache:
        run = _Run(list(rows), config, cache, progress or (lambda done, total: None))
        asyncio.run(run.finish())
        return run.report()


class _Run:
    def __init__(self, rows: list[JudgeRow], config: JudgeConfig, cache: VerdictCache, progress: Progress):
        self.rows = rows
        self.config = config
        self.cache = cache
        self.progress = progress
        self.started = time.monotonic()
        self.jitter = random.Random(SEED)
        self.steps = steps(config.prompt)
        known = [step.output for step in self.steps]
        every = self.every = {key for step in self.steps for key in self._keys(step)}
        self.budget = Budget(config, cache.spent(every) + cache.unconfirmed(every))
        recorded = cache.output(config.model) if len(known) > 1 else ""
        self.choose(self.steps[known.index(recorded)] if recorded in known else self.steps[0])
        self.before = {key for key in every if self.settled(key)}
        self.open = 0
        self.endpoint: Endpoint | None = None
        self.failed: dict[str, str] = {}
        self.stopped = ""
        self.hopeless = ""
        self.not_before = 0.0
        self.streak = 0
        self.requests = 0
        self.retries = 0

    def choose(self, step: Step) -> None:
        """Ask by this protocol from now on; the keys follow, since the wording is part of them."""
        self.step = step
        self.keys = self._keys(step)
        self.contents = dict(zip(self.keys, self.rows, strict=True))

    def _version(self, name: str) -> str:
        return f"{name} temperature={TEMPERATURE} seed={SEED}"

    def _keys(self, step: Step) -> list[str]:
        return [verdict_key(self.config.model, self._version(step.protocol.version(row)), row) for row in self.rows]

    def settled(self, key: str) -> bool:
        """Whether the row needs no further request."""
        replies = self.cache.replies(key)
        return len(replies) >= ASKED or any(reply.verdict is not None for reply in replies)

    async def finish(self) -> None:
        """Ask until every row is settled, or the run has to stop."""
        if not self._waiting():
            return
        self.endpoint = Endpoint(self.config)
        try:
            await self._probe()
            waiting = self._waiting()
            self.open = len(waiting)
            queue = iter(waiting)
            await asyncio.gather(*(self._work(queue) for _ in range(self.config.concurrency)))
        finally:
            await self.endpoint.close()
        if self.hopeless:
            kept = sum(self.settled(key) for key in self.contents)
            raise JudgeError(
                f"The judge cannot be asked: {self.hopeless}. {kept} of {len(self.contents)} verdicts are in "
                f"{self.cache.path}; run again to go on from there."
            )

    def _waiting(self) -> list[str]:
        return [key for key in self.contents if key not in self.failed and not self.settled(key)]

    async def _probe(self) -> None:
        """One request alone: it finds the form of output, and a wrong key costs one request and not many."""
        first, reason = self.steps.index(self.step), ""
        for _ in range(_PROBES):
            for step in self.steps[first:]:
                self.choose(step)
                waiting = self._waiting()
                if not waiting:
                    return
                refused = await self._settle(waiting[0])
                if not refused:
                    break
            if self.stopped or self.hopeless:
                return
            place = self.keys.index(waiting[0])
            if self.settled(waiting[0]):
                if len(self.steps) > 1:
                    self.cache.note_output(self.config.model, self.step.output)
                return
            # Nothing was learnt: every form was refused (too long, filtered, or the endpoint's fault), or no reply.
            reason = refused or self.failed[waiting[0]]
            self.choose(self.steps[first])
            self.failed[self.keys[place]] = reason
        self.hopeless = f"{_PROBES} rows one after the other got no verdict: {reason}"

    async def _work(self, queue: Iterator[str]) -> None:
        for key in queue:
            if self.stopped or self.hopeless:
                return
            refused = await self._settle(key)
            if refused:
                self.failed[key] = refused
            self.open -= 1
            self.progress(len(self.contents) - self.open, len(self.contents))

    async def _settle(self, key: str) -> str:
        """Ask about one row until it is settled; returns why the endpoint refuses it, or nothing."""
        tries = 0
        while not self.settled(key):
            await self._pause(self.not_before - time.monotonic())
            if self.stopped or self.hopeless:
                return ""
            outcome = await self._request(key)
            if outcome is None or isinstance(outcome, Answered):
                continue
            if isinstance(outcome, Refused):
                return outcome.what
            if isinstance(outcome, Hopeless):
                self.hopeless = outcome.what
                return ""
            if outcome.wait_s is not None and outcome.wait_s > self.config.longest_wait_s:
                self.stopped = f"the endpoint asks to wait {outcome.wait_s:.0f} s ({outcome.what})"
                return ""
            if tries == self.config.max_retries:
                self.failed[key] = f"given up after {tries + 1} requests: {outcome.what}"
                self.streak += 1
                if self.streak >= _PROBES:
                    self.stopped = f"{self.streak} rows one after the other got no reply: {outcome.what}"
                return ""
            if outcome.wait_s is not None:  # a limit on the account: it holds for every worker
                self.not_before = max(self.not_before, time.monotonic() + outcome.wait_s)
            else:
                wait = min(self.config.first_wait_s * 2**tries, _LONGEST_BACKOFF_S)
                await self._pause(wait * (1 - self.jitter.random() / 4))
            tries += 1
            self.retries += 1
        return ""

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _request(self, key: str) -> Answered | Troubled | Refused | Hopeless | None:
        """One request, reserved before and accounted for after; None if the ceiling forbids it."""
        assert self.endpoint is not None
        row = self.contents[key]
        body = self.endpoint.body(self.step, self.step.protocol.messages(row), SEED + len(self.cache.replies(key)))
        bound = Usage(prompt_bound(body), MAX_TOKENS)
        if not await self.budget.reserve(bound):
            self.stopped = "the ceiling on cost or tokens is reached"
            return None
        number = self.cache.sent(key, bound)
        self.requests += 1
        outcome = await self.endpoint.ask(body, f"{key}-{len(self.cache.replies(key)) + 1}")
        if isinstance(outcome, Answered):
            self.streak = 0
            usage = outcome.usage if outcome.usage is not None else bound
            verdict = self.step.protocol.read(outcome.text)
            self.cache.reply(key, number, Reply(verdict, outcome.text, usage, outcome.served, outcome.usage is None))
            await self.budget.settle(bound, usage)
        elif outcome.status:
            self.cache.unbilled(key, number, outcome.status)
            await self.budget.settle(bound, Usage())
        else:
            await self.budget.settle(bound, bound)
        return outcome

    def report(self) -> JudgeReport:
        verdicts = tuple(self._verdict(key, row) for key, row in zip(self.keys, self.rows, strict=True))
        served = Counter(self.cache.replies(key)[-1].served for key in self.keys if self.cache.replies(key))
        usage, unconfirmed = self.cache.spent(self.every), self.cache.unconfirmed(self.every)
        return JudgeReport(
            model=self.config.model,
            prompt=self._version(self.step.protocol.name),
            output=self.step.output,
            verdicts=verdicts,
            stopped=self.stopped,
            requests=self.requests,
            retries=self.retries,
            usage=usage,
            unconfirmed=unconfirmed,
            cost=usage.cost(self.config),
            unconfirmed_cost=unconfirmed.cost(self.config),
            served=dict(served),
            seconds=time.monotonic() - self.started,
        )

    def _verdict(self, key: str, row: JudgeRow) -> RowVerdict:
        replies = self.cache.replies(key)
        if not self.settled(key):
            state, text = ("failed", self.failed[key]) if key in self.failed else ("not_asked", self.stopped)
        else:
            last = replies[-1]
            state = "unparsable" if last.verdict is None else "correct" if last.verdict else "wrong"
            text = last.text
        return RowVerdict(row.id, row.kind, state, text, key in self.before)
