"""The baselines that are no federation: Local, each client alone, and Global, one client that holds every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fs_fedmllm.algorithms.fedavg import FedAvg
from fs_fedmllm.algorithms.server import Method


class Local(Method):
    """Each client trains alone from the same adapter; the mean of their figures is reported."""

    name: ClassVar[str] = "local"
    federated: ClassVar[bool] = False
    has_global: ClassVar[bool] = False


@dataclass(frozen=True)
class Global(FedAvg):
    """The centralised baseline: FedAvg with one client that holds every row."""

    name: ClassVar[str] = "global"
    federated: ClassVar[bool] = False
    pooled: ClassVar[bool] = True
