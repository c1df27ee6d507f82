"""The learning rate across rounds and within a round (FedMLLM, supplement; spec of the authors' code)."""

from __future__ import annotations

import math


def round_lr(base: float, round_index: int, horizon: int, warmup_ratio: float, *, clamp: bool = True) -> float:
    """Learning rate of a round: linear warm-up, then a cosine to 0 at the horizon.

    Args:
        base: the configured learning rate, b.
        round_index: t, from 0.
        horizon: T, rounds over which the cosine falls; runs may stop earlier.
        warmup_ratio: share of the horizon with warm-up; w = ratio * T may be a fraction of a round.
        clamp: keep the warm-up at or below ``base``. The authors' code does not: with w = 0.5 its round 0 runs
            at twice the base.
    """
    warmup = warmup_ratio * horizon
    if round_index < warmup:
        rate = base * (round_index + 1) / warmup
        return min(rate, base) if clamp else rate
    if round_index >= horizon:
        return 0.0
    return 0.5 * base * (1 + math.cos(math.pi * (round_index - warmup) / (horizon - warmup)))


def step_lr(peak: float, step: int, steps: int, *, inner: str = "constant") -> float:
    """Learning rate of one optimizer step inside a client's update.

    Args:
        peak: the round's learning rate.
        step: index of the step, from 0.
        steps: number of steps in the update.
        inner: ``constant``, or ``cosine`` (the authors' second warm-up from 0 and cosine to 0: the first step is
            a no-op and a client with a single step never moves).
    """
    if inner == "constant":
        return peak
    warmup = math.ceil(0.01 * steps)
    if step < warmup:
        return peak * step / max(1, warmup)
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
