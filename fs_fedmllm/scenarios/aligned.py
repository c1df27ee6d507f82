"""Aligned: every client has both modalities; only the labels are skewed (FedMLLM, section 3.1)."""

from __future__ import annotations

from fs_fedmllm.scenarios.partition import partition
from fs_fedmllm.scenarios.rows import Assignment, Rows, whole
from fs_fedmllm.scenarios.switches import ScenarioParams


def aligned(rows: Rows, clients: int, params: ScenarioParams, run_seed: int) -> Assignment:
    """The Dirichlet partition, nothing masked."""
    seed = params.seed_of(run_seed)
    return whole(rows, partition(rows, clients, params, seed), seed)
