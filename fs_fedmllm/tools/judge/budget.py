"""Tokens, their price, and the ceiling that a run does not pass."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fs_fedmllm.tools.judge.config import JudgeConfig


@dataclass(frozen=True)
class Usage:
    """Tokens of one or more requests."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.completion + other.completion)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.prompt - other.prompt, self.completion - other.completion)

    @property
    def total(self) -> int:
        """Prompt and reply together."""
        return self.prompt + self.completion

    def cost(self, config: JudgeConfig) -> float | None:
        """In the currency of the prices; None without prices."""
        if config.price_in is None or config.price_out is None:
            return None
        return (self.prompt * config.price_in + self.completion * config.price_out) / 1e6


class Budget:
    """Reserves the most a request can cost before it is sent, and keeps what it did cost.

    Args:
        config: prices and ceilings.
        spent: what the rows at hand have cost in earlier runs.
    """

    def __init__(self, config: JudgeConfig, spent: Usage):
        self.config = config
        self.spent = spent
        self._reserved = Usage()
        self._in_flight = 0
        self._changed = asyncio.Condition()

    async def reserve(self, bound: Usage) -> bool:
        """Set ``bound`` aside. Waits while requests in flight may still leave room; False if there is none."""
        async with self._changed:
            while not self._fits(bound):
                if not self._in_flight:
                    return False
                await self._changed.wait()
            self._reserved += bound
            self._in_flight += 1
            return True

    async def settle(self, bound: Usage, actual: Usage) -> None:
        """Replace a reservation by what was used."""
        async with self._changed:
            self._reserved -= bound
            self._in_flight -= 1
            self.spent += actual
            self._changed.notify_all()

    def _fits(self, bound: Usage) -> bool:
        after = self.spent + self._reserved + bound
        cost = after.cost(self.config)
        if self.config.max_cost is not None and cost is not None and cost > self.config.max_cost + 1e-12:
            return False
        return self.config.max_total_tokens is None or after.total <= self.config.max_total_tokens
