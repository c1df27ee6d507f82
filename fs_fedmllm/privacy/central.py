"""Client-level differential privacy of a run, with a trusted server: draws, noise, and what they add up to.

Algorithm 1 of McMahan et al. (ICLR 2018) with the estimator of fixed divisor; the server optimizer steps along the
noisy mean, so every server optimizer is post-processing and spends nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fs_fedmllm.algorithms.state import State
from fs_fedmllm.config.privacy import DPConfig
from fs_fedmllm.privacy.accountant import Bound, Release, bound, hollow, solve_noise
from fs_fedmllm.privacy.ledger import Ledger
from fs_fedmllm.privacy.noise import add_noise
from fs_fedmllm.privacy.sampling import draw

logger = logging.getLogger(__name__)

_SAMPLING = {
    "full": "every client in every round, no amplification",
    "fixed": "a fixed number of clients without replacement, drawn in secret",
    "poisson": "each client by itself with the same probability, drawn in secret",
}


class CentralPrivacy:
    """A run's differential privacy.

    Args:
        dp: ``fedmllm.privacy.dp``, with a ``clip_norm`` above 0.
        clients: clients in the federation.
        sampled: clients in a round by configuration.
        ledger: file of the releases.
        left: rounds that are still to be run.
        done: rounds that the run's checkpoint holds.

    Raises:
        PrivacyError: the accountant's library is missing, the ledger is damaged, or the budget is spent.
    """

    def __init__(self, dp: DPConfig, clients: int, sampled: int, ledger: Path, *, left: int, done: int):
        self._dp = dp
        self._clients = clients
        self._expected = sampled
        self.delta = dp.delta or clients**-1.1
        self._ledger = Ledger(ledger, self.delta, dp.accountant)
        like = Release(dp.noise_multiplier, self._expected, clients, dp.sampling)
        if dp.target_epsilon and left > 0:
            # Rounds that are taken again after a crash cost, and the remaining ones get the more noise.
            solved = solve_noise(
                dp.target_epsilon, self.delta, left, like, self._ledger.releases, accountant=dp.accountant
            )
            like = Release(solved, self._expected, clients, dp.sampling)
        self._next = like
        self._told = False
        planned = self._bound([*self._ledger.releases, *[like] * left])
        logger.warning(
            "Differential privacy: epsilon %.4g at delta %.3g after all rounds (noise multiplier %.4g, clip norm %g); "
            "neighbouring: %s; sampling: %s; clients weigh equally; accountant: %s%s. Noise and draws come from "
            "the operating system, so this run cannot be repeated to the same bytes.",
            *(planned.epsilon, self.delta, like.noise_multiplier, dp.clip_norm, like.neighbouring),
            *(_SAMPLING[like.mechanism], planned.accountant or dp.accountant, hollow(planned.epsilon, self.delta)),
        )
        if len(self._ledger.releases) > done:
            logger.warning(
                "%d rounds were released twice because the run was interrupted; epsilon counts them.",
                len(self._ledger.releases) - done,
            )

    def draw_clients(self) -> list[int]:
        """The next round's clients, in secret; a round that is taken again draws anew."""
        return draw(self._clients, self._expected, self._dp.sampling)

    def release(self, round_index: int, mean: State) -> State:
        """The noisy mean of a round, entered in the ledger first.

        Args:
            round_index: from 0.
            mean: name -> sum of clipped deltas over the expected number of clients.

        Returns:
            name -> float32 tensor.
        """
        self._ledger.append(round_index, self._next)
        return add_noise(mean, self._next.noise_multiplier * self._dp.clip_norm / self._expected)

    def epsilon(self) -> float:
        """Epsilon of everything released so far."""
        return self._bound(self._ledger.releases).epsilon

    def _bound(self, releases: list[Release]) -> Bound:
        return bound(releases, self.delta, accountant=self._dp.accountant)

    def spent(self) -> dict[str, float]:
        """What everything released so far amounts to, for a status: epsilon, its delta, and how many releases."""
        return {"epsilon": self.epsilon(), "delta": self.delta, "releases": len(self._ledger.releases)}

    def report(self) -> dict[str, Any]:
        """What results.json says: epsilon and every assumption that it rests on."""
        releases = self._ledger.releases
        found = self._bound(releases)
        return {
            "epsilon": found.epsilon,
            "delta": self.delta,
            "neighbouring": self._next.neighbouring,
            "sampling": _SAMPLING[self._next.mechanism],
            "sampling_rate": self._expected / self._clients,
            "clip_norm": self._dp.clip_norm,
            "noise_multipliers": sorted({release.noise_multiplier for release in releases}),
            "releases": len(releases),
            "accountant": found.accountant,
            "weighting": "uniform, divided by the expected number of clients",
            "unit": "a client's whole data set",
            "covers": "the adapters of all rounds; not metrics.jsonl, refusals, the manifest, or other runs",
            "trusted": "the server",
            "reproducible_bytes": False,
        }
